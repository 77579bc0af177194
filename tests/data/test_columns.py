"""hf_transfer.data.columns: the columns of images and labels are found, or asked for."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import ClassLabel, Image, List, Value

from hf_transfer.data.columns import find_image_column, find_label_column
from hf_transfer.errors import DataError

TEXT, WHOLE, CLASS = Value("string"), Value("int64"), ClassLabel(names=["a", "b"])
STRUCT = {"bytes": Value("binary"), "path": Value("string")}


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"x": Image(), "label": WHOLE}, "x"),
        ({"image": Image(), "mask": Image()}, "image"),
        ({"x": STRUCT, "path": TEXT}, "x"),
        ({"img_bytes": WHOLE, "image": Value("binary"), "path": TEXT}, "image"),
        ({"pixels": List(List(WHOLE)), "label": WHOLE}, "pixels"),
        ({"imagePath": TEXT, "id": WHOLE}, "imagePath"),
        ({"File Name": TEXT, "title": TEXT}, "File Name"),
        ({"image": TEXT, "path": TEXT}, "image"),
    ],
)
def test_image_column_is_found(features: dict[str, Any], expected: str) -> None:
    """By type first, then by the usual names in any spelling."""
    assert find_image_column(features) == expected


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"front": Image(), "back": Image()}, r"It could be front or back \(.*\)\. Choose with --image_column"),
        ({"file": TEXT, "path": TEXT, "label": WHOLE}, "It could be file or path"),
        (
            {"title": TEXT, "label": WHOLE},
            r"No column with images .* title \(string\), label \(int64\).*--image_column",
        ),
        ({}, "the columns are none"),
    ],
)
def test_image_column_is_not_guessed(features: dict[str, Any], message: str) -> None:
    """Several or none: the error lists the columns and names the flag."""
    with pytest.raises(DataError, match=message):
        find_image_column(features)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"image": Image(), "y": CLASS, "class": TEXT}, "y"),
        ({"image": Image(), "labels": WHOLE, "category": TEXT}, "labels"),
        ({"image": Image(), "Category": TEXT, "id": WHOLE}, "Category"),
        ({"image": Image(), "fine_label": WHOLE}, "fine_label"),
        ({"label": CLASS, "coarse": CLASS}, "label"),
    ],
)
def test_label_column_is_found(features: dict[str, Any], expected: str) -> None:
    """By type first, then by the usual names."""
    assert find_label_column(features, image_column="image") == expected


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"fine_label": CLASS, "coarse_label": CLASS}, "It could be fine_label or coarse_label .*--label_column"),
        ({"class": TEXT, "target": WHOLE}, "It could be class or target"),
        ({"image": Image(), "caption": TEXT}, "No column with labels .*--label_column"),
    ],
)
def test_label_column_is_not_guessed(features: dict[str, Any], message: str) -> None:
    """Several or none: the error lists the columns and names the flag."""
    with pytest.raises(DataError, match=message):
        find_label_column(features)


def test_the_users_choice_is_checked() -> None:
    """A wanted column must exist and, for images, be able to hold them."""
    features = {"a": Image(), "b": WHOLE}
    assert (find_image_column(features, "a"), find_label_column(features, "b")) == ("a", "b")
    with pytest.raises(DataError, match="no column 'c', as --image_column says; the columns are a"):
        find_image_column(features, "c")
    with pytest.raises(DataError, match="'b' holds int64, not images"):
        find_image_column(features, "b")
    with pytest.raises(DataError, match="no column 'c', as --label_column says"):
        find_label_column(features, "c")
