"""Linear classifiers on layers judged by the metric that decides, as far as hits alone tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_transfer.diagnosis.measurements import MeasuredInterval
from hf_transfer.diagnosis.probing import LayerProbe
from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation.expectation import class_weights, expected_accuracy

IntArray = npt.NDArray[np.integer[Any]]

LAYER_METRICS: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced_accuracy",
        "macro_f1": "balanced_accuracy",
        "log_loss": "accuracy",
    }
)
"""What layers are judged by, by the metric that decides. Ridge regression gives no probabilities, and F1 of a class is
no mean over its images; the nearest metric that is one takes their place."""


def layer_metric(metric: str) -> str:
    """What layers are judged by.

    Raises:
        ArgumentError: The metric is unknown.
    """
    if metric not in LAYER_METRICS:
        raise ArgumentError(f"The metric that decides is one of {', '.join(LAYER_METRICS)}; found {metric!r}.")
    return LAYER_METRICS[metric]


def judged_by(metric: str, probe: LayerProbe, labels: IntArray) -> LayerProbe:
    """A probe whose misses are weighted so that the mean of its hits is the metric.

    Misses, since a classifier that is always right must not seem uncertain for the weights of its hits.

    Args:
        metric: One of the values of `LAYER_METRICS`.
        probe: With plain hits.
        labels: `(images,)`.
    """
    if metric == "accuracy":
        return probe
    weights = np.ones(len(labels))
    weights[probe.counted] = class_weights(labels[probe.counted])
    fitted = probe.train_accuracy
    if probe.seen is not None:
        fitted = 1 - float(((1 - probe.seen) * class_weights(labels)).mean())
    return replace(probe, hits=1 - weights * (1 - probe.hits), train_accuracy=max(fitted, 0.0))


def to_expect(
    metric: str, probes: Sequence[LayerProbe], labels: IntArray, evaluation_images: int | None = None
) -> MeasuredInterval:
    """What to expect of the best of several probes on other images.

    Args:
        metric: One of the values of `LAYER_METRICS`.
        probes: With plain hits, on the same images.
        labels: `(images,)`.
        evaluation_images: As in `expected_accuracy`.
    """
    counted = probes[0].counted
    weights = class_weights(labels[counted]) if metric == "balanced_accuracy" else None
    found = expected_accuracy(np.stack([probe.hits[counted] for probe in probes]), weights, evaluation_images)
    assert found.low is not None and found.high is not None
    return MeasuredInterval(found.value, found.low, found.high)
