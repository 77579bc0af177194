"""Estimates on few images are right in the mean, and their standard errors say how far off a single one is."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.solvers import solve
from hf_transfer.solvers.problem import kept_shares


def draw(counts: tuple[int, ...], seed: int, spread: float, channels: int = 60):  # type: ignore[no-untyped-def]
    """Gaussian classes with fixed centres."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(len(counts), channels)) * spread
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    return (centres[labels] + generator.normal(size=(len(labels), channels))).astype(np.float32), labels


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["logistic", "ridge"])
@pytest.mark.parametrize(
    ("counts", "spread"), [((10, 10), 0.2), ((200, 5), 0.2), ((5, 5, 5, 5), 0.2)], ids=["10+10", "40:1", "4x5"]
)
def test_the_mean_estimate_is_the_accuracy_on_new_images(counts: tuple[int, ...], spread: float, solver: str) -> None:
    """Over 50 draws within 3 points of the truth, but for the noise of 50 draws; errors are as large as stated."""
    fresh, theirs = draw(tuple(2000 * count // sum(counts) for count in counts), 10**6, spread)
    errors, stated = [], []
    for seed in range(50):
        solved = solve(*draw(counts, seed, spread), solver, seed=seed)
        errors.append(solved.accuracy - (solved.head.scores(fresh).argmax(axis=1) == theirs).mean())
        stated.append(solved.standard_error)
    assert abs(np.mean(errors)) < 0.03 + np.std(errors) / 50**0.5
    assert np.sqrt(np.mean(np.square(errors))) < 1.35 * np.mean(stated)


def test_classes_keep_their_shares() -> None:
    """Whatever is held out, each class counts among the images fitted to as among all."""
    labels = np.repeat([0, 1, 2], [6, 3, 1])
    fitted = np.ones(10, bool)
    fitted[[0, 1, 6]] = False
    weights = kept_shares(labels, fitted)[labels] * fitted
    np.testing.assert_allclose(np.bincount(labels, weights), [6, 3, 1])
    fitted[9] = False
    assert kept_shares(labels, fitted)[2] == 1
