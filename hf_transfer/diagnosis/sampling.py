"""Which images a diagnosis looks at: all of them, or a stratified sample in which each class is present.

Nothing depends on the order of the images or on the names of the classes: images are ordered by a hash of their
content and the seed, classes by their first image in that order. Only where a data set does not show its images
without running it (any but a `datasets.Dataset` with encoded images) a hash of the position takes the place of that
of the content.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hf_transfer.data.columns import is_image_feature
from hf_transfer.errors import ArgumentError, DataError
from hf_transfer.utils.foreign import configured

IntArray = npt.NDArray[np.integer[Any]]

LABEL_NAMES = ("labels", "label", "label_ids")
# Accuracies of 2,000 images have a standard error of at most 1.1 points; a pass over them takes a minute on two cores.
SAMPLE_IMAGES = 2000
# What leave-one-out needs to be trusted, as long as the sample stays below `MOST_IMAGES`.
PER_CLASS = 20
MOST_IMAGES = 10_000
# A class with a single image can be fitted to but not be held out.
FEWEST_PER_CLASS = 2
_ROWS_AT_A_TIME = 1000


@dataclass(frozen=True)
class Sample:
    """The images that are looked at.

    Attributes:
        rows: `(sample,)`: their positions in the data set, in the order of their hashes.
        labels: `(sample,)`: classes, numbered by their first image.
        names: Names of the classes by that number.
        counts: `(classes,)`: images of each class in the whole data set.
    """

    rows: IntArray
    labels: IntArray
    names: tuple[str, ...]
    counts: IntArray

    @property
    def total(self) -> int:
        """Images of the whole data set."""
        return int(self.counts.sum())

    @property
    def is_all(self) -> bool:
        """Whether it is the whole data set."""
        return len(self.rows) == self.total

    def first(self, images: int) -> IntArray:
        """Positions within the sample of a smaller stratified sample of about this size."""
        return np.flatnonzero(_is_taken(self.labels, _allocated(np.bincount(self.labels), images)))


def draw_sample(
    dataset: Any, labels: IntArray, names: Sequence[str] | None = None, images: int | None = None, seed: int = 0
) -> Sample:
    """Draw a stratified sample: classes keep their shares, but none has fewer than its minimum.

    Args:
        dataset: The data set that holds the images.
        labels: `(images,)`: class indices of all images.
        names: Names of the classes by their index; None takes the indices.
        images: About how many to draw; None takes 2,000, or 20 of each class up to 10,000, but two of each class.
        seed: Another seed, another sample.

    Raises:
        ArgumentError: Fewer images are asked for than two for each class.
        DataError: There are fewer than two classes.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(
            f"A diagnosis compares classes: expected images of at least two, found {len(present)} in {len(labels)} "
            "images. Add images of another class."
        )
    least = FEWEST_PER_CLASS * len(present)
    if images is not None and images < min(least, len(labels)):
        raise ArgumentError(
            f"A sample needs two images of each of {len(present)} classes, {least} in all; found sample={images}."
        )
    wanted = max(SAMPLE_IMAGES, min(PER_CLASS * len(present), MOST_IMAGES), least) if images is None else images
    order = np.argsort(image_keys(dataset, len(labels), seed), kind="stable")
    ordered = labels[order]
    _, first = np.unique(ordered, return_index=True)
    classes = ordered[np.sort(first)]
    numbers = np.zeros(int(present.max()) + 1, np.int64)
    numbers[classes] = np.arange(len(classes))
    compact = numbers[ordered]
    counts = np.bincount(compact)
    taken = _is_taken(compact, _allocated(counts, wanted))
    found = [str(label) if names is None else str(names[label]) for label in classes.tolist()]
    return Sample(order[taken], compact[taken], tuple(found), counts)


