"""What decides the numbers of a training besides the optimizer, read from the live model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import nn

from hf_transfer.models.rebuilding import vision_config
from hf_transfer.utils.foreign import configured, stated

_LOSSES: Mapping[str | None, str] = {
    "regression": "mean squared error",
    "multi_label_classification": "binary cross-entropy",
}
_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}


def loss_of(model: nn.Module) -> str:
    """The loss that a classifier of transformers computes by itself: `config.problem_type` chooses it."""
    return _LOSSES.get(configured(model, "problem_type"), "cross-entropy")


def precision_of(model: nn.Module, autocast: str | None) -> str:
    """The type of the weights, and that of the arithmetic where it is another one.

    Args:
        model: After training.
        autocast: "bf16" or "fp16"; None without mixed precision.
    """
    types = sorted({_NAMES.get(p.dtype, str(p.dtype)) for p in model.parameters() if p.is_floating_point()})
    stored = ", ".join(types)
    return stored if autocast in (None, stored) else f"{autocast}, weights in {stored}"


def dropout_of(model: nn.Module) -> dict[str, list[float]]:
    """Kind of dropout to its probabilities, without those of 0: the least and the greatest.

    Dropout of attention is no module in most models of transformers, and is read from the configuration.
    """
    found: dict[str, set[float]] = defaultdict(set)
    for module in model.modules():
        kind = type(module).__name__
        if "drop" in kind.lower():
            found[kind.removeprefix(_prefix(kind))].add(_probability(module))
    settings = vision_config(model)
    for name, value in (settings.to_dict() if hasattr(settings, "to_dict") else {}).items():
        if "att" in name and "drop" in name and isinstance(value, int | float):
            found[name].add(float(value))
    ranges = {kind: sorted({min(values), max(values)}) for kind, values in sorted(found.items()) if max(values) > 0}
    return {kind: [round(value, 6) for value in values] for kind, values in ranges.items()}


def _probability(module: nn.Module) -> float:
    """The probability of a module that drops; timm and transformers name it in two ways."""
    found = stated(module, ("p", "drop_prob")).values()
    return next((float(value) for value in found if isinstance(value, int | float)), 0.0)


def _prefix(kind: str) -> str:
    """What transformers puts before "DropPath" in the name of a class: the name of the model."""
    return kind.partition("Drop")[0] if "DropPath" in kind else ""
