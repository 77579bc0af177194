"""Which split is which, and the stratified fifth of `train` that stands in for a missing evaluation split."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hf_transfer.errors import DataError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
EVALUATION_FRACTION = 1 / 5

_SPLIT_OF_WORD = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
# Weak names mean a split only where no folder or split of a name above does.
_WEAK = {"eval": VALIDATION, "evaluation": VALIDATION, "trainset": TRAIN, "valset": VALIDATION, "testset": TEST}
_FILLERS = frozenset(
    {"set", "data", "dataset", "image", "images", "img", "imgs", "folder", "split", "public", "private"}
)

T = TypeVar("T")


@dataclass(frozen=True)
class StratifiedSplit:
    """Row indices, ascending, of a training and an evaluation part.

    Attributes:
        train: Rows to train on.
        evaluation: Rows to evaluate on.
        undivided: Labels with a single image, which stays in `train`.
    """

    train: tuple[int, ...]
    evaluation: tuple[int, ...]
    undivided: tuple[str, ...]


def split_of(word: str) -> str | None:
    """The split that a folder or split name means: "train", "validation" or "test"; None for any other name."""
    return _SPLIT_OF_WORD.get(word.lower())


def weak_split_of(name: str) -> str | None:
    """The split that a name means in other words, such as "eval", "training_set" or "val2017"; None for any other."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # PublicTest
    words = [word for word in re.split(r"[\W\d_]+", apart.lower()) if word and word not in _FILLERS]
    return (_SPLIT_OF_WORD | _WEAK).get(words[0]) if len(words) == 1 else None


def split_in(file_name: str) -> str | None:
    """The split that is named anywhere in a file name, such as `cats_val.csv`; None if none is, or several are."""
    found = {split_of(word) for word in re.split(r"[^A-Za-z]+", file_name)} - {None}
    return found.pop() if len(found) == 1 else None


def by_split(named: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Sort named things into "train", "validation" and "test", in this order; other names are left out.

    "eval" and "evaluation" mean the validation split if no other name does.

    Raises:
        DataError: Two names, such as "val" and "dev", mean the same split.
    """
    pairs = list(named)
    taken = {split_of(name) for name, _ in pairs}
    found: dict[str, tuple[str, T]] = {}
    for name, value in pairs:
        split = split_of(name) or _WEAK.get(name.lower())
        if split is None or (split_of(name) is None and split in taken):
            continue
        if split in found:
            raise DataError(
                f"{found[split][0]!r} and {name!r} both mean the {split} split. Rename or remove one of them."
            )
        found[split] = (name, value)
    return {split: found[split][1] for split in SPLITS if split in found}


def evaluation_split_of(splits: Mapping[str, object]) -> str | None:
    """The split to evaluate on: `validation` if there is one, else `test`; None if there is neither."""
    return next((split for split in (VALIDATION, TEST) if split in splits), None)


def stratified_fifth(labels: Sequence[str], digests: Sequence[bytes], seed: int) -> StratifiedSplit:
    """Set a fifth of the images of each class aside, at least one of each class with two or more.

    Images are drawn in the order of a keyed hash of their content, so the same images are drawn whatever their order,
    file names or the versions of the libraries, and few change sides when images are added.

    Args:
        labels: `(images,)`.
        digests: `(images,)`, hashes of the contents.
        seed: Key of the hash.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        rows_of[label].append(row)
    evaluation: set[int] = set()
    for rows in rows_of.values():
        count = max(1, round(len(rows) * EVALUATION_FRACTION)) if len(rows) > 1 else 0
        evaluation.update(sorted(rows, key=lambda row: (_draw(digests[row], seed), row))[:count])
    return StratifiedSplit(
        train=tuple(row for row in range(len(labels)) if row not in evaluation),
        evaluation=tuple(sorted(evaluation)),
        undivided=tuple(label for label, rows in rows_of.items() if len(rows) == 1),
    )


def _draw(digest: bytes, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + digest).digest()
