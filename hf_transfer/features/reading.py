"""Rows of a data set as a model's input, read in batches, each image decoded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hf_transfer.data import eval_transform
from hf_transfer.data.columns import is_image_feature
from hf_transfer.data.images import with_range
from hf_transfer.data.transforms import EvalTransform
from hf_transfer.errors import ArgumentError, DataError
from hf_transfer.utils.random_state import own_random_numbers

PIXELS = "pixel_values"
Row = Mapping[str, Any]


def model_inputs(dataset: Any, processor: Any = None) -> Any:
    """A data set whose rows have "pixel_values".

    Args:
        dataset: A `datasets.Dataset` with an image column, or any map-style data set that makes "pixel_values" itself.
        processor: The model's image processor, which makes them of a column of images.

    Raises:
        ArgumentError: The data set has no length, or makes no "pixel_values" and there is no processor to make them.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ArgumentError(
            f"Features are extracted from a data set with a length, found {type(dataset).__name__}. Load a streamed "
            "data set into memory or onto the disk first."
        )
    if not isinstance(dataset, datasets.Dataset):
        return dataset
    transform = dataset.format["format_kwargs"].get("transform")
    if isinstance(transform, EvalTransform) and "image" in dataset.column_names:
        # Without labels and names, so that it is known as the same images whatever other columns there are.
        return _images_with(dataset.with_format(None).select_columns(with_range(dataset, "image")), transform)
    if dataset.format["type"] == "custom" or PIXELS in dataset.column_names:
        return dataset
    found = [name for name, feature in dataset.features.items() if is_image_feature(feature)]
    if len(found) != 1 or processor is None:
        what = f"image columns: {found}" if len(found) != 1 else "no processor"
        raise ArgumentError(
            f"Features are extracted from one column of images and with the model's processor, found {what}. Give "
            'them, or a data set whose transform makes "pixel_values".'
        )
    images = dataset.select_columns(with_range(dataset, *found))
    images = images if found == ["image"] else images.rename_column(found[0], "image")
    return _images_with(images, eval_transform(processor))


def _images_with(images: datasets.Dataset, transform: EvalTransform) -> datasets.Dataset:
    return images.cast_column("image", datasets.Image(decode=False)).with_transform(transform)


class SeededViews(Dataset[Any]):
    """Several views of each image: row `view * images + image` is the image under the random numbers of that view.

    The numbers depend on seed, view and image alone, so that a view is the same whoever computes it.

    Args:
        dataset: Map-style; its transform may be random.
        views: Number of views; with one view and no seed the data set is read as it is.
        seed: Seed for the random numbers.
    """

    def __init__(self, dataset: Any, views: int = 1, seed: int | None = None) -> None:
        self.dataset = dataset
        self.views = views
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset) * self.views

    def __getitem__(self, row: int) -> Any:
        if self.seed is None:
            return self.dataset[row]
        view, image = divmod(row, len(self.dataset))
        with own_random_numbers(hash((self.seed, view, image))):
            return self.dataset[image]

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        together = getattr(self.dataset, "__getitems__", None)
        if self.seed is None and together is not None:
            return list(together(list(rows)))
        return [self[row] for row in rows]


def read_batches(dataset: Any, batches: Sequence[Sequence[int]], workers: int = 0) -> Iterator[list[Row]]:
    """Read batches of rows, in order, without touching the global random numbers.

    Args:
        dataset: Map-style.
        batches: Row numbers of each batch.
        workers: Processes that read; 0 reads in this one.
    """
    generator = torch.Generator()  # without one of its own a DataLoader draws from the global numbers
    generator.manual_seed(0)
    loader = DataLoader(
        dataset,
        batch_sampler=[list(batch) for batch in batches],
        collate_fn=list,
        num_workers=workers,
        generator=generator,
    )
    yield from loader


def pixel_values(rows: Sequence[Row]) -> torch.Tensor:
    """The rows' images as one tensor `(batch, channels, height, width)`.

    Raises:
        DataError: A row has none, or they differ in size.
    """
    missing = [row for row in rows if not isinstance(row, Mapping) or PIXELS not in row]
    if missing:
        found = sorted(missing[0]) if isinstance(missing[0], Mapping) else type(missing[0]).__name__
        raise DataError(f'Each row must be a mapping with "{PIXELS}", found {found}.')
    images = [torch.as_tensor(np.asarray(v) if isinstance(v := row[PIXELS], list) else v) for row in rows]
    if len({image.shape for image in images}) > 1:
        sizes = ", ".join(sorted({"×".join(map(str, image.shape)) for image in images})[:5])
        raise DataError(f"Images differ in size ({sizes}). Set one size: --image_size N, or a processor that crops.")
    return torch.stack(images)
