"""Pixels of more than 8 bits: one range for a whole data set, and words for what images are stored as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

Range = tuple[float, float]

ENDS = (1, 255, 1023, 4095, 16383, 65535)
"""Where pixels of floating point and of 8, 10, 12, 14 and 16 bits usually end."""
_FEW = 0.001
"""A share of pixels that may lie outside of a range: hot pixels, and values that stand for no data."""
_KINDS: Mapping[str, str] = {
    "1": "of 1 bit",
    "P": "with a palette",
    "PA": "with a palette",
    "LA": "with opacity",
    "La": "with opacity",
    "RGBA": "with opacity",
    "RGBa": "with opacity",
    "RGBX": "of four bands, of which the first three are used",
    "CMYK": "in CMYK",
    "YCbCr": "in YCbCr",
    "LAB": "in LAB",
    "HSV": "in HSV",
    "I": "of 32-bit integers",
    "F": "of floating point",
}


@dataclass(frozen=True)
class PixelStatistics:
    """The values of one grey image of more than 8 bits.

    Attributes:
        count: Number of pixels.
        below: Number of negative ones.
        nodata: The value of all negative pixels, if they have one alone; else None.
        above: Number of pixels above each of `ENDS`.
        low: Quantile at 0.1 %.
        high: Quantile at 99.9 %.
        floating: Whether the values are of floating point.
    """

    count: int
    below: int
    nodata: float | None
    above: tuple[int, ...]
    low: float
    high: float
    floating: bool


def is_deep(image: PIL.Image.Image) -> bool:
    """Whether an image is grey with more than 8 bits."""
    return image.mode[0] in "IF"


def measure(image: PIL.Image.Image) -> PixelStatistics:
    """Count the values of a grey image of more than 8 bits; what is not a finite number counts as no pixel."""
    pixels = np.asarray(image)
    pixels = pixels[np.isfinite(pixels)].astype(np.float64).ravel()
    if pixels.size == 0:
        pixels = np.zeros(1)
    negative = pixels[pixels < 0]
    single = negative.size > 0 and bool((negative == negative[0]).all())
    low, high = np.quantile(pixels, (_FEW, 1 - _FEW))
    return PixelStatistics(
        count=pixels.size,
        below=negative.size,
        nodata=float(negative[0]) if single else None,
        above=tuple(int((pixels > end).sum()) for end in ENDS),
        low=float(low),
        high=float(high),
        floating=image.mode == "F",
    )


def common_range(found: Sequence[PixelStatistics]) -> Range:
    """The range from which all images of a data set are scaled to 0..255.

    It is the first of 0..1 (floating point alone), 0..255, 10, 12, 14 and 16 bits that holds all but 0.1 % of the
    pixels of all images; negative pixels of one value alone stand for no data. Else it is the range of the values
    themselves, without the most extreme images.

    Args:
        found: One for each image, not empty.
    """
    total = sum(each.count for each in found)
    nodata = {each.nodata for each in found if each.below}
    below = 0 if len(nodata) == 1 and None not in nodata else sum(each.below for each in found)
    if below <= _FEW * total:
        for position, end in enumerate(ENDS):
            if end == 1 and not all(each.floating for each in found):
                continue
            if sum(each.above[position] for each in found) <= _FEW * total:
                return 0.0, float(end)
    low = float(np.quantile([each.low for each in found], 0.01))
    high = float(np.quantile([each.high for each in found], 0.99))
    return (low, high) if high > low else (low, low + 1)


def scaled(pixels: npt.NDArray[np.float64], limits: Sequence[float]) -> PIL.Image.Image:
    """Scale grey pixels from a range to 8 bits; what lies outside is clipped, what is no number is black."""
    low, high = limits
    values = (np.nan_to_num(pixels, nan=low) - low) * (255 / (high - low))
    return PIL.Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def kind_of(image: PIL.Image.Image) -> str:
    """In words what an image is stored as, after its number; empty for RGB and grey of 8 bits.

    Args:
        image: Opened, and best not loaded yet.
    """
    if image.mode.startswith("I;16"):
        return "of 16 bits"
    bands = tiff_tags(image).get(277, 0)
    if bands > len(image.getbands()) or (bands == 4 and image.mode == "RGBA" and not _states_opacity(image)):
        return f"of {bands} bands, of which the first {min(3, len(image.getbands()))} are used"
    # How a plugin reads the file is known until it has.
    if any(";16" in str(tile[-1]) for tile in vars(image).get("tile") or ()):
        return "of 16 bits a colour, of which the upper 8 are used"
    return _KINDS.get(image.mode, "")


def tiff_tags(image: PIL.Image.Image) -> Mapping[int, Any]:
    """The tags of an image from a TIFF file; empty for other images."""
    return getattr(image, "tag_v2", None) or {}


def _states_opacity(image: PIL.Image.Image) -> bool:
    """Whether a TIFF says that its last band is an opacity, and not just another band."""
    extra = tiff_tags(image).get(338, ())
    return any(kind in (1, 2) for kind in (extra if isinstance(extra, tuple) else (extra,)))


def described(kinds: Iterable[str], limits: Range | None) -> tuple[str, ...]:
    """Each kind of image with its number, the most frequent first, and what the deep ones are scaled from."""
    counts = Counter(kind for kind in kinds if kind)
    parts = [f"{count:,} {kind}" for kind, count in counts.most_common()]
    if limits is not None:
        parts.append(f"grey images of more than 8 bits are scaled from {limits[0]:g}..{limits[1]:g} to 0..255")
    return tuple(parts)
