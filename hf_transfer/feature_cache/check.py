"""The check of a cut: what follows it, fed with what was captured, must be the same function as the whole model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.errors import CutError
from hf_transfer.feature_cache.cut import Captured, Cut, boundaries, passive_modules
from hf_transfer.feature_cache.trace import Trace, traced
from hf_transfer.utils.clock import device_time
from hf_transfer.utils.modules import eval_mode

# Images of the check: captured as three and two, used as two and three others.
CHECK_IMAGES = 5
_CAPTURED = ([0, 1, 2], [3, 4])
_USED = ([4, 0], [1, 3, 2])
# Other batches and memory layouts change the last digits; a lost skip connection changes the first.
_TOLERANCE = 1e-4
# Groups that were inferred may be parts of a residual block, which can be cut in front of its first part alone.
_ATTEMPTS = 8


@dataclass(frozen=True)
class Whole:
    """The whole model on the check's images: its traces are free, since the outputs are needed anyway.

    Attributes:
        traces: With two images and with three.
        outputs: Logits of both.
        gradients: Gradients of the second, by parameter.
        seconds: For one image.
    """

    traces: tuple[Trace, Trace]
    outputs: tuple[torch.Tensor, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    seconds: float


def find_cut(
    model: nn.Module,
    groups: Sequence[LayerGroup],
    trained_groups: Collection[int],
    trained_parameters: Collection[str],
    images: torch.Tensor,
) -> Cut:
    """The latest cut before the first trained layer that passes the check.

    Args:
        model: With the phase's freezing applied; not wrapped for several processes. It is left as it was.
        groups: Its layer groups.
        trained_groups: Indices of the groups that train, also in part.
        trained_parameters: Names of the parameters that train.
        images: `CHECK_IMAGES` real images `(batch, channels, height, width)`, on the model's device.

    Raises:
        CutError: Why there is none.
    """
    whole = _run_whole(model, images, trained_parameters)
    reasons: list[str] = []
    places = boundaries(*whole.traces, groups, sorted(trained_groups), passive_modules(model))
    for attempt, place in enumerate(places):
        if attempt == _ATTEMPTS:
            break
        for materialise in (False, True):
            cut = Cut(model, place, materialise)
            try:
                check_cut(cut, images, trained_parameters, whole)
            except CutError as error:
                reasons.append(f"in front of {place.path}: {error}")
                if not isinstance(error.__cause__, RuntimeError):
                    break  # real memory mends writing into a stub, nothing else
            else:
                return cut
    raise CutError("; ".join(dict.fromkeys(reasons)) or "no layer group begins with a module of its own")


def _run_whole(model: nn.Module, images: torch.Tensor, trained: Collection[str]) -> Whole:
    """Run the whole model in eval mode.

    Raises:
        CutError: It cannot be run.
    """
    with eval_mode(model):
        try:
            with torch.no_grad():
                first, small = traced(model, images[_USED[0]])
            started = device_time(images.device)
            with torch.enable_grad():
                second, large = traced(model, images[_USED[1]])
            seconds = (device_time(images.device) - started) / len(_USED[1])
        except Exception as error:  # foreign code; ordinary training will tell what is wrong
            raise CutError(f"a forward pass failed ({type(error).__name__}: {error})") from error
        outputs = (_logits(small), _logits(large))
        gradients = _gradients(model, outputs[1], trained)
    return Whole((first, second), (outputs[0], outputs[1].detach()), gradients, seconds)


def check_cut(cut: Cut, images: torch.Tensor, trained: Collection[str], whole: Whole) -> None:
    """Compare the cut model with the whole one: outputs, gradients, and the prefix in training and in eval mode.

    Args:
        cut: Not installed.
        images: `CHECK_IMAGES` images.
        trained: Names of the trained parameters.
        whole: What the whole model gives for these images.

    Raises:
        CutError: What differs.
    """
    modules = dict(cut.model.named_modules())
    busy = [n for n in cut.boundary.before if isinstance(modules[n], _NormBase) and modules[n].training]
    if busy:
        raise CutError(f"{busy[0]} has running statistics and runs before and after the cut")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        in_training = cut.capture(images[_CAPTURED[0]])  # the caller's mode: training, with what is frozen in eval
    with eval_mode(cut.model):
        started = time.perf_counter()
        with torch.no_grad():
            parts = [cut.capture(images[rows]) for rows in _CAPTURED]
        cut.seconds = ((device_time(images.device) - started) / CHECK_IMAGES, whole.seconds)
        _check_equal(in_training.rows, parts[0].rows, "what comes before the cut is random in training")
        for part in parts:
            _check_equal(in_training.constants, part.constants, "an argument depends on the images of the batch")
        with _fed(cut, _join(parts), images[0]):
            try:
                with torch.no_grad():
                    small = _logits(cut.model(torch.tensor(_USED[0], device=images.device)))
                with torch.enable_grad():
                    large = _logits(cut.model(torch.tensor(_USED[1], device=images.device)))
                gradients = _gradients(cut.model, large, trained)
            except Exception as error:  # foreign code, fed with blank tensors, may fail in any way
                raise CutError(f"{type(error).__name__}: {error}".split("\n")[0]) from error
        _check_equal((small, large), whole.outputs, "outputs differ from those of the whole model")
    if gradients.keys() != whole.gradients.keys():
        lost = sorted(whole.gradients.keys() - gradients.keys())
        raise CutError(f"{', '.join(lost[:3])} is trained and used before the cut")
    pairs = [(gradients[name], expected) for name, expected in whole.gradients.items()]
    _check_equal([one for one, _ in pairs], [other for _, other in pairs], "gradients differ from the whole model's")


@contextlib.contextmanager
def _fed(cut: Cut, captured: Captured, image: torch.Tensor) -> Iterator[None]:
    """The cut model, which takes row numbers in place of images."""

    def unpack(value: torch.Tensor) -> Captured | None:
        if value.dtype != torch.int64 or value.ndim != 1:
            return None
        return Captured(tuple(row[value.to(row.device)] for row in captured.rows), captured.constants)

    with cut.installed(unpack, image):
        yield


def _join(parts: Sequence[Captured]) -> Captured:
    rows = tuple(torch.cat(tensors) for tensors in zip(*(part.rows for part in parts), strict=True))
    return Captured(rows, parts[0].constants)


def _logits(output: Any) -> torch.Tensor:
    """The logits, or the first tensor of more than a number that a model returns."""
    logits = output.get("logits") if isinstance(output, dict) else None
    tensors = (v for v in tree_leaves(output) if isinstance(v, torch.Tensor) and v.is_floating_point() and v.ndim)
    return logits if isinstance(logits, torch.Tensor) else next(tensors)


def _gradients(model: nn.Module, output: torch.Tensor, trained: Collection[str]) -> dict[str, torch.Tensor]:
    """Gradients of a fixed mixture of the outputs, by parameter."""
    parameters = {n: p for n, p in model.named_parameters() if n in trained and p.requires_grad}
    if not parameters or not output.requires_grad:
        return {}
    weights = torch.linspace(-1, 1, output.numel(), device=output.device).reshape(output.shape)
    found = torch.autograd.grad((output.float() * weights).sum(), list(parameters.values()), allow_unused=True)
    return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


def _check_equal(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], what: str) -> None:
    for one, other in zip(found, expected, strict=True):
        scale = float(other.detach().abs().max()) if other.numel() else 0.0
        difference = float((one.detach().float() - other.detach().float()).abs().max()) if other.numel() else 0.0
        if not difference <= _TOLERANCE * max(scale, 1e-6):
            raise CutError(f"{what} (by {difference:.2g} of {scale:.2g})")
