"""Metrics with confidence intervals, per-class scores and predictions of an image classifier.

Everything is computed from logits `(images, classes)` and labels `(images,)`. The same scores are offered to the
`evaluate` library by the classes of `hf_transfer.evaluation.metrics`, a module of its own because `import evaluate`
takes seconds.
"""

from __future__ import annotations

from hf_transfer.evaluation.compute_metrics import make_compute_metrics
from hf_transfer.evaluation.predictions import most_confident_errors, write_predictions
from hf_transfer.evaluation.results import (
    ClassScore,
    Confusion,
    EvaluationReport,
    MetricValue,
    evaluate_predictions,
)
from hf_transfer.evaluation.tables import METRIC_TITLES

__all__ = [
    "METRIC_TITLES",
    "ClassScore",
    "Confusion",
    "EvaluationReport",
    "MetricValue",
    "evaluate_predictions",
    "make_compute_metrics",
    "most_confident_errors",
    "write_predictions",
]
