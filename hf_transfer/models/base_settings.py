"""What a base checkpoint's configuration may decide for a new task.

Whatever describes the network (sizes, activations, norms, dropout) is taken over. Whatever describes the checkpoint's
own task, its outputs or its runtime is overridden here, and the record tells it. What
cannot be trained as an image classifier is refused before any image is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import torch

from hf_transfer.errors import ModelError
from hf_transfer.utils.foreign import stated

_TASK: Mapping[str, Any] = {
    "problem_type": "single_label_classification",
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "use_cache": False,
}
"""Fields that choose the loss and the outputs, with the value that one label for each image needs."""
_DEFAULTS: Mapping[str, Any] = {"use_cache": True}
"""Values that say nothing, like None, so that nobody needs to hear that they were replaced."""
_DROPPED = ("function_to_apply", "task_specific_params", "torchscript")
"""Fields of pipelines and of old ways to store a model."""
_ATTENTION = (None, "eager", "sdpa")
"""Implementations of attention that run on every device; others are the user's choice, and not the checkpoint's."""
_NOT_OF_THE_NETWORK = frozenset(
    ("pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay", "scriptable")
    + ("exportable", "no_jit", "device", "dtype")
)
"""Arguments of `timm.create_model` that choose weights, files and runtime, and not the network."""
_USUAL_SPREAD = 0.02
"""Standard deviation of new weights in transformers."""
_LAYOUT: Mapping[str, Any] = {"data_format": "channels_first", "input_data_format": None, "device": None}
"""Settings of image processors that choose the memory's layout or the device."""


def check_settings(config: Any, name: str) -> None:
    """Refuse a configuration whose network cannot be trained as an image classifier.

    Args:
        config: As loaded.
        name: Name of the checkpoint, for the message.

    Raises:
        ModelError: The weights are quantised, or timm is told to leave the classifier out.
    """
    found = stated(config, ("quantization_config", "model_args"))
    if quantised := found["quantization_config"]:
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised
        raise ModelError(
            f"{name!r} holds quantised weights ({method or 'quantization_config'} in its config.json), which cannot "
            "be trained. Expected weights in floating point: take the checkpoint that it was quantised from."
        )
    if (found["model_args"] or {}).get("features_only"):
        raise ModelError(
            f"{name!r} is a feature extractor without a classifier (features_only in model_args of its config.json). "
            "Remove features_only, or take a checkpoint of the whole network."
        )


def settle(config: Any) -> dict[str, Any]:
    """Override what a base configuration says of its own task, outputs and runtime.

    Args:
        config: Changed in place, with its nested configurations.

    Returns:
        Field to the value that it had, for what was overridden; empty for most checkpoints.
    """
    changed: dict[str, Any] = {}
    for prefix, part in _parts(config):
        for field, value in _settle_part(part).items():
            changed[f"{prefix}{field}"] = value
    said = stated(config, ("dtype", "model_args"))
    stored, arguments = said["dtype"], said["model_args"]
    if stored not in (None, torch.float32):
        changed["dtype"] = str(stored).removeprefix("torch.")
    config.dtype = torch.float32
    if isinstance(arguments, dict):
        left_out = {key: value for key, value in arguments.items() if key in _NOT_OF_THE_NETWORK}
        config.model_args = {key: value for key, value in arguments.items() if key not in left_out}
        # Their values may be paths, which no record may hold.
        changed |= {f"model_args.{key}": "set" for key, value in left_out.items() if value}
    return changed


def settle_processor(processor: Any) -> dict[str, Any]:
    """Override what a checkpoint's image processor says of layout and device; returns as `settle`."""
    changed = {}
    for field, said in stated(processor, _LAYOUT).items():
        if said is not None and _plain(said) != _LAYOUT[field]:
            changed[f"processor.{field}"] = _plain(said)
            setattr(processor, field, _LAYOUT[field])
    return changed


def overridden_text(name: str, changed: Mapping[str, Any]) -> str:
    """One sentence that says what was overridden."""
    said = ", ".join(f"{field}: {value}" for field, value in changed.items())
    return (
        f"The configuration of {name!r} says {said}. That does not hold for the new task, which has one label for "
        "each image, and was overridden."
    )


def _settle_part(part: Any) -> dict[str, Any]:
    """Override the fields of one configuration; those that were set, with their values."""
    changed = {}
    said = stated(part, ("_attn_implementation", "initializer_range", *_TASK))
    if said["_attn_implementation"] not in _ATTENTION:
        changed["attn_implementation"] = _plain(said["_attn_implementation"])
        part._attn_implementation = None
    for field, wanted in _TASK.items():
        value = said[field]
        if value == wanted or not hasattr(part, field):
            continue
        setattr(part, field, wanted)
        if value is not None and value != _DEFAULTS.get(field):
            changed[field] = _plain(value)
    spread = said["initializer_range"]
    if isinstance(spread, int | float) and spread <= 0:  # of which nothing can be drawn
        changed["initializer_range"], part.initializer_range = spread, _USUAL_SPREAD
    for field in _DROPPED:
        value = vars(part).pop(field, None)
        if value:
            changed[field] = _plain(value)
    return changed


def _parts(config: Any) -> Iterator[tuple[str, Any]]:
    """A configuration and those nested in it, each with the prefix of its fields."""
    yield "", config
    nested = stated(config, stated(config, ("sub_configs",))["sub_configs"] or ())
    for key, inner in nested.items():
        for prefix, part in _parts(inner) if inner is not None else ():
            yield f"{key}.{prefix}", part


def _plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value.value if isinstance(value, Enum) else value)[:100]