def labels_and_names(dataset: Any, model: Any = None) -> tuple[IntArray, tuple[str, ...] | None]:
    """Class indices of all images, without decoding those of a `datasets.Dataset`, and the classes' names.

    Raises:
        DataError: There are no images, or images without a label.
    """
    if not len(dataset):
        raise DataError("The data set is empty: a diagnosis needs images of at least two classes.")
    values, names = _labels(dataset)
    missing = [index for index, value in enumerate(values) if value is None or value != value or int(value) < 0]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(values)} images have no label; the first is image {missing[0]}. Take them out."
        )
    labels = np.array([int(value) for value in values], np.int64)
    if names is None:
        by_index = configured(model, "id2label") or {}
        if all(label in by_index for label in np.unique(labels).tolist()):
            names = tuple(str(by_index.get(index, index)) for index in range(int(labels.max()) + 1))
    return labels, names


def image_keys(dataset: Any, images: int, seed: int) -> npt.NDArray[np.uint64]:
    """A hash for each image, of its bytes or path and the seed; of its position where these cannot be seen.

    Of paths only what differs counts, so that a data set in another folder is the same one.
    """
    salt = f"{seed}".encode()
    column = image_column(dataset)
    if column is None:
        return np.array([_hash(salt, str(index).encode()) for index in range(images)], np.uint64)
    plain = dataset.select_columns([column]).with_format("arrow")
    found = np.empty(images, np.uint64)
    paths: dict[int, str] = {}
    for start in range(0, images, _ROWS_AT_A_TIME):
        table: pa.Table = plain[start : start + _ROWS_AT_A_TIME]
        for offset, value in enumerate(table.column(column).to_pylist()):
            content = (value or {}).get("bytes")
            if content is None:
                paths[start + offset] = str((value or {}).get("path") or "").replace("\\", "/")
            else:
                found[start + offset] = _hash(salt, content)
    common = os.path.commonprefix(list(paths.values())).rpartition("/")[0]
    for place, path in paths.items():
        found[place] = _hash(salt, path[len(common) :].encode())
    return found


def image_column(dataset: Any) -> str | None:
    """The one column of encoded images; None where there is none, or no telling which."""
    if not isinstance(dataset, datasets.Dataset):
        return None
    found = [name for name, feature in dataset.features.items() if is_image_feature(feature)]
    return found[0] if len(found) == 1 else None


def _hash(salt: bytes, content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, salt=salt[:16]).digest(), "little")


def _labels(dataset: Any) -> tuple[list[Any], tuple[str, ...] | None]:
    if isinstance(dataset, datasets.Dataset):
        name = next((name for name in LABEL_NAMES if name in dataset.column_names), None)
        if name is None:
            raise DataError(
                f"A diagnosis needs labels: no column {' or '.join(LABEL_NAMES)} in {dataset.column_names}."
            )
        names = getattr(dataset.features[name], "names", None)
        return list(dataset.with_format(None)[name][:]), None if names is None else tuple(names)
    values = []
    for index in range(len(dataset)):
        row = dataset[index]
        name = next((name for name in LABEL_NAMES if name in row), None)
        if name is None:
            raise DataError(f"A diagnosis needs labels: image {index} has none of {', '.join(LABEL_NAMES)}.")
        values.append(row[name])
    return values, None


def _allocated(counts: IntArray, images: int) -> IntArray:
    """How many images of each class to take: its share, but no fewer than a few."""
    if images >= counts.sum():
        return counts
    least = max(FEWEST_PER_CLASS, min(PER_CLASS, images // (4 * len(counts))))
    shares = np.rint(images * counts / counts.sum()).astype(np.int64)
    allocated: IntArray = np.minimum(counts, np.maximum(shares, least))
    return allocated


def _is_taken(labels: IntArray, allocated: IntArray) -> npt.NDArray[np.bool_]:
    """Whether each image, in order, is among the first of its class, up to a number."""
    order = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(allocated)))[:-1]])
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - starts[labels[order]]
    taken: npt.NDArray[np.bool_] = rank < allocated[labels]
    return taken
