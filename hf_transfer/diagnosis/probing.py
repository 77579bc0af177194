"""How well a linear classifier on some features does on images that it was not fitted to, image by image.

Ridge regression on class indicators, by exact leave-one-out, or by repeated cross-validation where images are few. The
regularisation that judges an image is chosen on other images, so that the choice flatters no layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_transfer.errors import DataError
from hf_transfer.solvers.joined import MOST_AXES, first_equals
from hf_transfer.solvers.ridge import FEW_IMAGES, RIDGE_REGULARISATIONS
from hf_transfer.solvers.rotation import leading_axes, mean_and_scale

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]

# Nine tenths of the images to fit to: at five a class it matters, and there a decomposition costs next to nothing.
FOLDS = 10
# Of images, each judged under the regularisation that is the best for the others.
_CHOICES = 5
# More classes than this are judged by leave-one-out however few images each has: there are enough in all, and ten
# decompositions of thousands of images would take longer than the pass.
MANY_CLASSES = 100
# Beyond this, the scores of all images for all classes take the time: fewer axes and fewer regularisations do.
_VERY_MANY_CLASSES = 500
_MANY_AXES = 512
_BLOCK_SCORES = 2**22


@dataclass(frozen=True)
class LayerProbe:
    """Whether each image is classified right when it is held out.

    Attributes:
        hits: `(images,)`, 0 to 1: the share of repeats in which it was; those that cannot be held out have 0.
        counted: `(images,)`: whether an image can be held out, as another image of its class remains.
        train_accuracy: On the images fitted to.
        fitted: Number of images that a classifier was fitted to.
        estimate: In words.
        seen: `(images,)`: whether the classifier that was fitted to all is right; None where that is not known.
    """

    hits: FloatArray
    counted: npt.NDArray[np.bool_]
    train_accuracy: float
    fitted: int
    estimate: str
    seen: FloatArray | None = None

    @property
    def accuracy(self) -> float:
        """Held-out accuracy."""
        return float(self.hits[self.counted].mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the accuracy, over images."""
        hits = self.hits[self.counted]
        return float(np.sqrt(hits.var() / len(hits)))


def regularisations(classes: int) -> tuple[float, ...]:
    """What is chosen from: fewer values where classes are many."""
    return RIDGE_REGULARISATIONS[:: 1 if classes <= 50 else 2 if classes <= _VERY_MANY_CLASSES else 4]


def leaves_one_out(images: int, classes: int) -> bool:
    """Whether images are left out singly."""
    return images >= FEW_IMAGES * classes or classes > MANY_CLASSES


def probe(features: FloatArray, labels: IntArray, classes: int, seed: int = 0, standardise: bool = True) -> LayerProbe:
    """Judge features by a linear classifier.

    Args:
        features: `(images, channels)`, finite.
        labels: `(images,)`, 0 to `classes - 1`; each has an image.
        classes: Number of classes.
        seed: Seed for the folds.
        standardise: Bring features to one scale first.

    Raises:
        DataError: Every class has a single image.
    """
    return _probe(features, _along_axes(features, classes, standardise), labels, classes, seed, standardise)


def probe_layers(
    features: Sequence[FloatArray], labels: IntArray, classes: int, seed: int = 0
) -> tuple[list[LayerProbe], FloatArray]:
    """Judge the features of several layers, equal ones once, and put them side by side.

    Args:
        features: The features of each layer, as in `probe`.
        labels: As in `probe`.
        classes: As in `probe`.
        seed: As in `probe`.

    Returns:
        What is found of each layer; and the layers' features side by side, equal ones once, along the leading axes of
        each where channels are many. These are to be probed as they are: bringing axes to one scale would make as much
        of noise as of the rest.
    """
    first = first_equals(features)
    different = sorted(set(first))
    many = sum(features[place].shape[1] for place in different) > MOST_AXES
    most = MOST_AXES // len(different) if many else None
    found, parts = {}, []
    for place in different:
        axes = _along_axes(features[place], classes, standardise=True)
        found[place] = _probe(features[place], axes, labels, classes, seed, standardise=True)
        leading = axes.coordinates[:, :most]
        parts.append(leading.copy() if leading.size else np.zeros((len(labels), 1)))
    return [found[place] for place in first], np.concatenate(parts, axis=1)


