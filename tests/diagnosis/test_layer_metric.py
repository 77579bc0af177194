"""Layers are judged by the metric that decides: rare classes count as much as frequent ones where they should."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.diagnosis.layer_metric import judged_by, layer_metric, to_expect
from hf_transfer.diagnosis.probing import LayerProbe, probe
from hf_transfer.errors import ArgumentError

LABELS = np.repeat([0, 1], [90, 10])


def always_the_largest() -> LayerProbe:
    """A classifier that names class 0 for all images."""
    hits = (LABELS == 0).astype(float)
    return LayerProbe(hits, np.ones(100, bool), 0.9, 100, "made up", hits)


def test_balanced_accuracy_shows_what_accuracy_hides() -> None:
    """Always naming the larger of two classes has 0.9 by accuracy and 0.5 balanced, also on the images fitted to."""
    plain = judged_by("accuracy", always_the_largest(), LABELS)
    fair = judged_by("balanced_accuracy", always_the_largest(), LABELS)
    assert (plain.accuracy, plain.train_accuracy) == (0.9, 0.9)
    assert (fair.accuracy, fair.train_accuracy) == pytest.approx((0.5, 0.5))


def test_what_is_always_right_is_certain() -> None:
    """Weights add no error where there are no misses."""
    sure = LayerProbe(np.ones(100), np.ones(100, bool), 1.0, 100, "made up", np.ones(100))
    fair = judged_by("balanced_accuracy", sure, LABELS)
    assert (fair.accuracy, fair.standard_error, fair.train_accuracy) == (1.0, 0.0, 1.0)


def test_it_is_the_mean_of_the_recalls() -> None:
    """For a real probe, with a class of a single image that cannot be held out, too."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 12, 1])
    found = probe(generator.normal(size=(73, 8)) + labels[:, None] * 0.5, labels, 3)
    recalls = [found.hits[labels == each].mean() for each in (0, 1)]
    assert judged_by("balanced_accuracy", found, labels).accuracy == pytest.approx(np.mean(recalls))


def test_expectation_is_in_the_same_metric() -> None:
    """The interval holds the value, in accuracy and balanced."""
    for metric, value in (("accuracy", 0.9), ("balanced_accuracy", 0.5)):
        found = to_expect(metric, [always_the_largest()], LABELS)
        assert found.value == pytest.approx(value) and found.low < value < found.high


def test_every_deciding_metric_has_one() -> None:
    """Log loss judges layers by accuracy and F1 by balanced accuracy; an unknown metric is refused by name."""
    found = [layer_metric(each) for each in ("log_loss", "macro_f1", "accuracy")]
    assert found == ["accuracy", "balanced_accuracy", "accuracy"]
    with pytest.raises(ArgumentError, match="'f2'"):
        layer_metric("f2")
