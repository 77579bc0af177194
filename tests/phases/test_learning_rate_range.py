"""hf_transfer.phases.learning_rate_range: a learning rate read off curves that are made by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hf_transfer.errors import ArgumentError
from hf_transfer.phases.learning_rate_range import (
    HIGHEST,
    LOWEST,
    RangeTest,
    geometric_rates,
    has_diverged,
    read_off,
    smooth,
)

RATES = geometric_rates()
LOG = np.log10(RATES)


def _u(bottom: float, noise: float = 0.0, seed: int = 0) -> list[float]:
    """Flat at 2, falling for two decades to 1 at `bottom`, and rising steeply behind it."""
    distance = LOG - math.log10(bottom)
    losses = np.where(distance < 0, np.clip(1 - distance / 2, None, 2), 1 + 8 * distance**2)
    return list(losses + noise * np.random.default_rng(seed).standard_normal(len(losses)))


@pytest.mark.parametrize("bottom", [1e-4, 1e-3, 1e-2, 0.1])
def test_a_valley(bottom: float) -> None:
    """Where the loss falls and rises again the choice is a little below the bottom."""
    found = read_off(RATES, _u(bottom))
    assert found.learning_rate is not None and bottom / 4 < found.learning_rate < bottom


@pytest.mark.parametrize("seed", range(20))
def test_a_noisy_valley(seed: int) -> None:
    """Noise of a fifth of the whole fall moves the choice by less than a factor of four from that without noise."""
    clean, noisy = read_off(RATES, _u(1e-3)), read_off(RATES, _u(1e-3, 0.2, seed))
    assert clean.learning_rate is not None and noisy.learning_rate is not None
    assert 1 / 4 < noisy.learning_rate / clean.learning_rate < 4


def test_a_loss_that_only_falls() -> None:
    """Without a turn the choice is a third of the highest rate, and the words say that there was no turn."""
    found = read_off(RATES, list(3 - 0.2 * np.arange(len(RATES)) / 10))
    assert found.learning_rate == pytest.approx(HIGHEST / 3) and "highest that was tried" in found.reason


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_that_only_rises(seed: int) -> None:
    """A head that fits already: the loss cannot fall, and the choice stays below the rate that does harm."""
    noise = 0.1 * np.random.default_rng(seed).standard_normal(len(RATES))
    found = read_off(RATES, list(0.5 + noise + 5 * np.clip(LOG + 3, 0, None)))
    assert found.learning_rate is not None and 3e-5 < found.learning_rate < 2e-3


def test_a_range_that_ends_as_soon_as_it_diverges() -> None:
    """A head that fits already (losses as measured): the few losses of the divergence are enough to tell."""
    fits = [0.02, 0.17, 0.1, 0.12, 0.13, 0.04, 0.23, 0.22, 0.09, 0.19, 0.03, 0.06, 0.04, 0.1, 0.11, 0.09, 0.11, 0.03]
    fits += [0.07, 0.32, 0.09, 0.33, 0.14, 0.04, 0.13, 0.03, 0.24, 0.05, 0.04, 0.04, 0.07, 0.03, 0.09, 0.08, 0.07]
    losses = [*fits, 0.38, 0.15, 0.36, 0.25, 0.07, 1.02, 0.55, 1.95]
    rates = geometric_rates(2.0)[: len(losses)]
    found = read_off(rates, losses)
    assert has_diverged(losses) and not has_diverged(losses[:-1])
    assert found.learning_rate is not None and 1e-5 < found.learning_rate < rates[-1] / 3


@pytest.mark.parametrize("losses", [[1.0] * 100, list(1 + 0.1 * np.random.default_rng(3).standard_normal(100))])
def test_a_flat_loss(losses: list[float]) -> None:
    """Losses that do not change, or by noise alone, choose nothing."""
    found = read_off(RATES, losses)
    assert found.learning_rate is None and "by more than chance" in found.reason


def test_a_loss_that_breaks_while_it_is_flat() -> None:
    """NaN after a flat stretch is a rise: a tenth of the last rate, as it broke before that was seen."""
    found = read_off(RATES, [2.0] * 60 + [math.nan] * 40)
    assert found.learning_rate == pytest.approx(RATES[59] / 10) and "not finite" in found.reason


def test_what_follows_a_broken_loss_counts_for_nothing() -> None:
    """Only losses before the first that is not finite are read."""
    losses = _u(1e-3)
    whole = read_off(RATES, losses)
    assert read_off(RATES, [*losses[:75], math.inf, *([0.0] * 24)]).learning_rate == whole.learning_rate


def test_too_few_losses() -> None:
    """A run that breaks at once chooses nothing, and says why."""
    found = read_off(RATES[:9], [2.0] * 8 + [math.nan])
    assert found.learning_rate is None and "first 8 losses" in found.reason
    assert read_off((), ()).learning_rate is None


def test_rates_and_losses_belong_together() -> None:
    """A curve whose parts differ in length is refused."""
    with pytest.raises(ArgumentError, match="3 rates, found 2"):
        read_off([1, 2, 3], [1, 2])


def test_the_rates() -> None:
    """They grow by one factor over the whole range, which is that of the layers with the highest rate."""
    assert RATES[0] == pytest.approx(LOWEST) and RATES[-1] == pytest.approx(HIGHEST)
    assert np.ptp(np.diff(LOG)) < 1e-9
    assert geometric_rates(20.0)[-1] == pytest.approx(HIGHEST / 20)
    with pytest.raises(ArgumentError, match="positive ratio"):
        geometric_rates(0.0)


def test_smoothing_keeps_straight_lines_and_turns_in_place() -> None:
    """The mean of neighbours does not move the middle of a line, nor the bottom of a symmetric valley."""
    line = np.linspace(0, 1, 101)
    assert smooth(line)[20:80] == pytest.approx(line[20:80])
    assert smooth(np.abs(line - 0.5)).argmin() == 50
    assert smooth([1.0]) == pytest.approx([1.0])


def test_divergence() -> None:
    """Three losses in a row far above the lowest end the range, or one that is not finite; one hard batch does not."""
    assert not has_diverged([])
    assert has_diverged([1.0, math.nan]) and has_diverged([math.inf])
    calm = [1.0] * 20
    assert not has_diverged([*calm, 50.0]) and not has_diverged([*calm, 50.0, 50.0, 1.0])
    assert has_diverged([*calm, 50.0, 50.0, 50.0])
    assert not has_diverged([0.1, 1.0, 1.0, 1.0])  # too few to judge


def test_round_trip() -> None:
    """A test is the same after JSON."""
    test = RangeTest("probe", (1e-3, 1e-2), (2.0, 1.0), 5e-3, True, "half of it", 4)
    assert RangeTest.from_dict(json.loads(json.dumps(test.to_dict()))) == test
