"""Checkpoints that both transformers and timm can load, without hf_transfer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

PLAN_FILE = "transfer_plan.json"
_TIMM_PREFIX = "timm_model."


def is_timm_wrapper(model: nn.Module) -> bool:
    """Whether a model is transformers' wrapper around a timm model."""
    return getattr(getattr(model, "config", None), "model_type", None) == "timm_wrapper"


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
    # A configuration that was loaded with label names keeps the old ones beside a new id2label.
    config.label_names = [config.id2label[index] for index in range(config.num_labels)]
    settings = copy.deepcopy(getattr(config, "pretrained_cfg", None) or {})
    settings |= copy.deepcopy(getattr(processor, "pretrained_cfg", None) or {})
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
    temporary = path.with_suffix(".tmp")
    save_file({n.removeprefix(_TIMM_PREFIX): w for n, w in weights.items()}, temporary, metadata={"format": "pt"})
    temporary.replace(path)


def restore_weights(model: nn.Module, checkpoint: str | Path) -> None:
    """Load a checkpoint's weights into a transformers model, all of them.

    `save_pretrained` stores ViT, DINOv2 or Swin under the names of transformers 4; Trainer loads them by the names of
    transformers 5, not strictly, and leaves out what does not fit with a warning. `from_pretrained` knows both.

    Args:
        model: Changed in place; other models than transformers' own, and sharded checkpoints, are left to Trainer.
        checkpoint: A folder with `model.safetensors`.
    """
    if not isinstance(model, PreTrainedModel) or not (Path(checkpoint) / SAFE_WEIGHTS_NAME).is_file():
        return
    dtype = next(model.parameters()).dtype
    stored = type(model).from_pretrained(checkpoint, config=copy.deepcopy(model.config), dtype=dtype)
    model.load_state_dict(stored.state_dict())
