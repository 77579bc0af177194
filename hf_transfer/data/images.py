"""Decoding of one image, of any mode that Pillow reads, into an upright one with 8 bits a channel."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL import ImageOps

from hf_transfer.errors import DataError

ImageValue: TypeAlias = Mapping[str, Any] | bytes | PIL.Image.Image | str | os.PathLike[str]

_OBJECT = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>")


def decode_image(value: ImageValue, mode: str = "RGB") -> PIL.Image.Image:
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

    Raises:
        DataError: The file is missing, empty, damaged, no image, or larger than Pillow's limit against decompression
            bombs (`PIL.Image.MAX_IMAGE_PIXELS`). The message never holds a path.
    """
    if isinstance(value, PIL.Image.Image):
        return _upright(value, mode)
    content = read_content(value)
    try:
        with PIL.Image.open(BytesIO(content)) as image:
            _check_pixels(image.width * image.height)
            return _upright(image, mode)
    except DataError:
        raise
    # Pillow's plugins raise almost anything on damaged files: OSError, SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        raise DataError(_reason(error)) from error


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


def _check_pixels(pixels: int) -> None:
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise DataError(f"{pixels:,} pixels are more than {limit:,}, the limit against decompression bombs")


def _upright(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = _from_grey(np.asarray(image).astype(np.float64) * (255 / 65535))
    elif image.mode == "I":
        image = _from_grey(_scaled(np.asarray(image).astype(np.float64), (255, 65535)))
    elif image.mode == "F":
        image = _from_grey(_scaled(np.nan_to_num(np.asarray(image).astype(np.float64)), (1, 255, 65535)))
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


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "it is no image, or of a format that Pillow does not know"
    if isinstance(error, PIL.Image.DecompressionBombError):
        limit = PIL.Image.MAX_IMAGE_PIXELS or 0
        return f"it has more than {2 * limit:,} pixels, the limit against decompression bombs"
    text = _OBJECT.sub("the file", str(error).strip().split("\n")[0])[:160]
    return f"it is damaged or cut short ({text or type(error).__name__})"
