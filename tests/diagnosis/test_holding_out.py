"""Held-out rows are stratified, never of a class of one, and never a copy of what is fitted to."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.diagnosis.holding_out import ENOUGH, hold_out
from hf_transfer.errors import DataError


class _Rows:
    """Rows without images: their positions take the place of the content."""


def test_many_images_are_held_out_once() -> None:
    """Of 2,000 images about 200 are held out, of each class its share, and all others are fitted to."""
    labels = np.repeat(np.arange(10), [380, *[180] * 9])
    rows = hold_out(_Rows(), labels)
    assert rows.once
    fit, held = rows.folds[0]
    assert sorted(np.concatenate([fit, held]).tolist()) == list(range(2000))
    assert np.bincount(labels[held]).tolist() == [38, *[18] * 9]
    assert rows.labels.tolist() == labels[held].tolist()


def test_of_few_images_each_is_held_out_in_its_turn() -> None:
    """Below the limit all images are held out once, but that of a class of one, which is always fitted to."""
    labels = np.array([0] * 12 + [1] * 9 + [2])
    rows = hold_out(_Rows(), labels)
    assert not rows.once and len(labels) < ENOUGH
    held = np.concatenate([held for _, held in rows.folds])
    assert sorted(held.tolist()) == list(range(21))
    assert all(21 in fit and not set(fit) & set(held) for fit, held in rows.folds)


def test_another_seed_draws_other_images_and_the_same_seed_the_same() -> None:
    """The draw depends on the seed alone."""
    labels = np.arange(1200) % 4
    first, again, other = (hold_out(_Rows(), labels, seed).folds[0][1].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_copies_of_an_image_are_in_the_same_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image that is held out has a copy among those that are fitted to."""
    content = np.arange(40) // 4
    monkeypatch.setattr("hf_transfer.diagnosis.holding_out.image_keys", lambda *_: content.astype(np.uint64))
    rows = hold_out(_Rows(), content % 2)
    assert len(rows.folds) > 1
    assert all(not set(content[fit]) & set(content[held]) for fit, held in rows.folds)


def test_classes_of_one_image_each_are_refused() -> None:
    """Where nothing can be held out, one line says so."""
    with pytest.raises(DataError, match="more than one image"):
        hold_out(_Rows(), np.arange(5))
