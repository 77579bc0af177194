"""A model made again under a changed configuration, with the weights of the old one.

Another image size, other channels and fewer layers are all this: change the configuration, so that the result is an
ordinary checkpoint, then carry every weight over, and account for each one that does not fit.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_transfer.errors import ModelError
from hf_transfer.models.origins import carry_origin
from hf_transfer.models.timm_interop import is_timm_wrapper, timm_architecture, timm_arguments
from hf_transfer.utils.foreign import config_of

# Name, old value and a new one of the wanted shape; returns what to put there, or None if it knows no way.
Fit = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor | None]


def vision_config(model: nn.Module) -> Any:
    """The part of a transformers configuration that describes the image model: CLIP and SigLIP have one inside."""
    config: Any = config_of(model)
    return getattr(config, "vision_config", config)


def remake(model: nn.Module, changes: Mapping[str, Any], device: str = "cpu") -> nn.Module:
    """Make a model of the same class again, with new weights and a changed configuration.

    Args:
        model: A model of transformers or timm; stays as it is.
        changes: Fields of the (vision) configuration, or arguments of `timm.create_model`.
        device: "meta" for the structure alone.

    Raises:
        ModelError: The model cannot be made again from a configuration.
    """
    with torch.device(device), torch.random.fork_rng(devices=[]):
        if isinstance(model, PreTrainedModel):
            made: nn.Module = type(model)(changed_config(model, changes))
        elif (name := timm_architecture(model)) is not None:
            made = _make_timm(model, name, changes)
        else:
            raise ModelError(
                f"{type(model).__name__} cannot be made again: it is neither a transformers model nor one that "
                "timm.create_model made, so that nothing says how it was built."
            )
    return made.to(next(model.parameters()).dtype).train(model.training)


def changed_config(model: PreTrainedModel, changes: Mapping[str, Any]) -> Any:
    """A copy of a model's configuration with changed fields; what follows from them is computed again."""
    config = copy.deepcopy(model.config)
    if is_timm_wrapper(model):
        config.model_args = (config.model_args or {}) | dict(changes)
        return config
    if (inner := getattr(config, "vision_config", None)) is not None:
        config.vision_config = _with_fields(inner, changes)
        return config
    return _with_fields(config, changes)


def transplant(
    source: nn.Module, target: nn.Module, fit: Fit | None = None, new: Collection[str] = ()
) -> dict[str, tuple[int, ...]]:
    """Carry the weights of one model over to another.

    Args:
        source: Where the weights come from.
        target: Changed in place.
        fit: Makes a value of the target's shape from one of another shape.
        new: Names of tensors that keep the target's own values.

    Returns:
        Name and old shape of each tensor that fits nowhere, which keeps the target's value; `()` for a tensor that the
        source does not have. Buffers that follow from the configuration, such as index tables, are not counted.
    """
    old, parameters = source.state_dict(), {name for name, _ in target.named_parameters()}
    carried: dict[str, torch.Tensor] = {}
    misfits: dict[str, tuple[int, ...]] = {}
    for name, own in target.state_dict().items():
        value = old.get(name)
        if name in new:
            value = own
        elif value is not None and value.shape != own.shape:
            value = fit(name, value, own) if fit is not None else None
        if value is None:
            value = own
            if name in parameters:
                misfits[name] = tuple(old[name].shape) if name in old else ()
        carried[name] = value
    target.load_state_dict(carried)
    carry_origin(source, target)
    trained = {name: parameter.requires_grad for name, parameter in source.named_parameters()}
    for name, parameter in target.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
    return misfits


def _with_fields(config: Any, changes: Mapping[str, Any]) -> Any:
    """Only declared fields are copied first: `num_layers` or `stage_names` of a Swin follow from its depths."""
    stated = config.to_dict()
    declared = (
        {field.name for field in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else set(stated)
    )
    changed = type(config).from_dict({k: v for k, v in stated.items() if k in declared} | dict(changes))
    for name in set(stated) - set(changed.to_dict()):
        setattr(changed, name, copy.deepcopy(getattr(config, name, None)))
    return changed


def _make_timm(model: nn.Module, name: str, changes: Mapping[str, Any]) -> nn.Module:
    import timm

    arguments: dict[str, Any] = {"num_classes": model.num_classes} | timm_arguments(model) | dict(changes)
    made: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    made.pretrained_cfg = copy.deepcopy(model.pretrained_cfg)
    return made
