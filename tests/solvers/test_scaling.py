"""The scale of the channels is chosen on held-out images, at any number of them, and folded into the head."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hf_transfer.errors import ArgumentError
from hf_transfer.solvers import Problem, logistic, solve
from hf_transfer.solvers.rotation import mean_and_scale
from hf_transfer.solvers.scaling import POWERS, name_of, powers_of


def _classes(counts: tuple[int, ...], seed: int, scales: np.ndarray, spread: float = 0.4):  # type: ignore[no-untyped-def]
    """Classes whose centres differ in the first ten channels; `scales` multiplies all."""
    centres = np.zeros((len(counts), len(scales)))
    centres[:, :10] = np.random.default_rng(99).normal(size=(len(counts), 10)) * spread
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    features = (centres[labels] + generator.normal(size=(len(labels), len(scales)))) * scales
    return features.astype(np.float32), labels


@pytest.mark.parametrize("power", POWERS.values())
def test_every_scaling_has_the_same_mean_variance(power: float) -> None:
    """So that one path of regularisations serves all; constant channels count for nothing."""
    features, _ = _classes((50, 50), 0, np.append(np.geomspace(0.01, 100, 30), 0.0))
    mean, scale = mean_and_scale(features, np.ones(100), centre=True, power=power)
    assert np.isinf(scale[-1])
    variances = ((features - mean) / scale).var(axis=0)[:-1]
    assert variances.mean() == pytest.approx(1)
    np.testing.assert_allclose(variances, (features.astype(float).var(axis=0)[:-1] / scale[:-1] ** 2), rtol=1e-4)


def test_without_scaling_it_is_plain_logistic_regression() -> None:
    """The head of "none" is scikit-learn's on features divided by one number."""
    features, labels = _classes((60, 60, 60), 0, np.geomspace(0.3, 3, 12))
    solved = logistic(Problem.of(features, labels), [0.01], scaling="none")
    one = np.sqrt(features.astype(float).var(axis=0).mean())
    theirs = LogisticRegression(C=1 / (0.01 * 180), tol=1e-10, max_iter=10_000).fit(features / one, labels)
    np.testing.assert_allclose(solved.head.weight * one, theirs.coef_, atol=2e-3)


@pytest.mark.parametrize("solver", ["logistic", "svm", "ridge"])
@pytest.mark.parametrize("per_class", [8, 60])
def test_the_scale_that_helps_is_chosen(solver: str, per_class: int) -> None:
    """Where what tells the classes apart is hidden in small channels, and where small channels are noise."""
    hidden, noise = np.r_[np.full(10, 0.01), np.ones(30)], np.r_[np.ones(10), np.full(400, 0.01)]
    for scales, good in ((hidden, {"standard"}), (noise, {"none", "sqrt"})):
        if solver == "ridge" and per_class == 60:
            good = {"standard"}  # does not choose there
        features, labels = _classes((per_class,) * 3, 1, scales, spread=1.5)
        assert solve(features, labels, solver).details["scaling"] in good


def test_a_scaling_can_be_asked_for() -> None:
    """By its name; another is an error."""
    features, labels = _classes((10, 10), 0, np.ones(12))
    for name, power in POWERS.items():
        assert solve(features, labels, scaling=name).details["scaling"] == name == name_of(power)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="auto, sqrt, none, standard; found 'log'"):
        powers_of("log")  # type: ignore[arg-type]
