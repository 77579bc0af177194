"""What is noticed in the data: doubtful labels, leaks into the evaluation data, size and colour of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import PIL.Image

from hf_transfer.data.images import RANGE_COLUMN, decode_image, read_content, with_range
from hf_transfer.diagnosis.sampling import image_column

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]

# Edge of the thumbnails that are compared, in pixels: small enough that compression and resizing leave no trace.
THUMBNAIL = 16
# Decoders may scale a JPEG down to this while they decode it, which saves most of the time.
_DRAFT = (4 * THUMBNAIL, 4 * THUMBNAIL)
# Distance of two thumbnails over the mean contrast of the two. On Fashion-MNIST and on cut-outs of animals, both of 28
# pixels, 95 % of copies (three quarters to eight times as large, JPEG of quality 50 and 75) are below 0.08; of two
# million pairs of distinct images each the closest is at 0.11 and 0.14.
DUPLICATE_DISTANCE = 0.08
# Of 255: what compression adds to images without contrast and without colour.
_NO_CONTRAST = 2.0
_NO_COLOUR = 8.0
# Below this share of the model's input an image is blown up so far that detail is missing.
_SMALL = 0.5
# How many neighbours are asked, where classes have twice as many images, and what share of them must agree while none
# has the image's own label. On Fashion-MNIST (200 images a class, 5 % wrong labels among them) four of five suspects
# had a wrong label, and six of ten wrong labels were suspected.
NEIGHBOURS = 20
_FEWEST_NEIGHBOURS = 5
_AGREEMENT = 0.7
_BLOCK = 1024


@dataclass(frozen=True)
class Looks:
    """What images look like at a glance.

    Attributes:
        thumbnails: `(images, THUMBNAIL * THUMBNAIL * 3)`, 0 to 255.
        shorter_sides: `(images,)`, in pixels.
    """

    thumbnails: FloatArray
    shorter_sides: IntArray

    @property
    def grey(self) -> npt.NDArray[np.bool_]:
        """`(images,)`: whether an image has no colour."""
        channels = self.thumbnails.reshape(len(self.thumbnails), -1, 3)
        found: npt.NDArray[np.bool_] = np.ptp(channels, axis=2).max(axis=1) <= _NO_COLOUR
        return found

    def smaller_than(self, edge: float) -> npt.NDArray[np.bool_]:
        """`(images,)`: whether the shorter side is less than half of an edge."""
        found: npt.NDArray[np.bool_] = self.shorter_sides < _SMALL * edge
        return found


def looks_of(dataset: Any, rows: IntArray) -> Looks | None:
    """Look at some images; None where a data set does not show them without running it."""
    column = image_column(dataset)
    if column is None:
        return None
    plain = dataset.with_format(None).select_columns(with_range(dataset, column))
    plain = plain.cast_column(column, datasets.Image(decode=False)).select(rows.tolist())
    found = [_look(row[column], row.get(RANGE_COLUMN)) for row in plain]
    return Looks(np.array([thumbnail for thumbnail, _ in found]), np.array([side for _, side in found]))


def near_duplicates(one: Looks, other: Looks, distance: float = DUPLICATE_DISTANCE) -> Iterator[tuple[int, int]]:
    """Pairs of images that are the same but for size and compression: positions in the one and the other.

    Images without contrast are like all others of their kind, and never called duplicates.
    """
    ours, theirs = (_with_contrast(looks.thumbnails) for looks in (one, other))
    for start in range(0, len(theirs[0]), _BLOCK):
        rows = slice(start, start + _BLOCK)
        distances = _distances(ours, (theirs[0][rows], theirs[1][rows]))
        for theirs_at, ours_at in np.argwhere(distance >= distances.T).tolist():
            yield ours_at, start + theirs_at


def noise_suspects(features: FloatArray, labels: IntArray, classes: int) -> IntArray:
    """The label that the neighbours of an image agree on against its own; -1 where they do not.

    Args:
        features: `(images, channels)`.
        labels: `(images,)`.
        classes: Number of classes.

    Returns:
        `(images,)`; all -1 where classes have fewer than 10 images in the mean, too few to tell.
    """
    nobody = np.full(len(labels), -1)
    neighbours = min(NEIGHBOURS, len(labels) // classes // 2)
    if neighbours < _FEWEST_NEIGHBOURS or not np.ptp(features, axis=0).any():
        return nobody
    suspected = nobody
    for rows, nearest in _nearest(features, neighbours):
        votes = np.zeros((len(rows), classes), np.float32)
        np.add.at(votes, (np.arange(len(rows))[:, None], labels[nearest]), 1 / neighbours)
        best = votes.argmax(axis=1)
        agreed = (votes.max(axis=1) >= _AGREEMENT - 1e-6) & (votes[np.arange(len(rows)), labels[rows]] == 0)
        suspected[rows] = np.where(agreed, best, -1)
    return suspected


def _nearest(features: FloatArray, neighbours: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Block by block images and, `(block, neighbours)`, those nearest to them by cosine of standardised features."""
    spread = features.std(axis=0)
    unit = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    for start in range(0, len(features), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(features)))
        cosines = unit[rows] @ unit.T
        cosines[np.arange(len(rows)), rows] = -np.inf
        yield rows, np.argpartition(-cosines, neighbours - 1, axis=1)[:, :neighbours]


def _look(value: Any, limits: Any) -> tuple[FloatArray, int]:
    with PIL.Image.open(BytesIO(read_content(value))) as image:
        side = min(image.size)
        image.draft("RGB", _DRAFT)
        small = decode_image(image, pixel_range=limits).resize((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.BICUBIC)
    return np.asarray(small, np.float32).ravel(), side


def _with_contrast(thumbnails: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Thumbnails and their contrasts: root mean square around the mean colour of each image."""
    contrast: FloatArray = np.sqrt(thumbnails.reshape(len(thumbnails), -1, 3).var(axis=1).mean(axis=1))
    return thumbnails, contrast


def _distances(ours: tuple[FloatArray, FloatArray], theirs: tuple[FloatArray, FloatArray]) -> FloatArray:
    pixels = ours[0].shape[1]
    squares = (ours[0] ** 2).sum(axis=1)[:, None] + (theirs[0] ** 2).sum(axis=1) - 2 * ours[0] @ theirs[0].T
    contrast = (ours[1][:, None] + theirs[1]) / 2
    distances = np.sqrt(np.maximum(squares, 0) / pixels)
    plain = np.minimum(ours[1][:, None], theirs[1]) < _NO_CONTRAST
    found: FloatArray = np.where(plain, np.inf, distances / np.maximum(contrast, _NO_CONTRAST))
    return found
