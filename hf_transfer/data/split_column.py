"""The splits of one table: from a column that names them, else from the folders of its images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from datasets import Dataset

from hf_transfer.data.columns import plain_name
from hf_transfer.data.splits import SPLITS, TEST, TRAIN, VALIDATION, split_of, weak_split_of

logger = logging.getLogger(__name__)

_NAMES = ("split", "set", "subset", "partition", "fold", "data split", "dataset split", "data set", "usage", "phase")
_FLAGS = {"is train": TRAIN, "is training": TRAIN, "is training image": TRAIN, "is test": TEST, "is testing": TEST}
_FLAGS |= dict.fromkeys(("is valid", "is val", "is validation", "is dev", "is eval"), VALIDATION)
_TRUTH = {"true": True, "1": True, "1.0": True, "yes": True, "y": True, "t": True}
_TRUTH |= {"false": False, "0": False, "0.0": False, "no": False, "n": False, "f": False, "": False, "none": False}
_PAIRS = ({"true", "false"}, {"0", "1"}, {"yes", "no"}, {"0.0", "1.0"})
_SHOWN = 5


def rows_by_split(table: Dataset, taken: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The rows of each split, if a column tells; empty if none does. A line says what is used and what is not.

    Args:
        table: Any columns.
        taken: Columns of images and labels, which are not asked.
    """
    columns = {plain_name(name): name for name in reversed(table.column_names) if name not in taken}
    for plain in _NAMES:
        if plain in columns:
            values = [_text(value) for value in _values(table, columns[plain])]
            if found := _by_name(columns[plain], values):
                return found
    flags = {columns[plain]: split for plain, split in _FLAGS.items() if plain in columns}
    flags |= {name: split for plain, name in columns.items() if (split := split_of(plain)) and _is_truth(table, name)}
    return _by_truth({name: [_text(v) for v in _values(table, name)] for name in flags}, flags)


def has_splits(table: Dataset, taken: Sequence[str]) -> bool:
    """Whether a column names several splits, or truth values of one."""
    for name in table.column_names:
        values = {_text(value) for value in _values(table, name)} if name not in taken and _is_asked(name) else set()
        split = {split_of(value) or weak_split_of(value) for value in values} - {None}
        if len(split) > 1 or (plain_name(name) in _FLAGS and len(values) > 1):
            return True
    return False


def rows_by_folder(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The rows of each split, if all images lie in folders that are called train, test and so on; else empty.

    Args:
        names: `(images,)`, relative paths.
    """
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    for depth in range(min(map(len, folders), default=0)):
        splits = [split_of(parts[depth]) for parts in folders]
        if None not in splits and TRAIN in splits and len(set(splits)) > 1:
            return _told("the folders of the images", splits, [parts[depth] for parts in folders])
    return {}


def _is_asked(column: str) -> bool:
    return plain_name(column) in _NAMES or plain_name(column) in _FLAGS


def _by_name(column: str, values: Sequence[str]) -> dict[str, tuple[int, ...]]:
    counts = Counter(values)
    split = {value: split_of(value) or weak_split_of(value) for value in counts}
    if not any(split.values()) or (None in split.values() and TRAIN not in split.values()):
        logger.warning(
            "The column %r is not used: its values (%s) do not name splits such as train and test.",
            column,
            _shown(counts),
        )
        return {}
    return _told(f"the column {column!r}", [split[value] for value in values], values)


def _is_truth(table: Dataset, column: str) -> bool:
    """Whether a column that is called as a split, such as `test`, holds true and false."""
    return {_text(value).lower() for value in _values(table, column)} in _PAIRS


def _by_truth(values: Mapping[str, Sequence[str]], flags: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Rows by columns of truth values, such as `is_valid`; what is in neither is train, or test beside `is_train`."""
    truths: dict[str, list[bool]] = {}
    for name, column in values.items():
        if unknown := Counter(value for value in column if value.lower() not in _TRUTH):
            logger.warning("The column %r is not used: its values (%s) are no truth values.", name, _shown(unknown))
        else:
            truths[name] = [_TRUTH[value.lower()] for value in column]
    if not truths:
        return {}
    rest = TEST if all(flags[name] == TRAIN for name in truths) else TRAIN
    splits = [rest] * len(next(iter(truths.values())))
    for name in sorted(truths, key=lambda name: SPLITS.index(flags[name])):
        splits = [flags[name] if true else split for true, split in zip(truths[name], splits, strict=True)]
    return _told(f"the columns {' and '.join(map(repr, truths))}", splits, splits)


def _told(source: str, splits: Sequence[str | None], values: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The rows of each split, with a line; empty if all rows are of one split, which divides nothing."""
    rows = {split: tuple(row for row, each in enumerate(splits) if each == split) for split in SPLITS}
    rows = {split: found for split, found in rows.items() if found}
    if len(set(splits)) == 1:
        if TRAIN not in rows:
            logger.warning("All images are of the %s split by %s; it is not used.", next(iter(rows)), source)
        return {}
    shown = ", ".join(f"{split} {len(found):,}" for split, found in rows.items())
    logger.warning("The splits are those of %s: %s images.", source, shown)
    unknown = Counter(value for value, split in zip(values, splits, strict=True) if split is None)
    if unknown:
        logger.warning("By %s, %s name no split: these images are not used.", source, _shown(unknown))
    return rows


def _values(table: Dataset, column: str) -> list[Any]:
    values = table.select_columns([column]).with_format(None)[:][column]
    names = getattr(table.features[column], "names", None)
    if not names:
        return values
    return [None if value is None or value < 0 else names[value] for value in values]


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _shown(counts: Mapping[str, int]) -> str:
    items = [f"{value or 'empty'!r} {count:,}" for value, count in list(counts.items())[:_SHOWN]]
    return ", ".join(items) + (", ..." if len(counts) > _SHOWN else "")
