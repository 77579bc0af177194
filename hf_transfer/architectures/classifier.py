"""Where a model's classifier is: the modules that map features to labels, and nothing before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hf_transfer.utils.foreign import configured, timm_settings
from hf_transfer.utils.modules import is_inside


def classifier_paths(model: nn.Module) -> tuple[str, ...]:
    """Module paths of a timm model's classifiers; empty for a model without a head, and for other models.

    A batch normalisation inside the classifier (timm's `NormLinear`: LeViT, RepViT) is drawn again with it, hence part
    of it.
    """
    named = timm_settings(model).get("classifier") or ()
    paths = (named,) if isinstance(named, str) else tuple(named)
    found = _timms_classifier(model)
    several = isinstance(found, tuple | list)
    modules = dict(model.named_modules())
    names = [name for name, _ in model.named_parameters()]
    # The configuration of some distilled models names one of their classifiers alone.
    if several or not any(is_inside(name, paths) for name in names):
        classifiers = [module for module in (found if several else [found]) if isinstance(module, nn.Module)]
        paths += tuple(name for name, module in modules.items() if any(module is c for c in classifiers))
    parents = [path.rpartition(".")[0] for path in paths]
    whole = (up if type(modules.get(up)).__name__ == "NormLinear" else p for up, p in zip(parents, paths, strict=True))
    return tuple(path for path in dict.fromkeys(whole) if any(is_inside(name, (path,)) for name in names))


def _timms_classifier(model: nn.Module) -> Any:
    """What timm's `get_classifier` returns: a module, several, or None."""
    getter = getattr(model, "get_classifier", None)
    try:
        return getter() if callable(getter) else None
    except AttributeError:  # without a head, EfficientViT (MSRA) and SHViT look for a layer inside an Identity
        return None


def inferred_classifier_paths(model: nn.Module, units: Sequence[str]) -> tuple[str, ...]:
    """Module paths of the classifier of a model that does not declare it.

    It starts at the last layer with as many outputs as there are labels, in one of the last three units; where the
    number of labels is not known or no layer has it, at the last layer of the last unit. A unit before it whose last
    layer has the same inputs and outputs is a second classifier (distillation). Whatever follows inside the unit
    belongs to it, too.

    Args:
        model: The model; `config.num_labels` or `num_classes` tell the number of labels.
        units: Paths of its parts, in the order in which they run.
    """
    labels = configured(model, "num_labels")
    labels = getattr(model, "num_classes", None) if labels is None else labels
    if not units or labels == 0:
        return ()
    modules = dict(model.named_modules())
    last = [(unit, *_last_linear(modules[unit], unit)) for unit in reversed(units[-3:])]
    fitting = [(unit, path, shape) for unit, path, shape in last if labels and shape and shape[0] == labels]
    if not fitting:
        unit, path, _ = last[0]
        return _from(modules[unit], unit, path)
    shape = fitting[0][2]
    return tuple(p for unit, path, other in fitting if other == shape for p in _from(modules[unit], unit, path))


def _last_linear(unit: nn.Module, path: str) -> tuple[str, tuple[int, ...]]:
    """Path and weight shape of the last linear layer or convolution; the unit itself and () where it has none."""
    linear = [(n, tuple(m.weight.shape)) for n, m in unit.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    name, shape = linear[-1] if linear else ("", ())
    return (f"{path}.{name}" if name else path), shape


def _from(unit: nn.Module, unit_path: str, start: str) -> tuple[str, ...]:
    """The modules of a unit that have parameters of their own, from `start` to the end."""
    own = [
        f"{unit_path}.{name}" if name else unit_path
        for name, module in unit.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    return tuple(own[own.index(start) :]) if start in own else (unit_path,)
