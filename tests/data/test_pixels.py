"""hf_transfer.data.pixels: one range for all deep grey images of a data set, and words for what images are."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL import TiffImagePlugin

from hf_transfer.data import decode_image, decode_row, load
from hf_transfer.errors import DataError
from tests.helpers.image_files import picture

GREY = np.random.default_rng(0).random((12, 20, 20))
"""Twelve images of values from 0 to 1."""


def _save(root: Path, images: Sequence[Any], suffix: str = ".tif") -> str:
    """Two classes of images, from arrays."""
    for number, pixels in enumerate(images):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(folder / f"{number}{suffix}")
    return str(root)


def _with_one(pixels: Any, value: float) -> Any:
    changed = pixels.copy()
    changed[3, 5, 5] = value
    return changed


DEEP: dict[str, tuple[Any, tuple[float, float]]] = {
    "16 bits": ((GREY * 65535).astype(np.uint16), (0, 65535)),
    "14 bits": ((GREY * 16383).astype(np.uint16), (0, 16383)),
    "12 bits": ((GREY * 4095).astype(np.uint16), (0, 4095)),
    "10 bits": ((GREY * 1023).astype(np.uint16), (0, 1023)),
    "8 bits in 16": ((GREY * 255).astype(np.uint16), (0, 255)),
    "12 bits and a hot pixel": (_with_one((GREY * 4095).astype(np.uint16), 65535), (0, 4095)),
    "floats": ((GREY * 0.98).astype(np.float32), (0, 1)),
    "floats and a pixel above": (_with_one((GREY * 0.98).astype(np.float32), 1.01), (0, 1)),
    "floats and a pixel without data": (_with_one((GREY * 0.98).astype(np.float32), -9999), (0, 1)),
    "floats and a pixel that is no number": (_with_one((GREY * 0.98).astype(np.float32), np.nan), (0, 1)),
    "floats of 8 bits": ((GREY * 255).astype(np.float32), (0, 255)),
    "32-bit integers": ((GREY * 60000).astype(np.int32), (0, 65535)),
}


@pytest.mark.parametrize("case", DEEP)
def test_all_images_have_the_range_of_the_data_set(case: str, tmp_path: Path) -> None:
    """The smallest usual range that holds all but a few pixels of all images; each image is scaled from it."""
    images, expected = DEEP[case]
    data = load(_save(tmp_path, images))
    assert data.pixel_range == expected
    assert data.to_dict()["pixel_range"] == list(expected)
    assert any("are scaled from" in text for text in data.pixels)
    assert data.train is not None
    for row in data.train.with_format(None):
        number = int(Path(row["name"]).stem)
        seen = np.asarray(decode_row(row))[..., 0].astype(float)
        right = np.clip(np.rint(np.nan_to_num(images[number].astype(float)) / expected[1] * 255), 0, 255)
        assert np.array_equal(seen, right)


def test_signed_values_have_a_range_of_their_own(tmp_path: Path) -> None:
    """Values below zero that are no single mark of missing data: the range of the values, both ends."""
    low, high = load(_save(tmp_path, (GREY * 2000 - 1000).astype(np.int32))).pixel_range or (0, 0)
    assert -1000 <= low < -950
    assert 950 < high <= 1000


def test_a_dark_image_stays_dark(tmp_path: Path) -> None:
    """An image that uses a hundredth of the range is not brightened by itself."""
    images = (GREY * 65535).astype(np.uint16)
    images[4] //= 100
    data = load(_save(tmp_path, images))
    assert data.train is not None
    dark = [row for row in data.train.with_format(None) if row["name"] == "a/4.tif"]
    assert all(np.asarray(decode_row(row)).max() <= 3 for row in dark)


def test_a_range_can_be_given(tmp_path: Path) -> None:
    """To evaluate, the range is that of the training, whatever the images at hand hold."""
    data = load(_save(tmp_path, (GREY * 900).astype(np.uint16)), pixel_range=(0.0, 4095.0))
    assert data.pixel_range == (0.0, 4095.0)


def test_ordinary_images_have_none(tmp_path: Path) -> None:
    """RGB and grey of 8 bits: no range, no column, no word."""
    data = load(_save(tmp_path, (GREY * 255).astype(np.uint8), ".png"))
    assert (data.pixel_range, data.pixels) == (None, ())
    assert data.train is not None and data.train.column_names == ["image", "label", "name"]
    assert "pixels" not in data.to_dict()


@pytest.mark.parametrize(
    ("mode", "suffix", "words"),
    [
        ("P", ".png", "12 with a palette"),
        ("RGBA", ".png", "12 with opacity"),
        ("LA", ".png", "12 with opacity"),
        ("CMYK", ".jpg", "12 in CMYK"),
        ("1", ".png", "12 of 1 bit"),
        ("LAB", ".tif", "12 in LAB"),
    ],
)
def test_what_is_not_plain_is_counted(mode: str, suffix: str, words: str, tmp_path: Path) -> None:
    """What images are stored as is told with its number."""
    for number in range(12):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        image = picture(number)
        image = image.convert("L").convert(mode) if mode in ("LA", "1") else _converted(image, mode)
        image.save(tmp_path / "ab"[number % 2] / f"{number}{suffix}")
    assert load(str(tmp_path)).pixels == (words,)


def _converted(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    return PIL.Image.merge("LAB", image.split()) if mode == "LAB" else image.convert(mode)


def test_colours_of_16_bits_are_counted(tmp_path: Path) -> None:
    """Pillow keeps the upper 8 bits of each colour, so that reflectances of 12 bits would be dark: told."""
    for number in range(6):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        pixels = (GREY[number, :, :, None] * np.full(3, 65535)).astype(">u2")
        _sixteen_bit_png(pixels, tmp_path / "ab"[number % 2] / f"{number}.png")
    assert load(str(tmp_path)).pixels == ("6 of 16 bits a colour, of which the upper 8 are used",)


def _sixteen_bit_png(pixels: Any, path: Path) -> None:
    """Pillow writes no PNG of 16 bits a colour."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = pixels.shape[1].to_bytes(4) + pixels.shape[0].to_bytes(4) + bytes((16, 2, 0, 0, 0))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = b"".join(len(c).to_bytes(4) + n + c + zlib.crc32(n + c).to_bytes(4) for n, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_pages_are_counted(tmp_path: Path) -> None:
    """Animations and scans of several pages: the first is used, with a word."""
    for number in range(6):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        first, second = picture(number), picture(number + 50)
        first.save(tmp_path / "ab"[number % 2] / f"{number}.tif", save_all=True, append_images=[second])
    assert load(str(tmp_path)).pixels == ("6 of several pages or frames, of which the first is used",)


