"""One pass over all images before training: each is decoded, hashed and measured; bad ones are found now."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import PIL.Image
from datasets import Dataset
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from hf_transfer.data.image_data import SkippedImage
from hf_transfer.data.images import open_image, read_content, upright
from hf_transfer.data.pixels import PixelStatistics, is_deep, kind_of, measure
from hf_transfer.errors import DataError

logger = logging.getLogger(__name__)

# Above this share something is wrong with the data set itself, and leaving images out would hide it.
MAX_BAD_SHARE = 0.01
_SHOWN = 10
_ROWS_AT_ONCE = 128


@dataclass(frozen=True)
class CheckedImage:
    """What the check found.

    Attributes:
        digest: SHA-256 of the encoded image.
        height: In pixels, upright; 0 for a bad image.
        width: In pixels, upright; 0 for a bad image.
        reason: Why the image is bad; None for a good one.
        kind: In words what it is stored as; empty for RGB and grey of 8 bits.
        pages: Number of pages or frames.
        pixels: Statistics of a grey image of more than 8 bits.
    """

    digest: bytes
    height: int
    width: int
    reason: str | None = None
    kind: str = ""
    pages: int = 1
    pixels: PixelStatistics | None = None


def check_image(value: Mapping[str, Any]) -> CheckedImage:
    """Read, hash and fully decode one image, as training will."""
    try:
        content = read_content(value)
        with open_image(content) as opened:
            kind, pages = kind_of(opened), getattr(opened, "n_frames", 1)
            image = upright(opened)
            pixels = measure(image) if is_deep(image) else None
            if pixels is None:
                image.convert("RGB")
            return CheckedImage(
                hashlib.sha256(content).digest(), image.height, image.width, kind=kind, pages=pages, pixels=pixels
            )
    except DataError as error:
        return CheckedImage(b"", 0, 0, str(error))


def check_images(images: Dataset, split: str) -> list[CheckedImage]:
    """Check all images of a split in a pool of threads, with a progress bar.

    Args:
        images: With the column "image", not decoded.
        split: For the progress bar.
    """
    # In a job of several processes on one machine all check, but one bar is enough.
    quiet = os.environ.get("LOCAL_RANK", "0") not in ("0", "-1")
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(images), desc=f"Checking {split}", unit="image", disable=quiet) as bar,
    ):
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", message="Palette images with Transparency", category=UserWarning)
        checked: list[CheckedImage] = []
        for rows in _batches(images):
            for result in pool.map(check_image, rows):
                checked.append(result)
                bar.update()
    return checked


def good_rows(
    split: str, names: Sequence[str], checked: Sequence[CheckedImage], skip_bad_images: bool
) -> tuple[list[int], tuple[SkippedImage, ...]]:
    """Which images to keep, and which not.

    Args:
        split: For messages.
        names: `(images,)`.
        checked: `(images,)`.
        skip_bad_images: Go on with more than 1 % bad images.

    Returns:
        Rows of the good images, and the bad ones, which are also logged.

    Raises:
        DataError: More than 1 % are bad without `skip_bad_images`, or all are.
    """
    bad = tuple(
        SkippedImage(split, name, image.reason)
        for name, image in zip(names, checked, strict=True)
        if image.reason is not None
    )
    if not bad:
        return list(range(len(checked))), ()
    first = "; ".join(f"{image.name}: {image.reason}" for image in bad[:_SHOWN])
    more = f"; and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
    found = f"{len(bad):,} of the {len(checked):,} images in {split} cannot be read ({first}{more})"
    if len(bad) == len(checked):
        raise DataError(f"{found}. None is left: check that the files are images and that their paths are right.")
    if len(bad) > MAX_BAD_SHARE * len(checked) and not skip_bad_images:
        raise DataError(f"{found}, more than {MAX_BAD_SHARE:.0%}. Repair them, or leave them out: --skip_bad_images.")
    logger.warning("%s; they are left out.", found)
    return [row for row, image in enumerate(checked) if image.reason is None], bad


def _batches(images: Dataset) -> Iterator[list[Mapping[str, Any]]]:
    for start in range(0, len(images), _ROWS_AT_ONCE):
        yield images[start : start + _ROWS_AT_ONCE]["image"]
