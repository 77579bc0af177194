"""The function that a Trainer calls after each evaluation, with metrics of the `evaluate` library on demand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation.results import check_label_names
from hf_transfer.evaluation.scores import SCALARS, IntArray, scalar_names, score_images

if TYPE_CHECKING:
    from transformers import EvalPrediction

logger = logging.getLogger(__name__)

_ON_DEMAND = frozenset({"brier_score"})
_INPUTS = {"predictions", "references"}


def make_compute_metrics(
    label_names: Sequence[str], extra_metrics: Sequence[str] = ()
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the `compute_metrics` of a Trainer: cheap scalars, no bootstrap.

    It returns accuracy, balanced_accuracy, top5_accuracy (more than five classes only), macro_f1, log_loss and ece, as
    defined in `hf_transfer.evaluation.scores`. Trainer gathers the logits of all ranks before it calls this function,
    so that every rank has the metrics of the whole split.

    Args:
        label_names: One name for each class, in the order of the logits.
        extra_metrics: "brier_score" (ours; the other scores above are computed in any case), or ids or local folders
            of metrics of the `evaluate` library that take predicted classes and references. Such a metric is a Python
            file that is run, from the Hub where it is an id. Each is called once on made-up predictions, so that a
            fault shows before the training and not after it.

    Raises:
        ArgumentError: An extra metric cannot be loaded, or does not take classes and references.
    """
    own = [name for name in scalar_names(len(label_names)) if name not in _ON_DEMAND or name in extra_metrics]
    foreign = [_load(name, len(label_names)) for name in dict.fromkeys(extra_metrics) if name not in SCALARS]

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        outputs = prediction.predictions
        scores = score_images(outputs[0] if isinstance(outputs, tuple) else outputs, prediction.label_ids)
        check_label_names(label_names, scores.classes)
        metrics = {name: SCALARS[name](scores) for name in own}
        for metric in foreign:
            for key, value in metric.compute(scores.predictions, scores.labels).items():
                metrics[f"{metric.name}_{key}" if key in metrics else key] = value
        return metrics

    return compute_metrics


@dataclass(frozen=True)
class _ForeignMetric:
    """A metric of the `evaluate` library and the options that it needs for several classes."""

    source: str
    module: Any
    options: Mapping[str, str]

    @property
    def name(self) -> str:
        return str(self.module.name)

    def compute(self, predictions: IntArray, references: IntArray) -> dict[str, float]:
        """Its scalar results; others, such as a score for each class, have no place in a Trainer's log."""
        try:
            result = self.module.compute(predictions=predictions, references=references, **self.options)
        except Exception as error:
            raise ArgumentError(
                f"The metric {self.source!r} failed on the predictions of this data set: {_first_line(error)}. "
                "Take it out of --metrics, or give a local folder with a version for several classes."
            ) from error
        return {key: float(value) for key, value in result.items() if np.ndim(value) == 0}


def _load(source: str, classes: int) -> _ForeignMetric:
    import evaluate

    try:
        # Trainer has gathered already: each rank computes for itself, in memory, without files that could collide.
        module = evaluate.load(source, keep_in_memory=True)
    except Exception as error:
        raise ArgumentError(
            f"The metric {source!r} cannot be loaded: {_first_line(error)}. Expected the id of a metric of the "
            "evaluate library, or a local folder NAME with NAME.py in it; offline only local folders work."
        ) from error
    features = module.features[0] if isinstance(module.features, list) else module.features
    if set(features) != _INPUTS:
        raise ArgumentError(
            f"The metric {source!r} takes {', '.join(sorted(features))}; expected one that takes predictions and "
            "references, both as class indices."
        )
    metric = _fitted(source, module, classes)
    logger.info("Metric %s: %s", source, dict(metric.options) or "default options")
    return metric


def _fitted(source: str, module: Any, classes: int) -> _ForeignMetric:
    """Find out by a perfect prediction of every class how the metric wants to be called."""
    perfect = np.arange(classes)
    try:
        plain = _ForeignMetric(source, module, {})
        plain.compute(perfect, perfect)
        return plain
    except ArgumentError as error:
        # precision, recall, f1: by default for two classes only.
        averaged = _ForeignMetric(source, module, {"average": "macro"})
        try:
            averaged.compute(perfect, perfect)
        except ArgumentError:
            raise error from None
        return averaged


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