def _probe(
    features: FloatArray, axes: _Axes, labels: IntArray, classes: int, seed: int, standardise: bool
) -> LayerProbe:
    counted = _counted(labels)
    values = regularisations(classes)
    left_out, seen = _on_itself(axes, labels, classes, values)
    if leaves_one_out(len(labels), classes):
        hits, fitted, estimate = left_out, len(labels) - 1, "leave-one-out"
    else:
        repeats = _repeats(len(labels))
        hits = _cross_validated(features, labels, classes, values, seed, repeats, 1, standardise)
        fitted = round(len(labels) * (1 - 1 / FOLDS))
        estimate = f"{FOLDS}-fold cross-validation, {repeats} times"
    best = _best(hits[:, counted])
    judged = _judged_by_others(hits, counted)
    return LayerProbe(judged, counted, float(seen[best].mean()), fitted, estimate, seen[best])


def curve(features: FloatArray, labels: IntArray, classes: int, full: LayerProbe, seed: int = 0) -> list[LayerProbe]:
    """The same classifier fitted to a quarter, to half and to all of the images.

    All are judged on the same images. Where one image is left out at a time, parts of the data are fitted to and all
    images outside them held out; under cross-validation a part of each fold's training images.

    Args:
        features: As in `probe`.
        labels: As in `probe`.
        classes: As in `probe`.
        full: What `probe` gave.
        seed: Seed for parts and folds.

    Returns:
        By rising number of images; sizes with fewer than two images a class are left out.
    """
    values = regularisations(classes)
    found = []
    for parts in (4, 2):
        if full.fitted // parts < 2 * classes:
            continue
        if leaves_one_out(len(labels), classes):
            hits = _from_parts(features, labels, classes, values, seed, parts)
        else:
            hits = _cross_validated(features, labels, classes, values, seed, _repeats(len(labels)), parts, True)
        judged = _judged_by_others(hits, full.counted)
        found.append(LayerProbe(judged, full.counted, full.train_accuracy, full.fitted // parts, full.estimate))
    return [*found, full]


def _counted(labels: IntArray) -> npt.NDArray[np.bool_]:
    counted: npt.NDArray[np.bool_] = np.bincount(labels)[labels] > 1
    if not counted.any():
        raise DataError("No class has more than one image, so that nothing can be held out to judge by.")
    return counted


def _repeats(images: int) -> int:
    return 4 if images <= 200 else 2 if images <= 500 else 1


@dataclass(frozen=True)
class _Axes:
    """Features along their principal axes; `hf_transfer.solvers.rotation` without what only a head needs."""

    mean: FloatArray
    scale: FloatArray
    eigenvalues: FloatArray
    coordinates: FloatArray
    axes: FloatArray | None

    def project(self, features: FloatArray) -> FloatArray:
        assert self.axes is not None
        projected: FloatArray = ((features - self.mean) / self.scale) @ self.axes
        return projected


def _along_axes(features: FloatArray, classes: int, standardise: bool, project: bool = False) -> _Axes:
    """Centre features, perhaps bring them to one scale, and rotate them; `project` where others are to follow."""
    mean, scale = mean_and_scale(features, np.ones(len(features)), centre=True)
    scale = scale if standardise else np.ones_like(scale)
    standardised = (features - mean) / scale
    images, channels = standardised.shape
    axes: FloatArray | None = None
    if images > channels:
        eigenvalues, axes = leading_axes(standardised.T @ standardised)
    else:
        eigenvalues, vectors = leading_axes(standardised @ standardised.T)
    kept = slice(_MANY_AXES if classes > _VERY_MANY_CLASSES else None)
    eigenvalues = eigenvalues[kept]
    if axes is not None:
        axes = axes[:, kept]
        return _Axes(mean, scale, eigenvalues, standardised @ axes, axes)
    roots = np.sqrt(eigenvalues)
    coordinates = vectors[:, kept] * roots
    return _Axes(
        mean, scale, eigenvalues, coordinates, standardised.T @ (vectors[:, kept] / roots) if project else None
    )


def _weights(
    found: _Axes, labels: IntArray, classes: int, values: Sequence[float]
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """For each regularisation the inverse curvature `(rank,)` and the head `(rank, classes)`, without a bias.

    Targets are 1 and -1, features are centred: what is left of the moments is twice the sum over each class.
    """
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=classes)
    present = np.flatnonzero(counts)
    starts = np.concatenate([[0], np.cumsum(counts[present])[:-1]])
    moments = np.zeros((found.coordinates.shape[1], classes))
    moments[:, present] = 2 * np.add.reduceat(found.coordinates[order], starts, axis=0).T
    for value in values:
        inverse = 1 / (found.eigenvalues + value * len(labels))
        yield inverse, moments * inverse[:, None]


def _biases(labels: IntArray, classes: int) -> FloatArray:
    biases: FloatArray = 2 * np.bincount(labels, minlength=classes) / len(labels) - 1
    return biases


def _on_itself(found: _Axes, labels: IntArray, classes: int, values: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Hits `(values, images)` of each image by leave-one-out, and by the classifier fitted to all.

    Leaving an image of leverage h out changes its scores s to (s - h * targets) / (1 - h); the order of the classes is
    that of s with 2 h taken from the image's own class.
    """
    left_out, seen = np.zeros((2, len(values), len(labels)))
    coordinates, biases = found.coordinates, _biases(labels, classes)
    squares = coordinates**2
    for index, (inverse, head) in enumerate(_weights(found, labels, classes, values)):
        for rows in _blocks(len(labels), classes):
            part, own = coordinates[rows], labels[rows]
            scores = part @ head + biases
            leverage = np.minimum(squares[rows] @ inverse + 1 / len(labels), 1.0)
            seen[index, rows] = scores.argmax(axis=1) == own
            scores[np.arange(len(own)), own] -= 2 * leverage
            left_out[index, rows] = scores.argmax(axis=1) == own
    return left_out, seen


def _on_others(
    features: FloatArray,
    labels: IntArray,
    classes: int,
    values: Sequence[float],
    fit: IntArray,
    out: IntArray,
    standardise: bool = True,
) -> FloatArray:
    """Hits `(values, len(out))` of images by the classifier fitted to other images."""
    found = _along_axes(features[fit], classes, standardise, project=True)
    coordinates = found.project(features[out])
    biases, hits = _biases(labels[fit], classes), np.zeros((len(values), len(out)))
    for index, (_, head) in enumerate(_weights(found, labels[fit], classes, values)):
        for rows in _blocks(len(out), classes):
            hits[index, rows] = (coordinates[rows] @ head + biases).argmax(axis=1) == labels[out][rows]
    return hits


def _cross_validated(
    features: FloatArray,
    labels: IntArray,
    classes: int,
    values: Sequence[float],
    seed: int,
    repeats: int,
    parts: int,
    standardise: bool,
) -> FloatArray:
    """Hits of cross-validation; each fold is fitted to one part of its training images."""
    hits = np.zeros((len(values), len(labels)))
    for repeat in range(repeats):
        folds = _dealt(labels, FOLDS, seed + repeat)
        for fold in range(FOLDS):
            out = np.flatnonzero(folds == fold)
            fit = np.flatnonzero(folds != fold)
            if len(out):
                fit = fit[_dealt(labels[fit], parts, seed + repeat) == 0] if parts > 1 else fit
                hits[:, out] += _on_others(features, labels, classes, values, fit, out, standardise) / repeats
    return hits


def _from_parts(
    features: FloatArray, labels: IntArray, classes: int, values: Sequence[float], seed: int, parts: int
) -> FloatArray:
    """Hits by classifiers fitted to each part, on all images outside it."""
    hits = np.zeros((len(values), len(labels)))
    dealt = _dealt(labels, parts, seed)
    for part in range(parts):
        out, fit = np.flatnonzero(dealt != part), np.flatnonzero(dealt == part)
        hits[:, out] += _on_others(features, labels, classes, values, fit, out) / (parts - 1)
    return hits


def _dealt(labels: IntArray, parts: int, seed: int) -> IntArray:
    """Deal the images of each class to parts, going on where the last class stopped; `(images,)`."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    dealt = np.empty(len(labels), np.int64)
    dealt[order] = np.arange(len(labels)) % parts
    return dealt


def _best(hits: FloatArray) -> int:
    """The regularisation with the highest accuracy, smoothed over its neighbours; of equals the strongest."""
    accuracies = np.pad(hits.mean(axis=1), 1, mode="edge")
    smooth = accuracies[:-2] + 2 * accuracies[1:-1] + accuracies[2:]
    return int(len(smooth) - 1 - np.round(smooth[::-1], 9).argmax())


def _judged_by_others(hits: FloatArray, counted: npt.NDArray[np.bool_]) -> FloatArray:
    """Hits `(images,)` under the regularisation that is the best for other images."""
    judged = np.zeros(hits.shape[1])
    folds = np.arange(hits.shape[1]) % _CHOICES
    for fold in range(_CHOICES):
        others = counted & (folds != fold)
        best = _best(hits[:, others if others.any() else counted])
        own = counted & (folds == fold)
        judged[own] = hits[best, own]
    return judged


def _blocks(images: int, classes: int) -> Iterator[slice]:
    size = max(1, _BLOCK_SCORES // classes)
    return (slice(start, min(start + size, images)) for start in range(0, images, size))
