"""Checks of models that were adapted: what is saved is an ordinary checkpoint with the same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from transformers import AutoModelForImageClassification

from hf_transfer.models.timm_interop import complete_timm_config, is_timm_wrapper, strip_timm_prefix


def randomise(model: nn.Module) -> nn.Module:
    """Weights large enough that every one of them shows in the output; norms and tables are not all 0 or 1."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, images: torch.Tensor, **options: Any) -> torch.Tensor:
    output = model.eval()(images, **options)
    return getattr(output, "logits", output)


def images_of(size: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(5))


def check_loads_alone(model: nn.Module, folder: Path, images: torch.Tensor) -> None:
    """transformers, and timm where the model is its, load the saved model with the same logits."""
    expected = logits(model, images)
    if hasattr(model, "save_pretrained"):
        complete_timm_config(model)
        model.save_pretrained(folder)
        strip_timm_prefix(folder)
        assert torch.equal(logits(AutoModelForImageClassification.from_pretrained(folder), images), expected)
        if not is_timm_wrapper(model):
            return
    else:
        timm.models.save_for_hf(model, folder, safe_serialization=True)
    assert torch.equal(logits(timm.create_model(f"local-dir:{folder}", pretrained=True), images), expected)
