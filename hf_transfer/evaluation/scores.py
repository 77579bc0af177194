"""The scores themselves: pure functions from logits and labels to numbers.

Conventions:
    * Prediction: the class of the largest logit, the first of them in a tie. Confidence: its softmax probability.
    * Balanced accuracy: the unweighted mean over the classes that occur in the references of the share of their images
      whose prediction is right.
    * Macro F1: the unweighted mean over the classes that occur in the references. A class without references has no
      recall; images wrongly given to it still count as misses of their own class.
    * Log loss: mean cross-entropy in nats, from the logits themselves, so that a confident error is not clipped. A
      class without references adds nothing.
    * ECE: the expected calibration error of the predicted class over 15 bins of equal mass (as many images in each as
      possible; images of the same confidence share a bin, so that the order of the images does not matter):
      the sum over bins of |number correct - sum of confidences|, divided by the number of images.
    * Brier score: mean over images of the squared distance between probabilities and one-hot label, 0 to 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from hf_transfer.errors import DataError, NonFiniteLossError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

CALIBRATION_BINS = 15
TOP_K = 5
_BLOCK_SIZE = 2_000_000
"""Logits that are worked on at a time: 16 MB for each temporary array in float64."""
_NAMED_FAULTS = 5


@dataclass(frozen=True)
class ImageScores:
    """What the metrics need to know about each image; every array has the shape `(images,)`.

    Attributes:
        classes: Number of classes.
        labels: True class indices.
        predictions: Predicted class indices.
        confidences: Softmax probability of the predicted class.
        losses: Cross-entropy in nats.
        squared_errors: Squared distance between probabilities and one-hot label.
        in_top5: Whether the true class is among the five largest logits; None for five classes or fewer.
    """

    classes: int
    labels: IntArray
    predictions: IntArray
    confidences: FloatArray
    losses: FloatArray
    squared_errors: FloatArray
    in_top5: BoolArray | None

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def correct(self) -> BoolArray:
        """Whether each prediction is right, shape `(images,)`."""
        return np.asarray(self.predictions == self.labels)

    def take(self, images: IntArray) -> ImageScores:
        """The scores of some images, given by their indices; an image may come several times."""
        return ImageScores(
            self.classes,
            self.labels[images],
            self.predictions[images],
            self.confidences[images],
            self.losses[images],
            self.squared_errors[images],
            None if self.in_top5 is None else self.in_top5[images],
        )


def score_images(logits: npt.ArrayLike, labels: npt.ArrayLike) -> ImageScores:
    """Reduce logits to the few numbers per image from which every metric follows.

    Args:
        logits: `(images, classes)`, any real type.
        labels: Class indices `(images,)`.

    Raises:
        DataError: Shapes do not fit, no images, or labels outside of the classes.
        NonFiniteLossError: Some logits are NaN or infinite.
    """
    scores, targets = check_predictions(logits, labels)
    images, classes = scores.shape
    predictions = np.empty(images, np.int64)
    confidences, losses, squared_errors = (np.empty(images) for _ in range(3))
    in_top5 = np.empty(images, np.bool_) if classes > TOP_K else None
    for rows in row_blocks(images, classes):
        label = targets[rows]
        line = np.arange(len(label))
        log_probabilities = log_softmax(scores[rows])
        probabilities = np.exp(log_probabilities)
        predictions[rows] = scores[rows].argmax(axis=1)
        confidences[rows] = probabilities[line, predictions[rows]]
        losses[rows] = -log_probabilities[line, label]
        squared_errors[rows] = (probabilities**2).sum(axis=1) - 2 * probabilities[line, label] + 1
        if in_top5 is not None:
            in_top5[rows] = _rank_of_label(scores[rows], label) < TOP_K
    return ImageScores(classes, targets, predictions, confidences, losses, squared_errors, in_top5)


def _rank_of_label(scores: npt.NDArray[np.floating], label: IntArray) -> IntArray:
    """How many classes come before the true one; equal logits in the order of their index, as `argmax` has it."""
    # No sort of the rows as in scikit-learn's top_k_accuracy_score: that takes seconds for 50,000 x 1,000 logits.
    own = scores[np.arange(len(label)), label][:, None]
    before = np.arange(scores.shape[1]) < label[:, None]
    return np.asarray(((scores > own) | ((scores == own) & before)).sum(axis=1))


def log_softmax(logits: npt.NDArray[np.floating]) -> FloatArray:
    """Logarithms of the probabilities `(images, classes)` in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def row_blocks(images: int, classes: int) -> Iterator[slice]:
    """Slices that cut `(images, classes)` into pieces of bounded size."""
    step = max(1, _BLOCK_SIZE // classes)
    return (slice(start, start + step) for start in range(0, images, step))


def check_predictions(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[npt.NDArray[np.floating], IntArray]:
    """Return logits and labels as arrays of fitting shapes, finite and within the classes.

    Raises:
        DataError: Shapes do not fit, no images, or labels outside of the classes.
        NonFiniteLossError: Some logits are NaN or infinite.
    """
    scores, targets = np.asarray(logits), np.asarray(labels)
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise DataError(
            "Expected logits of shape (images, classes) and labels of shape (images,), found "
            f"{scores.shape} and {targets.shape}. Give one row of logits and one class index for each image."
        )
    if scores.shape[0] == 0 or scores.shape[1] < 2:
        raise DataError(
            f"Expected at least one image and two classes to evaluate, found logits of shape {scores.shape}. "
            "Check that the evaluation split is not empty."
        )
    _check_labels(targets, scores.shape[1])
    _check_finite(scores)
    return scores, targets.astype(np.int64)


def _check_labels(labels: npt.NDArray[np.integer], classes: int) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"Expected labels as integer class indices, found the type {labels.dtype}.")
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        found = sorted({int(value) for value in labels[outside[:1000]]})
        raise DataError(
            f"Expected labels from 0 to {classes - 1}, found {len(outside)} of {len(labels)} outside "
            f"(values {_first_few(found)}, images {_first_few(outside.tolist())}). "
            "The data set and the model's head have different labels."
        )


def _check_finite(logits: npt.NDArray[np.floating]) -> None:
    bad = [np.flatnonzero(~np.isfinite(logits[rows]).all(axis=1)) + rows.start for rows in row_blocks(*logits.shape)]
    images = np.concatenate(bad)
    if len(images):
        values = logits[images]
        raise NonFiniteLossError(
            f"Expected finite logits, found {np.isnan(values).sum()} NaN and {np.isinf(values).sum()} infinite values "
            f"in {len(images)} of {len(logits)} images (indices {_first_few(images.tolist())}). The model diverged or "
            "a half-precision type overflowed: go back to an earlier checkpoint, lower the learning rate, or use "
            "float32."
        )


def _first_few(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:_NAMED_FAULTS])
    return shown if len(values) <= _NAMED_FAULTS else f"{shown}, ..."


