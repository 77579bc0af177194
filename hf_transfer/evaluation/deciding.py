"""The metric that decides: what each way to train is judged by on held-out images, with the error of a difference.

Scores are larger for better predictions, whatever the metric: log loss is negated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation.scores import FloatArray, IntArray, log_softmax

DecidingMetric = Literal["accuracy", "balanced_accuracy", "macro_f1", "log_loss"]
DECIDING_METRICS: tuple[DecidingMetric, ...] = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
UNEVEN = 3.0
"""From this ratio of the largest to the smallest class on, balanced accuracy decides unless the user says otherwise: a
classifier that always names the larger of two classes is then right for three images of four."""
_RESAMPLES = 400


def score(metric: str, logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The score of predictions; larger is better.

    Args:
        metric: One of `DECIDING_METRICS`.
        logits: `(images, classes)`.
        labels: Class indices `(images,)`.

    Raises:
        ArgumentError: The metric is unknown.
    """
    values, wanted = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    return float(_of_counts(metric, values, wanted)(np.ones((1, len(wanted))))[0])


def paired_error(metric: str, one: npt.ArrayLike, other: npt.ArrayLike, labels: npt.ArrayLike, seed: int = 0) -> float:
    """Standard error of the difference between the scores of two sets of predictions for the same images.

    By bootstrap over the images, which takes all metrics alike.

    Args:
        metric: One of `DECIDING_METRICS`.
        one: Logits `(images, classes)`.
        other: Logits of the same shape.
        labels: Class indices `(images,)`.
        seed: Seed for the resampling: the same seed gives the same error.
    """
    wanted = np.asarray(labels, np.int64)
    images = len(wanted)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(images, np.full(images, 1 / images), size=_RESAMPLES).astype(np.float64)
    first, second = (_of_counts(metric, np.asarray(each, np.float64), wanted)(counts) for each in (one, other))
    return float(np.std(first - second))


def default_metric(counts: Mapping[str, int] | Sequence[int]) -> DecidingMetric:
    """Accuracy; balanced accuracy where the classes are of very different size.

    Args:
        counts: Images of each class.
    """
    there = [count for count in _numbers(counts) if count]
    return "balanced_accuracy" if there and max(there) >= UNEVEN * min(there) else "accuracy"


def chance(metric: str, counts: Mapping[str, int] | Sequence[int]) -> float:
    """What a classifier scores that always names the largest class; for log loss, one that states the shares.

    Args:
        metric: One of `DECIDING_METRICS`.
        counts: Images of each class.
    """
    there = np.array([count for count in _numbers(counts) if count], np.float64)
    shares = there / there.sum()
    largest = float(shares.max())
    return {
        "accuracy": largest,
        "balanced_accuracy": 1 / len(shares),
        "macro_f1": 2 * largest / (1 + largest) / len(shares),
        "log_loss": float((shares * np.log(shares)).sum()),
    }[check_metric(metric)]


def check_metric(metric: str) -> str:
    """Give the name back.

    Raises:
        ArgumentError: It is no metric that can decide.
    """
    if metric not in DECIDING_METRICS:
        raise ArgumentError(f"The metric that decides is one of {', '.join(DECIDING_METRICS)}; found {metric!r}.")
    return metric


def _numbers(counts: Mapping[str, int] | Sequence[int]) -> list[int]:
    return list(counts.values()) if isinstance(counts, Mapping) else list(counts)


def _of_counts(metric: str, logits: FloatArray, labels: IntArray) -> Callable[[FloatArray], FloatArray]:
    """The metric as a function of how often each image counts, `(resamples, images)` to `(resamples,)`."""
    check_metric(metric)
    if metric == "log_loss":
        gains = log_softmax(logits)[np.arange(len(labels)), labels]
        return lambda counts: counts @ gains / counts.sum(axis=1)
    predictions = logits.argmax(axis=1)
    hits = (predictions == labels).astype(np.float64)
    if metric == "accuracy":
        return lambda counts: counts @ hits / counts.sum(axis=1)
    present = np.unique(labels)
    is_label = (labels[:, None] == present).astype(np.float64)
    is_found = (predictions[:, None] == present).astype(np.float64)

    def by_class(counts: FloatArray) -> FloatArray:
        right, there = counts @ (is_label * hits[:, None]), counts @ is_label
        if metric == "balanced_accuracy":
            values = np.divide(right, there, out=np.zeros_like(right), where=there > 0)
        else:
            both = there + counts @ is_found
            values = np.divide(2 * right, both, out=np.zeros_like(right), where=both > 0)
        drawn = there > 0  # a class that a resample lacks has no recall
        return np.asarray((values * drawn).sum(axis=1) / drawn.sum(axis=1))

    return by_class
