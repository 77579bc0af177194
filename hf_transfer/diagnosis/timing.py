"""What candidate recipes would cost on this machine, from a measured forward pass and a measured training step."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_transfer.architectures.lookup import wrap
from hf_transfer.architectures.selectors import select_groups
from hf_transfer.diagnosis.measurements import PassCosts
from hf_transfer.features.extraction import extracting
from hf_transfer.features.reading import model_inputs, pixel_values
from hf_transfer.features.taps import first_tensor
from hf_transfer.utils.clock import device_time
from hf_transfer.utils.distributed import from_first

logger = logging.getLogger(__name__)

# Few, so that timing costs next to nothing compared with the pass itself; accelerators need more to be busy.
_IMAGES, _ACCELERATOR_IMAGES = 8, 64
# Usual lengths: a fine-tuned network needs few epochs, a new one many.
EPOCHS, SCRATCH_EPOCHS = 4, 30
# A backward pass computes two gradients for each product of the forward pass.
_TRAINING_OVER_FORWARD = 3.0
LAST_BLOCKS = "blocks:2"


@dataclass(frozen=True)
class Timing:
    """Seconds for one image.

    Attributes:
        forward: Reading it and its forward pass.
        training: Reading it and its share of a training step of all layers.
        prefix: Share of the forward pass before the last two blocks.
    """

    forward: float
    training: float
    prefix: float

    def costs(self, images: int) -> PassCosts:
        """Expected seconds of the candidates for a number of training images."""
        once, epoch = images * self.forward, images * self.training
        suffix = EPOCHS * epoch * (1 - self.prefix)
        return PassCosts(
            self.forward,
            self.training,
            {
                "linear_probe": once,
                "last_blocks": once * self.prefix + suffix,
                "lp_ft": once + EPOCHS * epoch,
                "fine_tune": EPOCHS * epoch,
                "from_scratch": SCRATCH_EPOCHS * epoch,
            },
        )


def timed(model: nn.Module, dataset: Any, processor: Any, rows: Sequence[int], pass_seconds: float) -> Timing:
    """Time reading, a forward pass and a training step of a few images.

    Args:
        model: Is not changed: a copy takes the step.
        dataset: The data set of the images.
        processor: As in `extract_features`.
        rows: Images to take them from.
        pass_seconds: What an image took in the pass over the sample, the better measure; less than is possible where
            its features were in the cache.

    Returns:
        The first rank's.
    """
    device = next(model.parameters()).device
    few = list(rows)[: _IMAGES if device.type == "cpu" else _ACCELERATOR_IMAGES]
    started = time.perf_counter()
    inputs = model_inputs(dataset, processor)
    images = pixel_values([inputs[row] for row in few]).to(device)
    reading = (time.perf_counter() - started) / len(few)
    with extracting(model):
        model(images)  # the first pass of a shape prepares it
        started = device_time(device)
        model(images)
        forward = (device_time(device) - started) / len(few)
        prefix = _prefix_share(model, images, device)
    try:
        step = _training_step(model, images, device) / len(few)
    except (RuntimeError, ValueError) as error:  # no memory for it, or BatchNorm of a single value
        logger.info("No training step could be timed (%s); three forward passes are taken for one.", error)
        step = _TRAINING_OVER_FORWARD * forward
    # A pass in which features were computed cannot have been three times as fast as its parts.
    whole = pass_seconds if pass_seconds > (reading + forward) / 3 else reading + forward
    return from_first(Timing(whole, reading + step, prefix))


def _training_step(model: nn.Module, images: torch.Tensor, device: torch.device) -> float:
    """Seconds of a step of AdamW on a copy; the second, since the first makes the optimizer's state."""
    twin = copy.deepcopy(model).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-5)
    seconds = 0.0
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]), torch.enable_grad():
        for _ in range(2):
            started = device_time(device)
            scores = first_tensor(twin(images))
            assert scores is not None
            torch.autograd.backward(scores.float().square().mean())
            optimizer.step()
            optimizer.zero_grad()
            seconds = device_time(device) - started
    return seconds


def _prefix_share(model: nn.Module, images: torch.Tensor, device: torch.device) -> float:
    """Share of a forward pass that lies before the last two blocks."""
    groups = wrap(model).layer_groups
    trained = {group.name for group in select_groups(groups, LAST_BLOCKS)}
    before = [path for group in groups if group.name not in trained for path in group.module_names]
    modules, times = dict(model.named_modules()), [0.0]
    started = device_time(device)
    handles = [
        modules[path].register_forward_hook(lambda *_: times.append(device_time(device) - started)) for path in before
    ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return min(max(times) / max(device_time(device) - started, 1e-9), 1.0)