def accuracy(scores: ImageScores) -> float:
    """Share of the images whose prediction is right."""
    return float(scores.correct.mean())


def balanced_accuracy(scores: ImageScores) -> float:
    """Mean over the classes that occur in the references of the share of their images that are right."""
    actual = np.bincount(scores.labels, minlength=scores.classes)
    hits = np.bincount(scores.labels[scores.correct], minlength=scores.classes)
    return float(np.mean(hits[actual > 0] / actual[actual > 0]))


def top5_accuracy(scores: ImageScores) -> float:
    """Share of the images whose true class is among the five largest logits."""
    return 1.0 if scores.in_top5 is None else float(scores.in_top5.mean())


def macro_f1(scores: ImageScores) -> float:
    """Mean F1 over the classes that occur in the references."""
    from sklearn.metrics import f1_score

    present = np.unique(scores.labels)
    return float(f1_score(scores.labels, scores.predictions, labels=present, average="macro", zero_division=0.0))


def log_loss(scores: ImageScores) -> float:
    """Mean cross-entropy in nats."""
    return float(scores.losses.mean())


def brier_score(scores: ImageScores) -> float:
    """Mean squared distance between probabilities and one-hot label, 0 (best) to 2."""
    return float(scores.squared_errors.mean())


def ece(scores: ImageScores) -> float:
    """Expected calibration error over 15 bins of equal mass; see the head of the module."""
    order = np.argsort(scores.confidences, kind="stable")
    return ece_of_sorted(scores.confidences[order], scores.correct[order])


def ece_of_sorted(confidences: FloatArray, correct: BoolArray) -> float:
    """ECE of images that are already in the order of their confidence."""
    n = len(confidences)
    edges = confidences[np.arange(1, CALIBRATION_BINS) * n // CALIBRATION_BINS]
    # side="left" moves a border to the first image of its confidence: equal confidences are never parted.
    borders = np.searchsorted(confidences, edges, side="left")
    gaps = np.concatenate(([0.0], np.cumsum(correct - confidences)))
    return float(np.abs(np.diff(gaps[np.concatenate(([0], borders, [n]))])).sum() / n)


SCALARS: Mapping[str, Callable[[ImageScores], float]] = MappingProxyType(
    {
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        "top5_accuracy": top5_accuracy,
        "macro_f1": macro_f1,
        "log_loss": log_loss,
        "ece": ece,
        "brier_score": brier_score,
    }
)
"""Every scalar score by its name, in the order of reports."""


def scalar_names(classes: int) -> tuple[str, ...]:
    """The scores that say something for this number of classes: no top-5 accuracy for five classes or fewer."""
    return tuple(name for name in SCALARS if name != "top5_accuracy" or classes > TOP_K)
