"""Labels of a data set, read once with its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from hf_transfer.errors import DataError

_LABELS = ("labels", "label", "label_ids")


def labels_of(dataset: Any) -> tuple[Any, Any]:
    """How to get the labels of a data set without decoding its images twice.

    Returns:
        A function that gives the labels `(images,)`, and the data set to read the images from before it is called.
    """
    if isinstance(dataset, datasets.Dataset):
        name = next((name for name in _LABELS if name in dataset.column_names), None)
        if name is None:
            raise DataError(f"A head needs labels: no column {' or '.join(_LABELS)} in {dataset.column_names}.")
        return lambda: np.asarray(dataset.with_format(None)[name][:]), dataset
    recording = _Recording(dataset)
    return recording.labels, recording


class _Recording(Dataset[Any]):
    """A data set that remembers the labels of the rows that were read."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._found: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        row = self.dataset[index]
        name = next((name for name in _LABELS if isinstance(row, Mapping) and name in row), None)
        if name is None:
            raise DataError(f"A head needs labels: image {index} has none of {', '.join(_LABELS)}.")
        try:
            self._found[index] = int(row[name])
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"A head is solved for one label to an image; that of image {index} is none.") from error
        return row

    def labels(self) -> npt.NDArray[np.integer[Any]]:
        """Labels of all images; rows that were read elsewhere, by a worker or another rank, are read here."""
        for index in range(len(self)):
            if index not in self._found:
                self[index]
        return np.array([self._found[index] for index in range(len(self))], np.int64)
