"""hf_transfer.data.labels: labels of every type become text, sorted as people would."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features
from hypothesis import given
from hypothesis import strategies as st

from hf_transfer.data.labels import check_classes, check_known, read_labels, shown, sorted_names
from hf_transfer.errors import DataError


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["b", "a"], ("b", "a")),
        ([3, 10], ("3", "10")),
        ([True, False], ("True", "False")),
        ([1.0, 2.0], ("1", "2")),
        ([1.0, float("nan"), None], ("1", None, None)),
        (["a", "", " ", None], ("a", None, None, None)),
    ],
)
def test_all_types_become_text(values: list[Any], expected: tuple[str | None, ...]) -> None:
    """Text, numbers and truth values; gaps are None."""
    assert read_labels(Dataset.from_dict({"y": values}), "y").values == expected


def test_class_labels_keep_their_names_and_order() -> None:
    """A ClassLabel says what its indices mean; -1 means nothing."""
    features = Features({"y": ClassLabel(names=["z", "a"])})
    found = read_labels(Dataset.from_dict({"y": [1, 0, -1, None]}, features=features), "y")
    assert (found.values, found.declared) == (("a", "z", None, None), ("z", "a"))


@pytest.mark.parametrize(
    ("values", "message"), [([[1, 2]], "several labels for one image"), ([0.5], "holds 0.5"), ([{"a": 1}], "holds {")]
)
def test_what_is_no_class_is_refused(values: list[Any], message: str) -> None:
    """Several labels and fractions belong to other tasks."""
    with pytest.raises(DataError, match=message):
        read_labels(Dataset.from_dict({"y": values}), "y")


def test_a_class_index_out_of_range_is_refused() -> None:
    """Parquet files of other programs can hold what ClassLabel does not allow."""
    features = Features({"y": ClassLabel(names=["a", "b"])})
    table = Dataset(pa.Table.from_pydict({"y": [0, 5]}, schema=features.arrow_schema))
    with pytest.raises(DataError, match="class index 5; expected 0 to 1"):
        read_labels(table, "y")


def test_names_are_sorted_as_people_would() -> None:
    """Numbers by value, text by its words and numbers, whatever the case."""
    assert sorted_names(["10", "2", "-1"]) == ("-1", "2", "10")
    assert sorted_names(["cat10", "Cat2", "cat2", "ant", "2nd"]) == ("2nd", "ant", "Cat2", "cat2", "cat10")


@given(st.lists(st.text(min_size=1), min_size=1))
def test_sorting_is_a_total_order_of_distinct_names(names: list[str]) -> None:
    """Any names can be sorted; none is lost, none is there twice, and the order of arrival does not matter."""
    found = sorted_names(names)
    assert sorted(found) == sorted(set(names))
    assert sorted_names(reversed(names)) == found


def test_splits_are_compared_by_name() -> None:
    """All splits must be learnable from train, and known to the model."""
    check_classes({"train": ["a", "b"], "test": ["b"]})
    with pytest.raises(DataError, match=r"test has labels that train has not: 'c' \(2 images\)"):
        check_classes({"train": ["a", "b"], "test": ["c", "c"]})
    check_known({"test": ["a"]}, ["a", "b"])
    with pytest.raises(DataError, match="Several classes of the model have the same name: 'a'"):
        check_known({"test": ["a"]}, ["a", "a"])
    with pytest.raises(DataError, match="Labels of the data: 'c'. Labels of the model: 'a', 'b'"):
        check_known({"test": ["c"]}, ["a", "b"])


def test_long_lists_are_cut() -> None:
    """A message shows ten items and says how many more there are."""
    assert shown(list("abc")) == "a, b, c"
    assert shown([str(number) for number in range(1_012)]).endswith("8, 9 and 1,002 more")
