"""What must be known of a data set before its images are stored: shape, randomness, collator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch

from hf_transfer.data.transforms import EvalTransform
from hf_transfer.errors import DataError
from hf_transfer.feature_cache.packing import without_image
from hf_transfer.features.cache_folder import CacheFolder
from hf_transfer.features.fingerprints import (
    content_fingerprint,
    fingerprint,
    transform_fingerprint,
    transform_of,
    versions,
)
from hf_transfer.features.reading import PIXELS, Row, pixel_values
from hf_transfer.utils.random_state import own_random_numbers

# So many images that a transform which changes half of them is caught, save once in 65,000 times.
_TRIED = 16


@dataclass(frozen=True)
class Inputs:
    """What is known of a data set.

    Attributes:
        fingerprint: Fingerprint of rows and transform; None where it is not known.
        shape: Shape of each image, `(channels, height, width)`.
        dtype: Name of torch's type.
        random: Whether the transform gives another image each time.
    """

    fingerprint: str | None
    shape: tuple[int, ...]
    dtype: str
    random: bool

    @staticmethod
    def rows(dataset: Any, count: int) -> list[Row]:
        """Rows from all over a data set; fewer images than rows are repeated."""
        return [dataset[i * max(len(dataset) // count, 1) % len(dataset)] for i in range(count)]


def known_inputs(dataset: Any, collator: Callable[[Any], Any], folder: CacheFolder) -> Inputs:
    """Look at a few images; or at the note of an earlier run with the same data, transform and collator.

    Raises:
        DataError: The images cannot be stored, and why.
    """
    data = content_fingerprint(dataset)
    transform = None if data is None else transform_fingerprint(transform_of(dataset))
    known = None if transform is None else fingerprint({"data": data, "transform": transform, "versions": versions()})
    collated = None if known is None else transform_fingerprint(collator)
    key = None if collated is None else fingerprint({"kind": "inputs", "data": known, "collator": collated})
    noted = None if key is None else folder.noted(key)
    if noted is not None:
        return Inputs(known, tuple(noted["shape"]), noted["dtype"], noted["random"])
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or not len(dataset):
        raise DataError("the data set has no length, or no images")
    known_fixed = _is_fixed(dataset)
    with own_random_numbers(0):
        rows = Inputs.rows(dataset, min(2 if known_fixed else _TRIED, len(dataset)))
    images = pixel_values(rows)
    if images.ndim != 4 or not images.is_floating_point():
        raise DataError(f"images are {images.dtype} of shape {tuple(images.shape[1:])}, not (channels, height, width)")
    random = not known_fixed and _is_random(dataset, images)
    _check_collator(collator, rows)
    found = Inputs(known, tuple(images.shape[1:]), str(images.dtype).removeprefix("torch."), random)
    if key is not None:
        folder.note(key, {"shape": list(found.shape), "dtype": found.dtype, "random": found.random})
    return found


def changes_at_random(dataset: Any) -> bool:
    """Whether a map-style data set gives other images each time; a few are read to see.

    Raises:
        DataError: Rows have no images, or such of different sizes.
    """
    if _is_fixed(dataset) or not len(dataset):
        return False
    with own_random_numbers(0):
        images = pixel_values(Inputs.rows(dataset, min(_TRIED, len(dataset))))
    return _is_random(dataset, images)


def _is_fixed(dataset: Any) -> bool:
    return isinstance(dataset, datasets.Dataset) and isinstance(transform_of(dataset), EvalTransform)


def _is_random(dataset: Any, images: torch.Tensor) -> bool:
    """Whether the same rows give other images under other random numbers."""
    with own_random_numbers(1):
        again = pixel_values(Inputs.rows(dataset, len(images)))
    return not torch.equal(images, again)


def _check_collator(collator: Callable[[Any], Any], rows: Sequence[Row]) -> None:
    """Check that a collator only stacks images, so that it stacks packed rows as well.

    Raises:
        DataError: It does something else, such as mixing images.
    """
    stand_ins = torch.arange(len(rows) * 24).remainder(251).to(torch.uint8).reshape(len(rows), 24)
    packed = [{PIXELS: stand_in, **without_image(row)} for stand_in, row in zip(stand_ins, rows, strict=True)]
    with own_random_numbers(2):
        expected = collator([dict(row) for row in rows])
        try:
            found = collator(packed)
        except Exception as error:  # foreign code; it needs what is not stored
            raise DataError(f"the data collator needs the images ({type(error).__name__}: {error})") from error
    if not isinstance(expected, Mapping) or not isinstance(found, Mapping) or expected.keys() != found.keys():
        raise DataError("the data collator gives other keys without the images")
    same = {key: _same(expected[key], found[key]) for key in expected if key != PIXELS}
    same[PIXELS] = _same(expected.get(PIXELS), pixel_values(rows)) and _same(found.get(PIXELS), stand_ins)
    if not all(same.values()):
        changed = ", ".join(key for key, equal in same.items() if not equal)
        raise DataError(f"the data collator does more than to stack the rows ({changed})")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)
