"""Samples hold every class in its share, and depend on neither the order of images nor the names of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from hf_transfer.diagnosis.sampling import Sample, draw_sample, image_keys, labels_and_names
from hf_transfer.errors import ArgumentError, DataError
from tests.helpers import labelled_images
from tests.helpers.training import RandomImages


def _images(labels: list[int]) -> datasets.Dataset:
    """Rows whose content differs; nothing decodes it here."""
    values = [{"bytes": f"image {i}".encode(), "path": None} for i in range(len(labels))]
    names = [f"class {i}" for i in range(max(labels) + 1)]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"image": values, "label": labels}, features=features)


def _drawn(data: datasets.Dataset, images: int | None = None, seed: int = 0) -> Sample:
    labels, names = labels_and_names(data)
    return draw_sample(data, labels, names, images, seed)


def _content(data: datasets.Dataset, sample: Sample) -> list[tuple[Any, str]]:
    """What was drawn, in order, with the classes' names."""
    images = data["image"][:]
    pairs = zip(sample.rows, sample.labels, strict=True)
    return [(images[int(row)]["bytes"], sample.names[label]) for row, label in pairs]


def test_small_data_are_taken_whole() -> None:
    """Up to 2,000 images all are measured."""
    data = _images([i % 3 for i in range(90)])
    found = _drawn(data)
    assert found.is_all
    assert sorted(found.rows) == list(range(90))
    assert found.total == 90
    assert found.counts.tolist() == [30, 30, 30]


def test_the_order_of_images_does_not_matter() -> None:
    """A permuted data set gives the same images in the same order, all or a sample of them."""
    data = _images([i % 3 if i < 60 else 2 for i in range(300)])
    order = np.random.default_rng(0).permutation(300).tolist()
    for images in (None, 100):
        same = _content(data, _drawn(data, images))
        assert _content(data.select(order), _drawn(data.select(order), images)) == same


def test_the_order_of_classes_does_not_matter() -> None:
    """Other indices for the classes change neither images nor the numbers that classes get in the sample."""
    labels = [i % 3 for i in range(90)]
    one, other = _images(labels), _images([[2, 0, 1][label] for label in labels])
    for images in (None, 40):
        first, second = _drawn(one, images), _drawn(other, images)
        assert np.array_equal(first.rows, second.rows)
        assert np.array_equal(first.labels, second.labels)
        assert [["class 2", "class 0", "class 1"][int(name[-1])] for name in first.names] == list(second.names)


def test_another_seed_draws_another_sample() -> None:
    """And the same seed the same one."""
    data = _images([i % 2 for i in range(200)])
    assert _content(data, _drawn(data, 50)) == _content(data, _drawn(data, 50))
    assert set(_drawn(data, 50, seed=0).rows) != set(_drawn(data, 50, seed=1).rows)


def test_classes_keep_their_shares() -> None:
    """A tenth of the images has a tenth of each class, but rare classes keep a few."""
    data = _images([0] * 6000 + [1] * 3000 + [2] * 30 + [3])
    found = _drawn(data, 903)
    counts = dict(zip(found.names, np.bincount(found.labels), strict=True))
    assert counts == {"class 0": 600, "class 1": 300, "class 2": 20, "class 3": 1}
    smaller = found.first(100)
    assert np.bincount(found.labels[smaller], minlength=4).min() >= 1
    assert 100 <= len(smaller) <= 115


def test_ten_thousand_classes() -> None:
    """Two images of each class, where it has them."""
    found = _drawn(_images([i % 10_000 for i in range(35_000)]))
    assert len(found.names) == 10_000
    assert np.bincount(found.labels).min() == 2
    assert 20_000 <= len(found.rows) <= 30_000


def test_what_cannot_be_sampled_is_said() -> None:
    """One class, no images, no labels, missing labels, and a sample too small for its classes."""
    with pytest.raises(DataError, match="at least two, found 1 in 5 images"):
        _drawn(_images([0] * 5))
    with pytest.raises(DataError, match="empty"):
        labels_and_names(_images([0, 1]).select([]))
    with pytest.raises(DataError, match="no column labels or label"):
        labels_and_names(_images([0, 1]).remove_columns("label"))
    with pytest.raises(DataError, match="1 of 3 images have no label; the first is image 1"):
        labels_and_names(_images([0, 1, 1]).remove_columns("label").add_column("label", [0, None, 1]))
    with pytest.raises(ArgumentError, match="two images of each of 3 classes, 6 in all; found sample=5"):
        _drawn(_images([i % 3 for i in range(30)]), 5)


def test_files_are_known_by_their_paths(tmp_path: Path) -> None:
    """Nothing is read of images that are files of their own."""
    data = labelled_images.image_files(tmp_path, 4)
    keys = image_keys(data, 4, 0)
    for path in tmp_path.iterdir():
        path.unlink()
    assert np.array_equal(image_keys(data, 4, 0), keys)
    assert len(set(keys.tolist())) == 4


def test_other_data_sets_are_known_by_position() -> None:
    """A data set that must be run to see its images is sampled by position; its labels are read row by row."""
    data = RandomImages(30)
    labels, names = labels_and_names(data)
    assert names is None
    found = draw_sample(data, labels, names)
    assert sorted(found.rows) == list(range(30))
    assert set(found.names) == {"0", "1", "2"}


def test_a_data_set_in_another_folder_is_the_same() -> None:
    """Of images that are files only the path below their common folder counts."""
    names = ["cat/1.png", "cat/2.png", "dog/1.png"]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    keys = [
        image_keys(datasets.Dataset.from_dict({"image": [f"{folder}/{name}" for name in names]}, features), 3, 0)
        for folder in ("/data/pets", "/tmp/copy of pets/train")
    ]
    assert np.array_equal(*keys) and len(set(keys[0])) == 3
