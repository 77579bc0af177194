"""An expected accuracy has an interval that holds what comes out, though the best of several was chosen."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation.expectation import class_weights, expected_accuracy

_DRAWS = 300


def coverage(truth: np.ndarray, images: int, later: int | None) -> float:
    """Share of draws whose interval holds the accuracy of the best classifier: its true one, or on other images."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(_DRAWS):
        ease = generator.random(images)  # images that are hard for one are hard for all
        shared = np.where(generator.random((len(truth), images)) < 0.5, ease, generator.random((len(truth), images)))
        hits = shared < truth[:, None]
        best = int(hits.mean(axis=1).argmax())
        outcome = truth[best] if later is None else generator.binomial(later, truth[best]) / later
        found = expected_accuracy(hits, evaluation_images=later)
        assert found.low is not None and found.high is not None
        held += found.low <= outcome <= found.high
    return held / _DRAWS


@pytest.mark.parametrize("later", [None, 40, 1000])
@pytest.mark.parametrize("images", [20, 100, 500])
@pytest.mark.parametrize(
    "truth", [np.full(1, 0.8), np.full(20, 0.8), np.full(20, 0.97), np.linspace(0.5, 0.9, 10)], ids=str
)
def test_the_interval_covers_what_comes_out(truth: np.ndarray, images: int, later: int | None) -> None:
    """At least 90 % of intervals hold it: for one and for the best of many, few images and many, now and later."""
    assert coverage(truth, images, later) >= 0.9


def test_the_best_of_equals_is_not_promised_too_much() -> None:
    """Among 30 classifiers of 0.7, the best looks like 0.8 on 100 images; what is expected is 0.7."""
    generator = np.random.default_rng(1)
    draws = [generator.random((30, 100)) < 0.7 for _ in range(50)]
    assert np.mean([hits.mean(axis=1).max() for hits in draws]) > 0.78
    assert abs(np.mean([expected_accuracy(hits).value for hits in draws]) - 0.7) < 0.02


def test_weights_make_it_balanced() -> None:
    """A classifier that always names the class of 90 of 100 images has 0.5, with the interval of few images."""
    labels = np.repeat([0, 1], [90, 10])
    found = expected_accuracy(labels == 0, class_weights(labels))
    assert found.value == pytest.approx(0.5)
    assert found.low is not None and found.high is not None and found.high - found.low > 0.3
    assert class_weights(labels).mean() == pytest.approx(1)


def test_no_images_are_refused() -> None:
    """The message names the shapes."""
    with pytest.raises(ArgumentError, match="classifiers, images"):
        expected_accuracy(np.zeros((3, 0)))
