"""Checkpoints that both transformers and timm can load, without hf_transfer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_transfer.utils.files import replacing
from hf_transfer.utils.foreign import configured, names_in, timm_settings

_TIMM_PREFIX = "timm_model."


def is_timm_wrapper(model: nn.Module) -> bool:
    """Whether a model is transformers' wrapper around a timm model."""
    return configured(model, "model_type") == "timm_wrapper"


def complete_timm_config(model: nn.Module, processor: Any = None) -> None:
    """Fill in what timm needs in the configuration of a TimmWrapper model.

    timm keeps the preprocessing there, and cannot read a configuration without `model_args`; other models are left
    alone.

    Args:
        model: The model that will be saved.
        processor: Its image processor, whose settings are the ones to save.
    """
    if not is_timm_wrapper(model):
        return
    config: Any = model.config
    config.model_args = config.model_args or {}
    # A configuration that was loaded with label names keeps the old ones next to a new id2label.
    config.label_names = list(names_in(config))
    settings = copy.deepcopy(timm_settings(config))
    settings |= copy.deepcopy(timm_settings(processor))
    settings.pop("num_classes", None)
    config.pretrained_cfg = settings


def strip_timm_prefix(folder: str | Path) -> None:
    """Name the weights in a saved TimmWrapper checkpoint as timm does.

    `TimmWrapper.save_pretrained` writes "timm_model.conv1.weight", which `timm.create_model("local-dir:...")` cannot
    load; transformers loads either. The file is replaced atomically.
    """
    path = Path(folder) / SAFE_WEIGHTS_NAME
    if not path.is_file():
        return
    weights = load_file(path)
    if not all(name.startswith(_TIMM_PREFIX) for name in weights):
        return
    with replacing(path) as temporary:
        save_file({n.removeprefix(_TIMM_PREFIX): w for n, w in weights.items()}, temporary, metadata={"format": "pt"})


def is_timm_model(model: nn.Module) -> bool:
    """Whether a model is of timm, bare or inside transformers' wrapper."""
    return is_timm_wrapper(model) or timm_architecture(model) is not None


def timm_architecture(model: nn.Module) -> str | None:
    """The name by which timm makes a model; None for a model of another library."""
    if is_timm_wrapper(model):
        return str(model.config.architecture)  # type: ignore[union-attr]
    name = timm_settings(model).get("architecture")
    return name if isinstance(name, str) and hasattr(model, "num_classes") else None


def timm_arguments(model: nn.Module) -> dict[str, Any]:
    """The arguments of `timm.create_model` that a model was made with, except name and number of classes."""
    if is_timm_wrapper(model):
        return dict(model.config.model_args or {})  # type: ignore[union-attr, arg-type]
    from timm.models import get_model_args

    return {name: value for name, value in get_model_args(model).items() if name != "num_classes"}
