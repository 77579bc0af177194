"""hf_transfer.data.splits: which split is which, and the stratified fifth."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_transfer.data.splits import by_split, evaluation_split_of, split_in, split_of, stratified_fifth
from hf_transfer.errors import DataError


def _digests(count: int) -> list[bytes]:
    return [hashlib.sha256(str(index).encode()).digest() for index in range(count)]


def test_names_of_splits() -> None:
    """The usual words in any case; other words are no splits."""
    assert [split_of(word) for word in ("Train", "training", "val", "valid", "dev", "testing", "extra")] == [
        "train",
        "train",
        "validation",
        "validation",
        "validation",
        "test",
        None,
    ]
    assert by_split([("test", 1), ("other", 2), ("train", 3)]) == {"train": 3, "test": 1}
    with pytest.raises(DataError, match="'val' and 'dev' both mean the validation split"):
        by_split([("val", 1), ("dev", 2)])


def test_splits_in_file_names() -> None:
    """One word among others counts; two leave the question open."""
    names = ("train", "cats_val", "test-00000-of-00003", "train_test", "contest", "training2")
    assert [split_in(name) for name in names] == ["train", "validation", "test", None, None, "train"]


def test_evaluation_split() -> None:
    """Validation before test, else neither."""
    assert evaluation_split_of({"train": 0, "validation": 0, "test": 0}) == "validation"
    assert evaluation_split_of({"train": 0, "test": 0}) == "test"
    assert evaluation_split_of({"train": 0}) is None


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=80), st.integers(0, 3), st.randoms())
def test_the_fifth_is_stratified_and_depends_on_content_alone(
    labels: list[str], seed: int, shuffler: random.Random
) -> None:
    """A partition with a fifth of each class, at least one of two or more; any row order draws the same images."""
    digests = _digests(len(labels))
    found = stratified_fifth(labels, digests, seed)
    assert sorted(found.train + found.evaluation) == list(range(len(labels)))
    counts, drawn = Counter(labels), Counter(labels[row] for row in found.evaluation)
    for label, count in counts.items():
        assert drawn[label] == (max(1, round(count / 5)) if count > 1 else 0)
    assert set(found.undivided) == {label for label, count in counts.items() if count == 1}
    order = list(range(len(labels)))
    shuffler.shuffle(order)
    again = stratified_fifth([labels[row] for row in order], [digests[row] for row in order], seed)
    assert {order[row] for row in again.evaluation} == set(found.evaluation)


def test_the_draw_is_the_same_for_ever() -> None:
    """A pinned result: old runs stay comparable."""
    assert stratified_fifth(["a"] * 10 + ["b"] * 5, _digests(15), 42).evaluation == (8, 9, 12)


def test_few_images_change_sides_when_images_are_added() -> None:
    """Growing data keep most of their evaluation split."""
    before = set(stratified_fifth(["a"] * 100, _digests(100), 42).evaluation)
    after = set(stratified_fifth(["a"] * 110, _digests(110), 42).evaluation)
    assert len(before & after) >= 17
