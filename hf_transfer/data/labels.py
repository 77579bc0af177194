"""Labels as text: read from a column, checked, sorted and mapped onto class indices."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import ClassLabel, Dataset

from hf_transfer.data.spelling import normalised
from hf_transfer.errors import DataError

_SHOWN = 10


@dataclass(frozen=True)
class LabelColumn:
    """The labels of a split.

    Attributes:
        values: `(images,)`, normalised; None where the label is missing.
        declared: The names that a `ClassLabel` declares, in their order; None for other columns.
        changed: Labels before and after they were normalised, to the number of images.
    """

    values: tuple[str | None, ...]
    declared: tuple[str, ...] | None = None
    changed: Mapping[tuple[str, str], int] = field(default_factory=dict)


def read_labels(dataset: Dataset, column: str) -> LabelColumn:
    """Read a column of class indices, text, whole numbers or truth values as text.

    Text is normalised. None, NaN, empty text and, in a `ClassLabel`, -1 count as missing.

    Raises:
        DataError: The column holds lists or fractions.
    """
    feature = dataset.features[column]
    values = dataset.select_columns([column]).with_format(None)[:][column]
    if isinstance(feature, ClassLabel):
        names = tuple(feature.names)
        return _normalised([_name_of(value, names, column) for value in values], names)
    return _normalised([_text(value, column) for value in values])


def check_none_missing(split: str, labels: Sequence[str | None], names: Sequence[str]) -> None:
    """Check that each image has a label.

    Args:
        split: For the message.
        labels: `(images,)`.
        names: `(images,)`, for the message.

    Raises:
        DataError: Counts the missing ones and lists the first.
    """
    missing = [name for name, label in zip(names, labels, strict=True) if label is None]
    if missing:
        raise DataError(
            f"{len(missing):,} of the {len(labels):,} images in {split} have no label: {shown(missing)}. Give each a "
            "label, remove these rows, or name another column with --label_column."
        )


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort distinct names: whole numbers by value, text by its words and numbers, so that "cat2" precedes "cat10"."""
    distinct = set(names)
    if all(re.fullmatch(r"[+-]?\d+", name) for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct, key=lambda name: (_natural(name), name)))


def check_classes(labels: Mapping[str, Sequence[str]]) -> None:
    """Check that the labels of all splits can be learnt from `train`.

    Args:
        labels: Split to the labels of its images; must have "train".

    Raises:
        DataError: There is only one class, or another split has a class that `train` lacks.
    """
    trained = set(labels["train"])
    if len(trained) < 2:
        raise DataError(
            f"All {len(labels['train']):,} images in train have the label {next(iter(trained), '')!r}; expected two "
            "or more classes. Add images of another class, or name another column with --label_column."
        )
    for split, values in labels.items():
        unknown = Counter(value for value in values if value not in trained)
        if unknown:
            found = shown([f"{name!r} ({unknown[name]:,} images)" for name in sorted_names(unknown)])
            raise DataError(
                f"{split} has labels that train has not: {found}. Labels in train: "
                f"{shown([repr(name) for name in sorted_names(trained)])}. Add such images to train, or remove them."
            )


def check_known(labels: Mapping[str, Sequence[str]], label_names: Sequence[str]) -> None:
    """Check that the labels are among those of a model.

    Raises:
        DataError: Lists the labels of the data and those of the model; or the model's are not distinct.
    """
    twice = [name for name, count in Counter(label_names).items() if count > 1]
    if twice:
        raise DataError(
            f"Several classes of the model have the same name: {shown([repr(name) for name in twice])}. Labels are "
            "matched by name: make the names distinct in id2label of the model's config.json."
        )
    found = sorted_names(label for values in labels.values() for label in values)
    unknown = [name for name in found if name not in set(label_names)]
    if unknown:
        raise DataError(
            f"The model does not know the labels {shown([repr(name) for name in unknown])}. Labels of the data: "
            f"{shown([repr(name) for name in found], 50)}. Labels of the model: "
            f"{shown([repr(name) for name in label_names], 50)}. Rename the labels of the data, or choose another "
            "column with --label_column."
        )


def shown(items: Sequence[str], limit: int = _SHOWN) -> str:
    """The first items as text, and how many more there are."""
    more = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def _normalised(values: Sequence[str | None], declared: Sequence[str] | None = None) -> LabelColumn:
    counts = Counter(value for value in values if value is not None)
    form = {name: normalised(name) for name in (*counts, *(declared or ()))}
    return LabelColumn(
        tuple(None if value is None else form[value] or None for value in values),
        None if declared is None else tuple(dict.fromkeys(form[name] for name in declared)),
        {(name, form[name]): count for name, count in counts.items() if form[name] not in ("", name)},
    )


def _name_of(value: int | None, names: Sequence[str], column: str) -> str | None:
    if value is None or value == -1:
        return None
    if not 0 <= value < len(names):
        raise DataError(f"Column {column!r} holds the class index {value}; expected 0 to {len(names) - 1}.")
    return names[value]


def _text(value: Any, column: str) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int):
        return str(value) if str(value).strip() else None
    kind = "several labels for one image" if isinstance(value, list) else f"{value!r}"
    raise DataError(
        f"Column {column!r} holds {kind}; expected one class for each image, as text or as a whole number. Name "
        "another column with --label_column."
    )


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    parts = re.split(r"(\d+)", name.casefold())
    # Numbers and words alternate, but which comes first differs from name to name.
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts if part)
