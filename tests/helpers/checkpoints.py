"""Saved tiny checkpoints with their image processors, for tests of the whole job."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import ViTImageProcessor

from hf_transfer.models.timm_interop import complete_timm_config, strip_timm_prefix
from tests.helpers import tiny

PRETRAINED_CFG = {
    "input_size": [3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "classifier": "fc",
}


def save_vit(folder: Path) -> Path:
    """A ViT with a head for three labels."""
    tiny.vit().save_pretrained(folder)
    size = {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}
    ViTImageProcessor(size=size).save_pretrained(folder)
    return folder


def save_timm_resnet(folder: Path) -> Path:
    """A timm ResNet inside TimmWrapper, as this library saves it."""
    model: nn.Module = tiny.timm_wrapper("resnet18")
    model.config.pretrained_cfg = dict(PRETRAINED_CFG)
    complete_timm_config(model)
    model.save_pretrained(folder)
    strip_timm_prefix(folder)
    return folder
