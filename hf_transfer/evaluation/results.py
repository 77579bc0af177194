"""The evaluation of one split as one value: metrics with intervals, per-class scores, confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hf_transfer.errors import DataError
from hf_transfer.evaluation.intervals import bootstrap_intervals, wilson_interval
from hf_transfer.evaluation.scores import SCALARS, ImageScores, scalar_names, score_images

_LISTED_CONFUSIONS = 10
_SHARES = ("accuracy", "top5_accuracy")


@dataclass(frozen=True)
class MetricValue:
    """A metric and its 95 % confidence interval; the bounds are None where no interval was computed."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class; `support` is its number of images. A score without images to base it on is 0."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another; `share` is of all images of the true class."""

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class EvaluationReport:
    """What is known about a model's predictions on one split.

    Attributes:
        split: Name of the split, such as "validation".
        n: Number of images.
        label_names: Class names in the order of the logits.
        metrics: By name: "accuracy", "balanced_accuracy", "top5_accuracy" (more than five classes only), "macro_f1",
            "log_loss", "ece", "brier_score"; the conventions stand at the head of `hf_transfer.evaluation.scores`.
        per_class: One entry for each class, in the order of `label_names`.
        confusion: Counts of images `(true class, predicted class)`.
        worst_confusions: The ten most frequent mistakes, most frequent first.
    """

    split: str
    n: int
    label_names: tuple[str, ...]
    metrics: dict[str, MetricValue]
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    worst_confusions: tuple[Confusion, ...]

    def __post_init__(self) -> None:
        classes = len(self.label_names)
        if not len(self.per_class) == len(self.confusion) == classes:
            raise DataError(
                f"Expected scores and confusions for {classes} classes, found {len(self.per_class)} and "
                f"{len(self.confusion)}."
            )

    def to_dict(self) -> dict[str, Any]:
        """A form for JSON.

        The confusion matrix becomes `confusion_cells`, a list of [true index, predicted index, count] without the
        zeros: a square of 1,000 classes would fill megabytes.
        """
        cells = [
            [true, predicted, count]
            for true, row in enumerate(self.confusion)
            for predicted, count in enumerate(row)
            if count
        ]
        return {
            "split": self.split,
            "n": self.n,
            "label_names": list(self.label_names),
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
            "per_class": [asdict(score) for score in self.per_class],
            "confusion_cells": cells,
            "worst_confusions": [asdict(confusion) for confusion in self.worst_confusions],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            DataError: A key is missing or a value has the wrong form.
        """
        try:
            names = tuple(data["label_names"])
            confusion = np.zeros((len(names), len(names)), np.int64)
            for true, predicted, count in data["confusion_cells"]:
                confusion[true, predicted] = count
            return cls(
                split=data["split"],
                n=data["n"],
                label_names=names,
                metrics={name: MetricValue(**metric) for name, metric in data["metrics"].items()},
                per_class=tuple(ClassScore(**score) for score in data["per_class"]),
                confusion=_as_tuples(confusion),
                worst_confusions=tuple(Confusion(**entry) for entry in data["worst_confusions"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DataError(
                f"Expected an evaluation as EvaluationReport.to_dict() writes it, found a fault: {error!r}. "
                "Evaluate the model again."
            ) from error


def evaluate_predictions(
    logits: npt.ArrayLike, labels: npt.ArrayLike, label_names: Sequence[str], split: str
) -> EvaluationReport:
    """Compute every metric, with 95 % intervals, from the logits of a split.

    Args:
        logits: `(images, classes)`.
        labels: Class indices `(images,)`.
        label_names: One name for each class, in the order of the logits.
        split: Name of the split, for the report.

    Raises:
        DataError: Shapes, labels and names do not fit each other, or there are no images.
        NonFiniteLossError: Some logits are NaN or infinite.
    """
    scores = score_images(logits, labels)
    check_label_names(label_names, scores.classes)
    names = tuple(str(name) for name in label_names)
    confusion = _confusion(scores)
    return EvaluationReport(
        split=split,
        n=scores.n,
        label_names=names,
        metrics=_metrics(scores),
        per_class=_per_class(scores, names),
        confusion=_as_tuples(confusion),
        worst_confusions=_worst_confusions(confusion, names),
    )


def check_label_names(label_names: Sequence[str], classes: int) -> None:
    """Check that every class has a name.

    Raises:
        DataError: There are more or fewer names than classes.
    """
    if len(label_names) != classes:
        raise DataError(
            f"Expected one label name for each of the {classes} classes of the logits, found {len(label_names)}. "
            "The model's head does not belong to this data set."
        )


def _metrics(scores: ImageScores) -> dict[str, MetricValue]:
    intervals = bootstrap_intervals(scores)
    metrics = {}
    for name in scalar_names(scores.classes):
        value = SCALARS[name](scores)
        interval = wilson_interval(round(value * scores.n), scores.n) if name in _SHARES else intervals[name]
        metrics[name] = MetricValue(value, *interval)
    return metrics


def _per_class(scores: ImageScores, names: Sequence[str]) -> tuple[ClassScore, ...]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        scores.labels, scores.predictions, labels=np.arange(scores.classes), zero_division=0.0
    )
    return tuple(
        ClassScore(name, float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(names, *columns, strict=True)
    )


def _confusion(scores: ImageScores) -> npt.NDArray[np.int64]:
    from sklearn.metrics import confusion_matrix

    return np.asarray(confusion_matrix(scores.labels, scores.predictions, labels=np.arange(scores.classes)), np.int64)


def _worst_confusions(confusion: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[Confusion, ...]:
    """The most frequent mistakes; of equally frequent ones first that of the rarer class."""
    support = confusion.sum(axis=1)
    true, predicted = np.nonzero(confusion - np.diag(np.diag(confusion)))
    counts = confusion[true, predicted]
    order = np.lexsort((predicted, true, support[true], -counts))[:_LISTED_CONFUSIONS]
    return tuple(
        Confusion(names[true[i]], names[predicted[i]], int(counts[i]), float(counts[i] / support[true[i]]))
        for i in order
    )


def _as_tuples(confusion: npt.NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in confusion.tolist())