def _tiff(pixels: Any, **tags: Any) -> bytes:
    """A TIFF with other tags than Pillow would write."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag[1:])] = value
    buffer = BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "TIFF", tiffinfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: _tiff((GREY[0] * 200).astype(np.uint8), t339=2), "signed 8-bit pixels"),
        (lambda: _tiff((GREY[0] * 60000).astype(np.uint16), t262=0), "16 bits in which 0 is white"),
    ],
)
def test_what_pillow_reads_wrongly_is_refused(make: Callable[[], bytes], reason: str) -> None:
    """Wrapped or inverted values are a reason in words, and no image."""
    with pytest.raises(DataError, match=reason):
        decode_image(make())


def test_bands_that_pillow_does_not_read_are_named() -> None:
    """13 bands of double precision: the reason says what it is."""
    tags = ((256, 4, 4), (257, 4, 4), (258, 3, 64), (259, 3, 1), (262, 3, 1), (277, 3, 13), (339, 3, 3))
    entries = b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + (1).to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, value in tags
    )
    content = b"II*\0" + (8).to_bytes(4, "little") + len(tags).to_bytes(2, "little") + entries + b"\0\0\0\0"
    with pytest.raises(DataError, match="a TIFF of 13 bands of 64-bit floating-point pixels"):
        decode_image(content)


def test_a_rotation_beside_broken_tags_is_applied() -> None:
    """A camera's rotation counts where another tag is malformed, and an image without readable tags is whole."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    buffer = BytesIO()
    picture().save(buffer, "PNG", exif=exif.tobytes() + b"\xff\xfe")
    assert decode_image(buffer.getvalue()).size == (10, 14)
    buffer = BytesIO()
    picture().save(buffer, "PNG", exif=b"Exif\0\0no tags at all")
    assert decode_image(buffer.getvalue()).size == (14, 10)


def test_large_images_can_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_image_pixels` lowers or raises the limit."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", PIL.Image.MAX_IMAGE_PIXELS)
    folder = _save(tmp_path, (GREY * 255).astype(np.uint8), ".png")
    assert load(folder, max_image_pixels=400).train is not None
    with pytest.raises(DataError, match="more than 398 pixels"):
        load(folder, max_image_pixels=398)
