"""Choice of the memory layout of a model's convolutions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def set_memory_format(model: nn.Module, memory_format: str) -> torch.memory_format:
    """Convert a model in place; inputs need no conversion, since convolutions take over their weights' layout.

    Args:
        model: The model.
        memory_format: "channels_last", "default", or "auto": channels_last for networks with batch normalisation.
            Measured on a CPU (benchmarks/RESULTS.md), a training step is then 1.15 (ResNet-18) to 1.44
            (MobileNetV3) times as fast, and about equally fast for ConvNeXt and ViT, which keep the default.

    Returns:
        The format that was chosen.
    """
    convolutional = any(isinstance(module, _BatchNorm) for module in model.modules())
    last = memory_format == "channels_last" or (memory_format == "auto" and convolutional)
    chosen = torch.channels_last if last else torch.contiguous_format
    if memory_format != "default":
        model.to(memory_format=chosen)
    return chosen
