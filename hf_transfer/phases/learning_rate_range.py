"""The learning-rate range test: read a learning rate off the losses of a few steps at growing rates.

Pure functions of a curve of (learning rate, training loss); `hf_transfer.trainer.range_test` runs the steps.

Source: https://arxiv.org/abs/1506.01186 (Smith, Cyclical Learning Rates, section 3.3)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_transfer.errors import ArgumentError

LOWEST, HIGHEST = 1e-6, 10.0
"""Rates of the layers with the highest rate: from no visible step in the loss to where every optimizer diverges."""
STEPS = 100
"""14 steps for each factor of ten: fewer leave the turn of the loss to chance, more cost as much as a short phase."""
# Steps that are smoothed over to both sides (standard deviation of a Gaussian): a third of a factor of ten.
# Smoothing backwards alone, as running averages do, would show the turn of the loss at too high a rate.
_WIDTH = 4.0
# A loss above this multiple of the lowest is no noise of a batch: the rest of the range need not be run.
_DIVERGED = 4.0
_FEWEST = 10
_ROUNDING = 1e-6
# In standard errors of a smoothed loss, about two of the difference of two such: within it losses are alike.
_BAND = 3.0
_MARGIN = 3.0


@dataclass(frozen=True)
class RangeTest:
    """What a range test of one phase measured and chose.

    Attributes:
        phase: Name of the phase.
        rates: Learning rate of each step, as the phase's `learning_rate` counts it: the rate of pretrained layers,
            and those of other groups are multiples of it.
        losses: Training loss of each step, before it was made; all finite.
        learning_rate: The choice.
        chosen: Whether it was read off the losses; False where they did not tell, and it is the default.
        reason: In words.
        start: Optimizer step at which the phase began.
    """

    phase: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    learning_rate: float
    chosen: bool
    reason: str
    start: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"rates": list(self.rates), "losses": list(self.losses)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RangeTest:
        """Inverse of `to_dict`."""
        return cls(**dict(data) | {"rates": tuple(data["rates"]), "losses": tuple(data["losses"])})


def geometric_rates(highest_ratio: float = 1.0, steps: int = STEPS) -> tuple[float, ...]:
    """Growing learning rates, each the same multiple of the one before.

    Args:
        highest_ratio: The highest rate of a layer group over the one that is counted, such as `head_lr_ratio`.
        steps: Number of rates.
    """
    if not highest_ratio > 0 or steps < 2:
        raise ArgumentError(f"A range has a positive ratio and at least 2 steps, found {highest_ratio} and {steps}.")
    growth = (HIGHEST / LOWEST) ** (1 / (steps - 1))
    return tuple(LOWEST * growth**step / highest_ratio for step in range(steps))


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the latest loss is not finite, or so high that higher rates need not be tried."""
    if not losses:
        return False
    if not math.isfinite(losses[-1]):
        return True
    # One batch may be hard; three in a row are not.
    return len(losses) > _FEWEST and min(losses[-3:]) > _DIVERGED * float(smooth(losses[:-3]).min())


def smooth(losses: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A Gaussian mean over neighbouring steps, narrower at the ends: `(steps,)`."""
    values = np.asarray(losses, np.float64)
    weights = _weights(len(values))
    mean: npt.NDArray[np.float64] = weights @ values / weights.sum(axis=1)
    return mean


@dataclass(frozen=True)
class Reading:
    """A learning rate that was read off a curve.

    Attributes:
        learning_rate: None where the curve does not tell.
        reason: In words, as part of a sentence.
    """

    learning_rate: float | None
    reason: str


def read_off(rates: Sequence[float], losses: Sequence[float]) -> Reading:
    """Read a learning rate off the losses of steps at growing rates.

    A third of the highest rate at which the smoothed loss is not above its lowest value by more than chance. Higher
    rates undo what lower ones reached. A third of it, because a training stays near its peak rate for many steps and
    the test for one. The usual tenth of the lowest point's rate is safe for long trainings, and too little for a few
    epochs: see benchmarks/RESULTS.md.

    Args:
        rates: Growing, one for each step.
        losses: Loss of each step, before it was made; all after a value that is not finite are left out.

    Returns:
        No rate where fewer than ten losses are finite, or where they do not change by more than chance.
    """
    if len(rates) != len(losses):
        raise ArgumentError(f"Expected a loss for each of {len(rates)} rates, found {len(losses)}.")
    finite = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    broke = finite < len(losses)
    if finite < _FEWEST:
        return Reading(None, f"only the first {finite} losses of the range test are finite")
    values = np.asarray(losses[:finite], np.float64)
    mean, error = smooth(values), _standard_errors(values)
    lowest = int(mean.argmin())
    above = mean - mean[lowest] - _ROUNDING * abs(mean[lowest])
    changes = above > 3 * np.hypot(error, error[lowest])
    # Where the range ends with the first losses of a divergence, their mean is not yet a clear change.
    rises = broke or has_diverged(list(values)) or bool(changes[lowest:].any())
    if not (changes[0] or rises):
        return Reading(None, "the losses of the range test do not change by more than chance")
    # The lowest of many noisy values looks calmer than it is.
    chance = max(error[lowest], float(np.quantile(error, 0.25)))
    last = int(np.flatnonzero(above <= _BAND * chance)[-1])
    if broke and last == finite - 1:
        # Weights take a few steps to break, so the rate that broke them is lower than the last one.
        return Reading(
            rates[last] / 10, f"a tenth of the last rate, {rates[last]:.2g}, before the loss was not finite"
        )
    at_end = "" if rises else ", and the highest that was tried"
    return Reading(
        rates[last] / _MARGIN,
        f"a third of {rates[last]:.2g}, the highest rate whose loss is no higher than the lowest by more than chance"
        f"{at_end}",
    )


def _standard_errors(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standard errors of the smoothed losses, from the spread of the losses around each: `(steps,)`."""
    weights = _weights(len(losses))
    # A loss is part of its own mean, the more so at the ends.
    own = weights.diagonal() / weights.sum(axis=1)
    squares = ((losses - smooth(losses)) / (1 - own)) ** 2
    errors: npt.NDArray[np.float64] = np.sqrt(weights**2 @ squares) / weights.sum(axis=1)
    return errors


def _weights(steps: int) -> npt.NDArray[np.float64]:
    number = np.arange(steps)
    weights: npt.NDArray[np.float64] = np.exp(-0.5 * ((number[:, None] - number) / _WIDTH) ** 2)
    return weights
