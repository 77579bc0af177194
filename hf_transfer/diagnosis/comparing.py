"""Comparisons of layers over the same images, with bootstrap intervals of 95 %.

Where the best of several layers is compared, it is chosen for each image on the others, fold by fold: the best of
many looks better than it is on the images that it was chosen by. (The bootstrap alone, choosing again in each
resample, finds the best of eight equal layers surely better in 13 % of draws; so it is 7 %.) Images are drawn with
replacement, by random weights of mean 1; intervals are the basic (pivotal) ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_transfer.diagnosis.measurements import MeasuredInterval
from hf_transfer.diagnosis.probing import LayerProbe
from hf_transfer.evaluation.intervals import CONFIDENCE, resample_count

FloatArray = npt.NDArray[np.floating[Any]]

# Of what the random twin gets wrong at least so much is taken to be left, or its share would mean nothing.
_LEAST_ERROR = 0.01
_DRAWS_AT_A_TIME = 2**22
_FOLDS = 10


def gain_over_random(last: LayerProbe, random: Sequence[LayerProbe], seed: int = 0) -> MeasuredInterval:
    """What the last layer gains over the best layer of the random twin, as share of what that one gets wrong.

    Args:
        last: The probe on the last layer of the pretrained model.
        random: The probes on the twin's layers, on the same images.
        seed: Seed for the resamples.
    """

    def gain(accuracies: FloatArray) -> FloatArray:
        found: FloatArray = (accuracies[:, 0] - accuracies[:, 1]) / np.maximum(1 - accuracies[:, 1], _LEAST_ERROR)
        return found

    return _bootstrap([last, best_probe(random)], gain, seed)


def gain_of_earlier(last: LayerProbe, earlier: Sequence[LayerProbe], seed: int = 0) -> MeasuredInterval:
    """Accuracy of the best earlier layer minus that of the last.

    Args:
        last: The probe on the last layer.
        earlier: The probes on the layers before it.
        seed: Seed for the resamples.
    """
    return _bootstrap([last, best_probe(earlier)], lambda a: a[:, 1] - a[:, 0], seed)


def best_probe(probes: Sequence[LayerProbe]) -> LayerProbe:
    """The best of several layers, chosen for the images of each fold on those of the others."""
    hits, counted = np.stack([probe.hits for probe in probes]), probes[0].counted
    folds, chosen = np.arange(hits.shape[1]) % _FOLDS, np.zeros(hits.shape[1])
    for fold in range(_FOLDS):
        others = counted & (folds != fold)
        best = int(np.round(hits[:, others if others.any() else counted].mean(axis=1), 9).argmax())
        chosen[folds == fold] = hits[best, folds == fold]
    return replace(probes[0], hits=chosen)


def slope(half: LayerProbe, full: LayerProbe, seed: int = 0) -> MeasuredInterval:
    """Share of the errors that twice the images took away.

    Args:
        half: Fitted to half of the images.
        full: Fitted to all.
        seed: Seed for the resamples.
    """

    def share(accuracies: FloatArray) -> FloatArray:
        errors = 1 - accuracies
        found: FloatArray = (errors[:, 0] - errors[:, 1]) / np.maximum(errors[:, 0], _LEAST_ERROR)
        return found

    return _bootstrap([half, full], share, seed)


def paired_difference(one: LayerProbe, other: LayerProbe) -> tuple[float, float]:
    """By how much the first is more accurate, and the standard error of that."""
    difference = (one.hits - other.hits)[one.counted]
    return float(difference.mean()), float(np.sqrt(difference.var() / len(difference)))


def _bootstrap(
    probes: Sequence[LayerProbe], statistic: Callable[[FloatArray], FloatArray], seed: int
) -> MeasuredInterval:
    """Interval of a statistic of accuracies `(resamples, probes)`."""
    hits = np.stack([probe.hits[probe.counted] for probe in probes], axis=1)
    measured = float(statistic(hits.mean(axis=0)[None])[0])
    resampled = statistic(_resampled_means(hits, seed))
    tail = (1 - CONFIDENCE) / 2
    low, high = (2 * measured - np.quantile(resampled, [1 - tail, tail])).tolist()
    return MeasuredInterval(measured, min(low, measured), max(high, measured))


def _resampled_means(hits: FloatArray, seed: int) -> FloatArray:
    """Means `(resamples, probes)` under Poisson weights of the images."""
    generator = np.random.default_rng(seed)
    count, images = resample_count(len(hits)), len(hits)
    found = np.empty((count, hits.shape[1]))
    step = max(1, _DRAWS_AT_A_TIME // images)
    for start in range(0, count, step):
        weights = generator.poisson(1.0, (min(step, count - start), images)).astype(float)
        weights[weights.sum(axis=1) == 0] = 1.0
        found[start : start + len(weights)] = weights @ hits / weights.sum(axis=1, keepdims=True)
    return found
