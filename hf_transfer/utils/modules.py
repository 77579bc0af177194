"""Questions about any `nn.Module`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

import torch
from torch import nn

# What wrappers inside a model add to names: FSDP1, activation checkpointing of torch, torch.compile.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)(?:\.|$)")


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """`model.named_parameters()` with the names that they had before parts of the model were wrapped."""
    for name, parameter in model.named_parameters():
        yield _WRAPPERS.sub("", name), parameter


def is_inside(name: str, paths: Sequence[str]) -> bool:
    """Whether a parameter or module is one of `paths`, or lies below one."""
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put each module back into the mode that it had, when the context ends."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put all modules into eval mode while the context lasts, and then each back into its own.

    By attribute: `train()` and `eval()` of a frozen module are replaced, and `train(mode)` gives one mode to all.
    """
    with modes_kept(model):
        for module in model.modules():
            module.training = False
        yield
