"""Splits that differ are told apart, those drawn in the same way are not."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.diagnosis.split_difference import MOST_IMAGES, differ, matched_rows, split_difference


def drawn(images: int, generator: np.random.Generator, shift: float = 0.0) -> np.ndarray:
    """Features of 300 channels along 20 directions, some of them shifted."""
    mixing = np.random.default_rng(9).normal(size=(20, 300))
    found: np.ndarray = generator.normal(size=(images, 20)) @ mixing + 0.3 * generator.normal(size=(images, 300))
    return found + shift * mixing[0]


@pytest.mark.parametrize(("train", "evaluation"), [(100, 100), (60, 15), (15, 15)])
def test_like_splits_are_not_called_different(train: int, evaluation: int) -> None:
    """Of 100 pairs of samples from one source at most 5 % are called different, and most intervals hold 0.5."""
    generator = np.random.default_rng(0)
    found = [split_difference(drawn(train, generator), drawn(evaluation, generator), seed) for seed in range(100)]
    assert np.mean([differ(each) for each in found]) <= 0.05
    assert np.mean([each is not None and each.low <= 0.5 <= each.high for each in found]) >= 0.85


def test_other_sources_are_told_apart() -> None:
    """A shift of two standard deviations along one direction of 20 is found with 200 and with 40 images."""
    generator = np.random.default_rng(1)
    for images in (200, 40):
        found = split_difference(drawn(images, generator), drawn(images, generator, shift=2.0))
        assert differ(found) and found is not None and found.value > 0.85


def test_as_many_of_each_class_are_compared() -> None:
    """Other shares of the classes are no difference, classes of one split are left out, and images are bounded."""
    train, evaluation = np.repeat([0, 1, 2], [90, 10, 5]), np.repeat([0, 1, 3], [10, 90, 5])
    ours, theirs = matched_rows(train, evaluation)
    assert np.bincount(train[ours]).tolist() == np.bincount(evaluation[theirs]).tolist() == [10, 10]
    many = np.repeat(np.arange(500), 3)
    ours, theirs = matched_rows(many, many[::-1])
    assert len(ours) == len(theirs) == MOST_IMAGES
    assert len(matched_rows(np.zeros(5, int), np.ones(5, int))[0]) == 0


def test_few_images_are_not_compared() -> None:
    """Fourteen images tell nothing."""
    assert split_difference(np.zeros((14, 3)), np.zeros((50, 3))) is None
    assert not differ(None)
