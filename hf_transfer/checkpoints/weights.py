"""Weights of a checkpoint, restored under the names that the model has."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME


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
