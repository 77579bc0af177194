"""Whether evaluation images differ from training images: can a linear classifier tell the two apart?

A promise of accuracy rests on held-out training images. It holds for other images that were drawn in the same way, and
for no others. Both splits are compared with as many images of each class, so that other shares of the classes are no
difference.

Source: https://arxiv.org/abs/1610.06545 (classifier two-sample tests); https://doi.org/10.1148/radiology.143.1.7063747
(standard error of the area under the curve)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hf_transfer.diagnosis.measurements import MeasuredInterval

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]

MOST_IMAGES = 200
"""Of each split. By 200 images an area of 0.6 is known to 0.06."""
DIFFERENT = 0.6
"""Splits differ where the area under the curve is surely above this. Chance is 0.5; less than this hardly matters."""
FEWEST = 15
"""Images of each split; of fewer nothing is told."""
_FOLDS = 5
_RIDGE = 1.0
_NORMAL = 1.96


def matched_rows(train_labels: IntArray, evaluation_labels: IntArray) -> tuple[IntArray, IntArray]:
    """Rows of both splits to compare: the first of each class, as many in both, about `MOST_IMAGES` of each split.

    Args:
        train_labels: `(images,)`, in random order.
        evaluation_labels: `(images,)`, in random order, numbered in the same way.

    Returns:
        Rows of each, rising, at most `MOST_IMAGES`.
    """
    counts = [
        np.bincount(labels, minlength=_classes(train_labels, evaluation_labels))
        for labels in (train_labels, evaluation_labels)
    ]
    there = np.minimum(*counts)
    share = min(1.0, MOST_IMAGES / max(int(there.sum()), 1))
    taken = np.where(there > 0, np.maximum((there * share).astype(np.int64), 1), 0)
    one, other = (_first(labels, taken) for labels in (train_labels, evaluation_labels))
    return one, other


def split_difference(train: FloatArray, evaluation: FloatArray, seed: int = 0) -> MeasuredInterval | None:
    """Area under the curve of a linear classifier between the splits, by cross-validation, with its interval of 95 %.

    Args:
        train: `(images, channels)`.
        evaluation: `(images, channels)`.
        seed: Seed for the folds.

    Returns:
        0.5 where the two look alike, 1 where they are told apart; None for fewer than fifteen images of one of them.
    """
    if min(len(train), len(evaluation)) < FEWEST:
        return None
    features = np.concatenate([train, evaluation]).astype(np.float64)
    side = np.repeat([0, 1], [len(train), len(evaluation)])
    generator = np.random.default_rng(seed)
    folds = np.concatenate([generator.permutation(len(each)) % _FOLDS for each in (train, evaluation)])
    areas = []
    for fold in range(_FOLDS):
        scores = _scores(features[folds != fold], side[folds != fold], features[folds == fold])
        areas.append(_area(scores[side[folds == fold] == 0], scores[side[folds == fold] == 1]))
    area = float(np.mean(areas))
    half = _NORMAL * _area_error(area, len(train), len(evaluation))
    return MeasuredInterval(area, max(area - half, 0.0), min(area + half, 1.0))


def differ(difference: MeasuredInterval | None) -> bool:
    """Whether the splits surely differ."""
    return difference is not None and difference.low > DIFFERENT


def _scores(fit: FloatArray, side: IntArray, out: FloatArray) -> FloatArray:
    """Ridge regression on the side, in the dual: images are fewer than channels."""
    mean, spread = fit.mean(axis=0), fit.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0) * np.sqrt(fit.shape[1])
    ours, theirs = (fit - mean) / scale, (out - mean) / scale
    targets = np.where(side == 1, 1 / (side == 1).sum(), -1 / (side == 0).sum())
    found: FloatArray = theirs @ (ours.T @ np.linalg.solve(ours @ ours.T + _RIDGE * np.eye(len(ours)), targets))
    return found


def _area(negative: FloatArray, positive: FloatArray) -> float:
    """Share of pairs in the right order; ties count half."""
    difference = positive[:, None] - negative
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def _area_error(area: float, negative: int, positive: int) -> float:
    """Standard error of Hanley and McNeil; at 0 and 1 as if half a pair were in the other order."""
    inside = min(max(area, 0.5 / (negative * positive)), 1 - 0.5 / (negative * positive))
    two_positive, two_negative = inside / (2 - inside), 2 * inside**2 / (1 + inside)
    variance = inside * (1 - inside)
    variance += (positive - 1) * (two_positive - inside**2) + (negative - 1) * (two_negative - inside**2)
    return float(np.sqrt(variance / (negative * positive)))


def _classes(*labels: IntArray) -> int:
    return int(max(each.max(initial=-1) for each in labels)) + 1


def _first(labels: IntArray, taken: IntArray) -> IntArray:
    """The first images of each class, rising; where there are too many classes, of the first of these."""
    kept = np.where(np.cumsum(taken) <= MOST_IMAGES, taken, 0)
    rows = [np.flatnonzero(labels == label)[: kept[label]] for label in np.flatnonzero(kept)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *rows]))
