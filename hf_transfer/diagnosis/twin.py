"""The randomly initialised twin: the same architecture without what pretraining taught it."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_transfer.architectures.lookup import wrap
from hf_transfer.architectures.norms import norm_modules
from hf_transfer.errors import ModelError
from hf_transfer.models.random_weights import draw_random_weights
from hf_transfer.models.rebuilding import remake
from hf_transfer.utils.distributed import from_first

logger = logging.getLogger(__name__)

# Images whose statistics, over all positions, are known well enough.
CALIBRATION_IMAGES = 32


def looks_untrained(model: nn.Module) -> bool:
    """Whether a model has the weights that it was made with, as far as its norm layers tell.

    Norms start with scales and shifts of one value each, and no training leaves them so. A model without such norms is
    taken to be trained.
    """
    head = {name for group in wrap(model).layer_groups if group.role == "head" for name in group.parameter_names}
    found = [
        parameter.detach()
        for path, module in norm_modules(model)
        for name, parameter in module.named_parameters(recurse=False)
        if f"{path}.{name}" not in head and parameter.numel() > 1
    ]
    return bool(found) and all(bool((each == each.flatten()[0]).all()) for each in found)


def random_twin(model: nn.Module, seed: int) -> nn.Module:
    """Make the same architecture with random weights.

    Args:
        model: Stays as it is.
        seed: Seed for the weights; the global random state is left as it was.

    Raises:
        ModelError: It cannot be made again.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return remake(model, {}).to(device)
        except ModelError:
            twin = copy.deepcopy(model)
            draw_random_weights(twin, seed)
            return twin


def has_statistics(model: nn.Module) -> bool:
    """Whether a model has BatchNorm layers that use statistics of earlier images."""
    return bool(_statistics(model))


def calibrate(twin: nn.Module, images: torch.Tensor) -> None:
    """Give BatchNorm layers the statistics of some images, layer by layer in one pass.

    A network that was just made has means of 0 and variances of 1 instead, with which its activations vanish or
    explode with depth, and deep layers would look useless for a reason that has nothing to do with their weights.

    Args:
        twin: Changed in place; without BatchNorm it stays as it is.
        images: `(batch, channels, height, width)`: pixels as the model takes them.
    """
    norms = _statistics(twin)
    momenta = [norm.momentum for norm in norms]
    twin.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None
    try:
        with torch.no_grad():
            twin(images)
    except ValueError as error:  # BatchNorm of a single value has no variance
        logger.info("The random twin keeps its first BatchNorm statistics: %s", error)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    # Ranks must hold the very same network, or each would look for features under another fingerprint.
    own: dict[str, Any] = {name: buffer.cpu() for name, buffer in twin.named_buffers()}
    first = from_first(own)
    for name, buffer in twin.named_buffers():
        buffer.copy_(first[name])


def _statistics(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
