"""Parameters that a forward pass does not use, so that they never get a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def find_unused_parameters(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """Find parameters that get no gradient from the loss, such as DINOv2's mask token.

    DDP must know them (or search for them in each step, `find_unused_parameters`), and they cannot be trained.

    Args:
        model: Weights, buffers, gradients, modes and the random state are as before afterwards.
        inputs: One batch with labels, on the model's device.

    Returns:
        Names as in `model.named_parameters()`, in their order.

    Raises:
        ValueError: The model's output has no loss.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    flags = {name: p.requires_grad for name, p in parameters.items()}
    modes = {module: module.training for module in model.modules()}
    device = next(iter(parameters.values())).device
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        model.eval()  # no statistics are updated, and nothing is dropped that a step would use
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            output = model(**inputs)
            loss = output["loss"] if isinstance(output, Mapping) else getattr(output, "loss", None)
            if loss is None:
                raise ValueError("The model's output has no loss.")
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
        for module, mode in modes.items():
            module.training = mode
    return tuple(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None)
