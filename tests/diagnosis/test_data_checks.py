"""Leaks are found through resizing and compression, wrong labels among right ones, small and grey images."""

from __future__ import annotations

from io import BytesIO

import datasets
import numpy as np
import PIL.Image
import pytest

from hf_transfer.demo import demo_data_folder
from hf_transfer.diagnosis.data_checks import Looks, looks_of, near_duplicates, noise_suspects
from tests.helpers.training import RandomImages


def _data(images: list[bytes]) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(decode=False)})
    return datasets.Dataset.from_dict({"image": [{"bytes": b, "path": None} for b in images]}, features=features)


def _looks(images: list[bytes]) -> Looks:
    found = looks_of(_data(images), np.arange(len(images)))
    assert found is not None
    return found


def _changed(content: bytes, scale: float = 1.0, quality: int | None = None) -> bytes:
    """The same picture in another size and encoding."""
    with PIL.Image.open(BytesIO(content)) as image:
        size = (round(image.width * scale), round(image.height * scale))
        file = BytesIO()
        small = image.resize(size, PIL.Image.Resampling.BICUBIC)
        small.convert("RGB").save(file, "PNG" if quality is None else "JPEG", quality=quality)
    return file.getvalue()


@pytest.fixture(scope="module")
def demo() -> tuple[list[bytes], list[bytes]]:
    """The demo's training and test images, which are grey, of 28 pixels, and of few classes: all look alike."""
    parts = []
    for name in ("train", "test"):
        table = datasets.Dataset.from_parquet(str(demo_data_folder() / f"{name}.parquet"))
        plain = table.cast_column("image", datasets.Image(decode=False)).with_format(None)
        parts.append([row["bytes"] for row in plain["image"][:]])
    return parts[0], parts[1]


@pytest.mark.parametrize("change", [{}, {"quality": 75}, {"scale": 2}, {"scale": 4, "quality": 75}])
def test_duplicates_are_found(demo: tuple[list[bytes], list[bytes]], change: dict[str, float]) -> None:
    """At least 95 % of copies are found, exact ones all."""
    train = demo[0][:200]
    copied = range(0, 200, 4)
    copies = [_changed(train[i], **change) for i in copied]  # type: ignore[arg-type]
    found = set(near_duplicates(_looks(train), _looks(copies)))
    hits = sum((original, copy) in found for copy, original in enumerate(copied))
    assert hits >= (0.95 if change else 1.0) * len(copies)


def test_distinct_images_are_no_duplicates(demo: tuple[list[bytes], list[bytes]]) -> None:
    """Of the 2,000,000 pairs of the demo's training and test images next to none are called duplicates."""
    train, test = demo
    assert len(list(near_duplicates(_looks(train), _looks(test)))) <= 2


def test_plain_images_are_no_duplicates() -> None:
    """Images without contrast are like all others of their colour, which is no leak."""
    file = BytesIO()
    PIL.Image.new("RGB", (20, 20), (90, 10, 10)).save(file, "PNG")
    assert not list(near_duplicates(_looks([file.getvalue()]), _looks([file.getvalue()])))


def test_size_and_colour() -> None:
    """Shorter sides and images without colour, grey stored as colour among them."""
    generator = np.random.default_rng(0)
    colour = generator.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    colour[:20] //= 3
    grey = np.repeat(colour[..., :1], 3, axis=2)
    images = []
    for pixels, kind in ((colour, "PNG"), (grey, "PNG"), (grey, "JPEG"), (grey[..., 0], "PNG")):
        file = BytesIO()
        PIL.Image.fromarray(pixels).save(file, kind)
        images.append(file.getvalue())
    found = _looks(images)
    assert found.grey.tolist() == [False, True, True, True]
    assert found.shorter_sides.tolist() == [40] * 4
    assert found.smaller_than(81).all()
    assert not found.smaller_than(80).any()


def test_wrong_labels_are_suspected() -> None:
    """Of 5 % wrong labels half are found, among 600 images of six classes that overlap; nearly no suspect is right."""
    generator = np.random.default_rng(0)
    labels = np.arange(600) % 6
    means = generator.normal(size=(6, 20)) * 1.1
    features = means[labels] + generator.normal(size=(600, 20))
    wrong = generator.random(600) < 0.05
    given = np.where(wrong, (labels + generator.integers(1, 6, 600)) % 6, labels)
    suspected = noise_suspects(features, given, 6)
    found = suspected >= 0
    assert (found & wrong).sum() >= 0.5 * wrong.sum()
    assert (found & wrong).sum() >= 0.9 * found.sum()
    assert np.array_equal(suspected[found & wrong], labels[found & wrong])


def test_few_or_equal_images_are_not_suspected() -> None:
    """Constant features and a handful of images give no suspects and no warning."""
    assert (noise_suspects(np.ones((30, 4)), np.arange(30) % 3, 3) == -1).all()
    assert (noise_suspects(np.arange(4.0)[:, None], np.array([0, 0, 1, 1]), 2) == -1).all()


def test_data_that_must_be_run_are_not_looked_at() -> None:
    """Without a column of encoded images there is nothing to look at."""
    assert looks_of(RandomImages(4), np.arange(4)) is None
