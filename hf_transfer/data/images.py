"""Decoding of one image, of any mode that Pillow reads, into an upright one with 8 bits a channel."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL import TiffImagePlugin

from hf_transfer.data.pixels import is_deep, scaled, tiff_tags
from hf_transfer.errors import DataError

ImageValue: TypeAlias = Mapping[str, Any] | bytes | PIL.Image.Image | str | os.PathLike[str]

RANGE_COLUMN = "pixel_range"
"""Column with the range of a data set's deep grey images; only where there are such images."""
_ORIENTATION = 0x0112
_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_OBJECT = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>")


def decode_image(value: ImageValue, mode: str = "RGB", pixel_range: Sequence[float] | None = None) -> PIL.Image.Image:
    """Decode an image to an upright one with 8 bits a channel.

    The pixels are those that `pipeline("image-classification")` sees: the EXIF rotation is applied, then
    `convert("RGB")`. So transparency is dropped and not blended with a background: the colours stored under
    transparent pixels show. Only greyscale with more than 8 bits differs, which Pillow would clip to white and which
    is scaled here: 16-bit files from 0..65535; 32-bit integers from 0..255, from 0..65535 or from their own range,
    whichever is the first to hold them; floating point likewise, with 0..1 as the first range.

    Args:
        value: Content of an image file, its path, an open Pillow image, or a mapping with "bytes" or "path" as
            `datasets` gives for an image that is not decoded.
        mode: "RGB", or for models of one or four channels "L" or "RGBA".
        pixel_range: Range of the data set from which grey images of more than 8 bits are scaled; None takes that of
            the image.

    Raises:
        DataError: The file is missing, empty, damaged, no image, of a kind that Pillow reads wrongly, or has more than
            twice `PIL.Image.MAX_IMAGE_PIXELS` pixels, Pillow's limit against decompression bombs. The message never
            holds a path.
    """
    if isinstance(value, PIL.Image.Image):
        return _eight_bits(upright(value), mode, pixel_range)
    with open_image(read_content(value)) as opened:
        return _eight_bits(upright(opened), mode, pixel_range)


def with_range(dataset: Any, *columns: str) -> list[str]:
    """Columns of a data set, and that with the range of its pixels where there is one: images need it."""
    return [*columns, *([RANGE_COLUMN] if RANGE_COLUMN in dataset.column_names else [])]


def decode_row(row: Mapping[str, Any], mode: str = "RGB") -> PIL.Image.Image:
    """Decode the image of a row of an `ImageData`, from the range of its data set; errors as in `decode_image`."""
    return decode_image(row["image"], mode, row.get(RANGE_COLUMN))


@contextlib.contextmanager
def open_image(content: bytes) -> Iterator[PIL.Image.Image]:
    """An image of any mode, as it lies in the bytes of a file; errors of the context as in `decode_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            opened = PIL.Image.open(BytesIO(content))
        with opened as image:
            _check_kind(image)
            yield image
    except DataError:
        raise
    # Pillow's plugins raise almost anything on damaged files: OSError, SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        raise DataError(_reason(error, content)) from error


def read_content(value: ImageValue) -> bytes:
    """The encoded bytes of an image that is not decoded yet.

    Raises:
        DataError: There is no file, it cannot be read, or it is empty. The message never holds a path.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path") or b""
    content = bytes(value) if isinstance(value, bytes | bytearray) else _read_file(os.fspath(value))  # type: ignore[arg-type]
    if not content:
        raise DataError("the file is empty (0 bytes)")
    return content


def _read_file(path: str) -> bytes:
    if "://" in path:
        raise DataError("it is a URL, and images are not fetched from URLs; download it first")
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError("there is no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"the file cannot be read ({getattr(error, 'strerror', None) or 'invalid name'})") from error


def _check_kind(image: PIL.Image.Image) -> None:
    """Refuse what Pillow opens, but with other values than the file has."""
    tags = tiff_tags(image)
    if not tags:
        return
    bits, white_is_zero = max(_many(tags.get(258, 1))), tags.get(262) == 0
    if bits == 8 and 2 in _many(tags.get(339, 1)):
        raise DataError("it is a TIFF of signed 8-bit pixels; convert it to 16 bits or to unsigned pixels")
    if bits > 8 and white_is_zero:
        raise DataError(f"it is a TIFF of {bits} bits in which 0 is white; convert it so that 0 is black")


def _many(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (int(value),)


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """Apply the rotation that a camera notes; other tags that are broken do not matter."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken tags raise almost anything, and the pixels are whole
        orientation = 1
    method = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _eight_bits(image: PIL.Image.Image, mode: str, pixel_range: Sequence[float] | None) -> PIL.Image.Image:
    """Bring an upright image of any mode to a mode of 8 bits a channel."""
    if is_deep(image):
        pixels = np.asarray(image).astype(np.float64)
        if pixel_range is not None:
            image = scaled(pixels, pixel_range)
        elif image.mode.startswith("I;16"):
            image = _from_grey(pixels * (255 / 65535))
        else:
            ranges = (255, 65535) if image.mode == "I" else (1, 255, 65535)
            image = _from_grey(_scaled(np.nan_to_num(pixels), ranges))
    return image.convert(mode)


def _scaled(pixels: npt.NDArray[np.float64], ranges: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Scale pixels to 0..255 from the first range, 0 to its end, that holds them all, else from their own."""
    low, high = float(pixels.min()), float(pixels.max())
    if low >= 0:
        for end in ranges:
            if high <= end:
                return pixels * (255 / end)
    return (pixels - low) * (255 / (high - low)) if high > low else np.zeros_like(pixels)


def _from_grey(pixels: npt.NDArray[np.float64]) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _reason(error: Exception, content: bytes) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return _tiff_in_words(content) or "it is no image, or of a format that Pillow does not know"
    if isinstance(error, PIL.Image.DecompressionBombError):
        limit = PIL.Image.MAX_IMAGE_PIXELS or 0
        return f"it has more than {2 * limit:,} pixels, the limit against decompression bombs (--max_image_pixels)"
    text = _OBJECT.sub("the file", str(error).strip().split("\n")[0])[:160]
    return f"it is damaged or cut short ({text or type(error).__name__})"


def _tiff_in_words(content: bytes) -> str | None:
    """What a TIFF holds that Pillow does not open; None for other files."""
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
        file = BytesIO(content)
        file.seek(tags.next)
        tags.load(file)
        bands, bits, form = tags.get(277, 1), max(_many(tags.get(258, 1))), _many(tags.get(339, 1))[0]
    except Exception:  # as for any damaged file
        return None
    numbers = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(form, "complex")
    return f"it is a TIFF of {bands} bands of {bits}-bit {numbers} pixels, which Pillow does not read"
