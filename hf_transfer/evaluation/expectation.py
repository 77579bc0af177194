"""What accuracy to expect on other images, from hits on held-out ones, where the best of several was chosen by them.

The best of many looks better than it is on the images that it was chosen by. So for the value the best is chosen for
each image on the others, fold by fold. The interval is Wilson's, which holds for few images and near 0 and 1. Its
lower end allows for the choice by Bonferroni's correction, over those that might have been chosen as well.
"""

from __future__ import annotations

from math import ceil, floor

import numpy as np
import numpy.typing as npt

from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation.intervals import CONFIDENCE, wilson_interval
from hf_transfer.evaluation.results import MetricValue
from hf_transfer.evaluation.scores import FloatArray

_FOLDS = 10
_NEAR = 2.0


def expected_accuracy(
    hits: npt.ArrayLike, weights: npt.ArrayLike | None = None, evaluation_images: int | None = None
) -> MetricValue:
    """The accuracy to expect of the best of several classifiers, with an interval of 95 %.

    Args:
        hits: `(classifiers, images)` or `(images,)`: whether each held-out image is classified right, or the share of
            repeats in which it is, 0 to 1.
        weights: `(images,)`: how much each image counts; None counts all alike. One over the images of its class gives
            balanced accuracy.
        evaluation_images: The interval is to hold the accuracy on so many images, None of very many.

    Raises:
        ArgumentError: There are no images, or shapes do not fit.
    """
    right = np.atleast_2d(np.asarray(hits, np.float64))
    counted = np.ones(right.shape[1]) if weights is None else np.asarray(weights, np.float64)
    if right.ndim != 2 or not right.size or counted.shape != right.shape[1:] or counted.sum() <= 0:
        raise ArgumentError(
            f"An expectation needs hits (classifiers, images) and a weight for each image; found {right.shape} and "
            f"{counted.shape}."
        )
    best = int(_scores(right, counted).argmax())
    value = float(_scores(_chosen_on_others(right, counted)[None], counted)[0])
    naive = float(_scores(right[best : best + 1], counted)[0])
    images = float(counted.sum() ** 2 / (counted**2).sum())
    if evaluation_images is not None:
        images = images * evaluation_images / (images + evaluation_images)
    tail = (1 - CONFIDENCE) / _contenders(right, best, counted)
    low, _ = wilson_interval(naive * images, images, 1 - tail)
    _, high = wilson_interval(naive * images, images)
    if evaluation_images is not None:  # what comes out is a whole number of them
        low, high = (
            floor(low * evaluation_images) / evaluation_images,
            ceil(high * evaluation_images) / evaluation_images,
        )
    return MetricValue(min(max(value, low), high), low, high)


def class_weights(labels: npt.ArrayLike) -> FloatArray:
    """Weights `(images,)` of mean 1 under which accuracy is balanced accuracy."""
    wanted = np.asarray(labels)
    counts = np.bincount(wanted)
    found: FloatArray = len(wanted) / (np.count_nonzero(counts) * counts[wanted])
    return found


def _scores(hits: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted share of hits of each row; rounded, so that of equals the first is the best."""
    found: FloatArray = np.round(hits @ weights / weights.sum(), 9)
    return found


def _contenders(hits: FloatArray, best: int, weights: FloatArray) -> int:
    """How many are at most two standard errors behind the best, over the same images; itself among them."""
    behind = (hits[best] - hits) * weights / weights.mean()
    errors = behind.std(axis=1) / np.sqrt(hits.shape[1])
    return int((behind.mean(axis=1) <= _NEAR * errors).sum())


def _chosen_on_others(hits: FloatArray, weights: FloatArray) -> FloatArray:
    """Hits `(images,)` of the classifier that is the best on the images of the other folds."""
    folds = np.arange(hits.shape[1]) % _FOLDS
    chosen = np.empty(hits.shape[1])
    for fold in np.unique(folds):
        others = weights * (folds != fold)
        best = int(_scores(hits, others if others.any() else weights).argmax())
        chosen[folds == fold] = hits[best, folds == fold]
    return chosen
