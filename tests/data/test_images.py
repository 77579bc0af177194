"""hf_transfer.data.images: every kind of image becomes upright RGB, every bad file a clear reason."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from transformers.image_utils import load_image

from hf_transfer.data import decode_image
from hf_transfer.errors import DataError
from tests.helpers.image_files import encoded, picture


def _rotated() -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    buffer = BytesIO()
    picture().save(buffer, format="JPEG", exif=exif)
    return buffer.getvalue()


def _palette() -> bytes:
    buffer = BytesIO()
    picture().convert("P").save(buffer, format="PNG", transparency=bytes(range(0, 250, 10)))
    return buffer.getvalue()


def _translucent() -> PIL.Image.Image:
    image = picture().convert("RGBA")
    image.putalpha(PIL.Image.linear_gradient("L").resize(image.size))
    return image


KINDS = {
    "rgb": encoded(picture()),
    "grey": encoded(picture().convert("L")),
    "black and white": encoded(picture().convert("1")),
    "grey with alpha": encoded(picture().convert("LA")),
    "rgba": encoded(_translucent()),
    "palette with transparency": _palette(),
    "gif": encoded(picture().convert("P"), "GIF"),
    "cmyk": encoded(picture().convert("CMYK"), "JPEG"),
    "ycbcr": encoded(picture().convert("YCbCr"), "TIFF"),
    "webp": encoded(picture(), "WEBP"),
    "exif": _rotated(),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_the_pipeline(kind: str, tmp_path: Path) -> None:
    """What training sees of a file is what transformers' pipelines see of it, pixel by pixel."""
    (tmp_path / "image").write_bytes(KINDS[kind])
    expected = load_image(str(tmp_path / "image"))
    found = decode_image(KINDS[kind])
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_exif_rotation_is_applied() -> None:
    """A photograph taken sideways is turned upright."""
    assert PIL.Image.open(BytesIO(KINDS["exif"])).size == (14, 10)
    assert decode_image(KINDS["exif"]).size == (10, 14)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    """16-bit greyscale keeps its greys, from black over the middle to white."""
    pixels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    found = np.asarray(decode_image(encoded(PIL.Image.fromarray(pixels), kind)))
    assert found[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (found == found[..., :1]).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 32896, 65535], [0, 128, 255]),
        ([-1000, 0, 1000], [0, 128, 255]),
        ([0, 50_000, 100_000], [0, 128, 255]),
        ([70_000, 70_000, 70_000], [0, 0, 0]),
    ],
)
def test_integers_of_32_bits_are_scaled_by_their_range(values: list[int], expected: list[int]) -> None:
    """The smallest usual range that holds all values is the one that they are scaled from."""
    image = PIL.Image.fromarray(np.array([values], dtype=np.int32))
    assert image.mode == "I"
    assert np.asarray(decode_image(image))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 0.5, 1], [0, 128, 255]), ([0, 128, 255], [0, 128, 255]), ([float("nan"), 0, 1], [0, 0, 255])],
)
def test_floats_are_scaled_by_their_range(values: list[float], expected: list[int]) -> None:
    """Floating point greys of 0..1 and 0..255 are both understood; NaN is black."""
    image = PIL.Image.fromarray(np.array([values], dtype=np.float32))
    assert np.asarray(decode_image(encoded(image, "TIFF")))[0, :, 0].tolist() == expected


def test_all_ways_to_give_an_image_agree(tmp_path: Path) -> None:
    """Bytes, path, open image and the mappings of datasets give the same pixels."""
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(3)))
    ways = [
        path.read_bytes(),
        path,
        str(path),
        picture(3),
        {"bytes": path.read_bytes(), "path": None},
        {"bytes": None, "path": str(path)},
        {"bytes": path.read_bytes(), "path": "elsewhere.png"},
    ]
    for way in ways:
        assert np.array_equal(np.asarray(decode_image(way)), np.asarray(picture(3)))


def _bomb() -> bytes:
    content = bytearray(encoded(picture()))
    content[16:24] = struct.pack(">II", 40_000, 40_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"not an image", "no image"),
        (encoded(picture(), "JPEG")[:-200], "cut short"),
        (encoded(picture())[:60], "cut short|no image"),
        (_bomb(), "decompression bomb"),
    ],
)
def test_bad_files_have_a_reason_without_path(content: bytes, reason: str, tmp_path: Path) -> None:
    """Empty, foreign, truncated and enormous files are refused; the reason can be published."""
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        decode_image(path)
    assert str(tmp_path) not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_large_images_are_read_up_to_pillows_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow only warns up to twice its limit: such images are read, without its warning; larger ones are refused."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_image(encoded(picture())).size == (14, 10)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.raises(DataError, match="more than 120 pixels.*--max_image_pixels"):
        decode_image(encoded(picture()))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"bytes": None, "path": "nowhere.png"}, "no such file"),
        ({"bytes": None, "path": None}, "empty"),
        ({"bytes": None, "path": "https://example.com/a.png"}, "URL"),
        ({"bytes": None, "path": "nul\0.png"}, "cannot be read"),
    ],
)
def test_missing_files_have_a_reason(value: dict[str, str | None], reason: str) -> None:
    """A path to nothing, no path, a URL and an impossible name are told apart."""
    with pytest.raises(DataError, match=reason):
        decode_image(value)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    """A path to a folder is refused without naming it."""
    with pytest.raises(DataError, match="cannot be read") as caught:
        decode_image(tmp_path)
    assert str(tmp_path) not in str(caught.value)
