"""Questions about objects of other libraries that may or may not have an answer; each is asked here alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def config_of(model: Any) -> Any:
    """The configuration of a transformers model; None for any other module."""
    return getattr(model, "config", None)


def configured(model: Any, name: str, default: Any = None) -> Any:
    """A field of a model's configuration; the default where model or configuration have none."""
    return getattr(config_of(model), name, default)


def names_in(config: Any) -> tuple[str, ...]:
    """The labels of a configuration, in the order of the class indices, which scripts often write as text."""
    id2label = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    return tuple(id2label[index] for index in sorted(id2label))


def logits_of(outputs: Any) -> Any:
    """The logits in what a classifier returned; PP-LCNet calls them `last_hidden_state`."""
    if isinstance(outputs, Mapping):
        return outputs["logits"] if "logits" in outputs else outputs["last_hidden_state"]
    return outputs[0] if isinstance(outputs, tuple | list) else outputs


def timm_inner(model: Any) -> Any:
    """The timm model inside transformers' TimmWrapper; any other model itself."""
    return getattr(model, "timm_model", model)


def timm_settings(model: Any) -> dict[str, Any]:
    """What a bare timm model, a TimmWrapper configuration or a timm processor says of its checkpoint; else empty."""
    return getattr(model, "pretrained_cfg", None) or {}


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer inside accelerate's wrapper; any other optimizer itself."""
    return getattr(optimizer, "optimizer", optimizer)


def stated(thing: Any, names: Iterable[str]) -> dict[str, Any]:
    """The values of some attributes by name; None where there is no such attribute."""
    return {name: getattr(thing, name, None) for name in names}


def is_indexed(dataset: Any) -> bool:
    """Whether a data set has a length and gives its rows by number."""
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
