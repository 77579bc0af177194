"""The metric that decides: its values are scikit-learn's, and the error of a difference is that of repeated draws."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation.deciding import DECIDING_METRICS, chance, default_metric, paired_error, score


def _draw(images: int, seed: int, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.choice(3, size=images, p=(0.6, 0.3, 0.1))
    return generator.normal(size=(images, 3)) + strength * np.eye(3)[labels], labels


def test_the_scores_are_those_of_scikit_learn() -> None:
    """Each metric equals scikit-learn's function on the same predictions."""
    logits, labels = _draw(200, 0)
    found, p = logits.argmax(1), np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = {
        "accuracy": accuracy_score(labels, found),
        "balanced_accuracy": balanced_accuracy_score(labels, found),
        "macro_f1": f1_score(labels, found, average="macro"),
        "log_loss": -log_loss(labels, p),
    }
    assert set(expected) == set(DECIDING_METRICS)
    for metric, value in expected.items():
        assert score(metric, logits, labels) == pytest.approx(value, abs=1e-9), metric


@pytest.mark.parametrize("metric", DECIDING_METRICS)
def test_the_paired_error_is_that_of_fresh_draws(metric: str) -> None:
    """The bootstrap's error of a difference is within a third of the spread over 200 independent draws."""
    differences, errors = [], []
    for seed in range(200):
        logits, labels = _draw(150, seed)
        other = logits + np.random.default_rng(1000 + seed).normal(scale=0.7, size=logits.shape)
        differences.append(score(metric, logits, labels) - score(metric, other, labels))
        if seed < 20:
            errors.append(paired_error(metric, logits, other, labels))
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=1 / 3)


def test_the_same_predictions_differ_by_nothing() -> None:
    """The paired error of predictions with themselves is zero."""
    logits, labels = _draw(60, 0)
    assert all(paired_error(metric, logits, logits, labels) == 0 for metric in DECIDING_METRICS)


@pytest.mark.parametrize(
    ("counts", "metric"),
    [
        ((100, 100), "accuracy"),
        ((100, 34), "accuracy"),
        ((200, 40), "balanced_accuracy"),
        ((30, 10, 0), "balanced_accuracy"),
    ],
)
def test_very_uneven_classes_are_balanced_by_default(counts: tuple[int, ...], metric: str) -> None:
    """From three times the images in the largest class on, each class counts alike; empty classes do not count."""
    assert default_metric(counts) == metric


def test_chance_is_what_naming_the_largest_class_scores() -> None:
    """Chance equals the score of predictions that always are the largest class."""
    labels = np.repeat([0, 1], [160, 32])
    always = np.tile([5.0, 0.0], (192, 1))
    for metric in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert chance(metric, {"good": 160, "defect": 32}) == pytest.approx(score(metric, always, labels))
    shares = np.tile(np.log([160 / 192, 32 / 192]), (192, 1))
    assert chance("log_loss", (160, 32)) == pytest.approx(score("log_loss", shares, labels))


def test_an_unknown_metric_is_refused_with_the_list() -> None:
    """The error names what exists."""
    with pytest.raises(ArgumentError, match="accuracy, balanced_accuracy, macro_f1, log_loss; found 'f2'"):
        score("f2", np.zeros((2, 2)), [0, 1])
