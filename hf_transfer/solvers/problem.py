"""What a linear head is fitted to: checked features and labels, class weights, and cross-validation folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hf_transfer.errors import ArgumentError, DataError

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
ClassWeights = Literal["balanced"] | Mapping[int, float] | None

# Rows are read in blocks, so that float64 copies of features that are mapped from a disk stay small.
BLOCK_ROWS = 2048
# Of an image that is never held out, because its class has no other.
NEVER_HELD_OUT = -1


@dataclass(frozen=True)
class Problem:
    """Features with their labels.

    Attributes:
        features: `(images, channels)`; may be mapped from a disk.
        labels: `(images,)`, from 0 to `classes - 1`.
        classes: Number of classes; some may have no image.
        class_weights: `(classes,)`: how much an image of a class counts.
    """

    features: FloatArray
    labels: IntArray
    classes: int
    class_weights: FloatArray

    @classmethod
    def of(cls, features: Any, labels: Any, classes: int | None = None, class_weights: ClassWeights = None) -> Problem:
        """Check features and labels.

        Args:
            features: `(images, channels)`, finite.
            labels: `(images,)`, whole numbers from 0.
            classes: Number of classes; None takes the highest label's.
            class_weights: See `class_weight_vector`.

        Raises:
            ArgumentError: Shapes do not fit, or a class weight is unknown or not positive.
            DataError: A feature is not finite, a label is none of the classes, or there are fewer than two classes
                with images.
        """
        if getattr(features, "ndim", 0) != 2 or not features.shape[1]:
            raise ArgumentError(
                f"Features must have the shape (images, channels), found {getattr(features, 'shape', type(features))}."
            )
        labels = np.asarray(labels)
        if labels.shape != (len(features),) or not np.issubdtype(labels.dtype, np.integer):
            raise ArgumentError(
                f"Labels must be one whole number for each of {len(features)} images, found {labels.dtype} of shape "
                f"{labels.shape}."
            )
        labels = labels.astype(np.int64)
        count = int(labels.max(initial=-1)) + 1 if classes is None else classes
        wrong = np.flatnonzero((labels < 0) | (labels >= count))
        if len(wrong):
            raise DataError(
                f"Labels must be from 0 to {count - 1}; {len(wrong)} are not, the first is {labels[wrong[0]]} of "
                f"image {wrong[0]}. Take out images without a label."
            )
        if (present := len(np.unique(labels))) < 2:
            raise DataError(f"A classifier needs images of at least two classes, found {present}.")
        _check_finite(features)
        return cls(features, labels, count, class_weight_vector(labels, count, class_weights))

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def image_weights(self) -> FloatArray:
        """`(images,)`: each image's weight, with a mean of 1."""
        weights = self.class_weights[self.labels]
        return weights / weights.mean()

    def subset(self, rows: IntArray) -> Problem:
        """The problem of some of the images."""
        return Problem(np.asarray(self.features[rows]), self.labels[rows], self.classes, self.class_weights)


def class_weight_vector(labels: IntArray, classes: int, class_weights: ClassWeights) -> FloatArray:
    """How much an image of each class counts.

    Args:
        labels: `(images,)`.
        classes: Number of classes.
        class_weights: None: all images count alike. "balanced": all classes do, whatever their number of images. A
            mapping from class index to weight; classes that it does not name have 1.

    Raises:
        ArgumentError: Something else, an index that is no class, or a weight that is not positive.
    """
    weights = np.ones(classes)
    if class_weights is None:
        return weights
    if isinstance(class_weights, str) and class_weights == "balanced":
        counts = np.bincount(labels, minlength=classes)
        return np.divide(len(labels), counts * np.count_nonzero(counts), out=weights, where=counts > 0)
    if not isinstance(class_weights, Mapping):
        raise ArgumentError(
            f'class_weights are None, "balanced" or a mapping from class index to weight, found {class_weights!r}.'
        )
    for index, weight in class_weights.items():
        known = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < classes
        if not known or not isinstance(weight, int | float) or not 0 < weight < np.inf:
            raise ArgumentError(
                f"class_weights map an index from 0 to {classes - 1} to a positive number, found {index!r}: "
                f"{weight!r}."
            )
        weights[index] = weight
    return weights


def blocks(rows: int) -> Iterator[slice]:
    """Slices of at most `BLOCK_ROWS` rows."""
    return (slice(start, min(start + BLOCK_ROWS, rows)) for start in range(0, rows, BLOCK_ROWS))


def stratified_folds(labels: Sequence[int] | IntArray, folds: int = 5, seed: int = 0) -> IntArray:
    """Assign each image to the fold in which it is held out, so that each class is spread over all folds.

    A class of fewer images than folds is spread as far as it goes; the image of a class that has only one is never
    held out, since no classifier could know its class.

    Args:
        labels: `(images,)`.
        folds: Number of folds, at least 2.
        seed: Seed for the order within each class.

    Returns:
        `(images,)`: fold numbers, -1 for images that are never held out.

    Raises:
        ArgumentError: Fewer than two folds.
        DataError: No class has two images, so that nothing can be held out.
    """
    if folds < 2:
        raise ArgumentError(f"Cross-validation needs at least 2 folds, found {folds}.")
    labels = np.asarray(labels)
    assigned = np.full(len(labels), NEVER_HELD_OUT)
    generator = np.random.default_rng(seed)
    given = 0
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            # Each class continues where the last one stopped, so that the folds are of one size.
            assigned[rows] = (given + np.arange(len(rows))) % folds
            given += len(rows)
    if not given:
        raise DataError("No class has more than one image, so that nothing can be held out to choose by.")
    return assigned


def kept_shares(labels: IntArray, fitted: npt.NDArray[np.bool_]) -> FloatArray:
    """How much more the images of each class must count so that a fold's training images have the shares of all.

    Without it a held-out image is always of a class that is rarer among the images fitted to than among all, and
    few images are judged too low: four synthetic classes of five images by 12 points.

    Args:
        labels: `(images,)`.
        fitted: `(images,)`: which are fitted to.

    Returns:
        `(classes,)`; 1 for a class without an image there.
    """
    all_images = np.bincount(labels)
    left = np.bincount(labels[fitted], minlength=len(all_images))
    return np.divide(all_images, left, out=np.ones(len(left)), where=left > 0)


def _check_finite(features: FloatArray) -> None:
    bad = 0
    for rows in blocks(len(features)):
        bad += int(np.count_nonzero(~np.isfinite(features[rows]).all(axis=1)))
    if bad:
        raise DataError(
            f"The features of {bad} of {len(features)} images are not finite (NaN or infinite). Look for broken "
            "weights, or for pixel values that are not finite."
        )
