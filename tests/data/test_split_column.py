"""hf_transfer.data.split_column: a table's own splits are used, and said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features

from hf_transfer.data import load
from hf_transfer.data.split_column import has_splits, rows_by_folder, rows_by_split
from tests.helpers.image_files import encoded, picture

SIX, FOUR = tuple(range(6)), tuple(range(6, 10))


def _rows(**columns: Sequence[object]) -> dict[str, tuple[int, ...]]:
    return rows_by_split(Dataset.from_dict({"image": ["x.png"] * 10, "label": list("ab") * 5, **columns}), ("label",))


@pytest.mark.parametrize(
    ("name", "train", "other", "split"),
    [
        ("split", "train", "test", "test"),
        ("Split", "Train", " TEST ", "test"),
        ("set", "training", "val", "validation"),
        ("subset", "train", "dev", "validation"),
        ("partition", "train", "evaluation", "validation"),
        ("fold", "training_set", "test_set", "test"),
        ("dataset_split", "train", "testing", "test"),
        ("is_valid", False, True, "validation"),
        ("is_valid", "False", "True", "validation"),
        ("is_val", 0, 1, "validation"),
        ("isTest", "0", "1", "test"),
        ("is_train", 1, 0, "test"),
        ("is_training_image", "1", "0", "test"),
        ("Usage", "Training", "PublicTest", "test"),
        ("test", "0", "1", "test"),
        ("validation", False, True, "validation"),
    ],
)
def test_columns_name_splits(
    name: str, train: object, other: object, split: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Names and truth values, as tables write them, with a line that counts the images."""
    assert _rows(**{name: [train] * 6 + [other] * 4}) == {"train": SIX, split: FOUR}
    assert f"{name!r}: train 6, {split} 4 images" in caplog.text


def test_truth_values_of_two_columns_make_three_splits() -> None:
    """is_valid beside is_test."""
    found = _rows(is_valid=[0] * 6 + [1, 1, 0, 0], is_test=[0] * 8 + [1, 1])
    assert found == {"train": SIX, "validation": (6, 7), "test": (8, 9)}


def test_names_of_a_class_label() -> None:
    """Numbers of a ClassLabel stand for its names; none stands for nothing."""
    features = Features({"split": ClassLabel(names=["test", "train"])})
    table = Dataset.from_dict({"split": [1, 1, 0, -1]}, features=features)
    assert rows_by_split(table, ()) == {"train": (0, 1), "test": (2,)}


@pytest.mark.parametrize(
    ("name", "values"),
    [("fold", [1, 2] * 5), ("set", ["A", "B"] * 5), ("split", ["test"] * 9 + ["x"]), ("is_valid", ["a", "b"] * 5)],
)
def test_values_that_are_not_understood_are_said(
    name: str, values: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    """A column that does not divide into train and others is left alone, with its values."""
    assert _rows(**{name: values}) == {}
    assert f"The column {name!r} is not used: its values (" in caplog.text


@pytest.mark.parametrize("other", ["holdout", "", None])
def test_rows_without_a_split_are_counted(other: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """Beside train, rows of an unknown split are not trained on."""
    assert _rows(split=["train"] * 6 + [other] * 4) == {"train": SIX}
    assert f"{other or 'empty'!r} 4 name no split: these images are not used" in caplog.text


def test_one_split_divides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """All train is as without the column; all test is said."""
    assert _rows(split=["train"] * 10) == _rows(is_valid=[False] * 10) == {}
    assert not caplog.text
    assert _rows(split=["test"] * 10) == {}
    assert "All images are of the test split" in caplog.text


def test_tables_with_splits_are_recognised() -> None:
    """Beside folders, a table with splits says more than they do."""
    table = {"image": ["x"] * 2, "label": ["train", "test"]}
    assert not has_splits(Dataset.from_dict(table), ("image", "label"))
    assert has_splits(Dataset.from_dict(table | {"split": ["train", "val"]}), ("image", "label"))
    assert not has_splits(Dataset.from_dict(table | {"split": ["a", "b"]}), ("image", "label"))
    assert has_splits(Dataset.from_dict(table | {"is_test": [0, 1]}), ("image", "label"))


def test_folders_of_the_images_name_splits() -> None:
    """A table that lists train/1.png and test/1.png does not train on both."""
    assert rows_by_folder(["d/train/1.png", "d/test/x/1.png"]) == {"train": (0,), "test": (1,)}
    assert rows_by_folder(["train/1.png", "train/2.png"]) == rows_by_folder(["train/1.png", "x/2.png"]) == {}
    assert rows_by_folder(["1.png", "train/2.png"]) == rows_by_folder([]) == {}


def _write(folder: Path, header: str, values: Sequence[str], name: str = "d.csv") -> str:
    rows = []
    for index, value in enumerate(values):
        (folder / f"{index}.png").write_bytes(encoded(picture(index)))
        rows.append(f"{index}.png,{'ab'[index % 2]},{value}\n")
    (folder / name).write_text(f"image,label,{header}\n{''.join(rows)}")
    return str(folder / name)


def test_test_images_of_a_table_are_not_trained_on(tmp_path: Path) -> None:
    """From the file to the splits; unlabelled test rows do no harm."""
    data = load(_write(tmp_path, "split", ["train"] * 6 + ["test"] * 4))
    assert data.evaluation_split == "test"
    assert set(data.train["name"]) == {f"{index}.png" for index in range(6)}
    assert set(data.validation["name"]) == {f"{index}.png" for index in range(6, 10)}
    path = Path(_write(tmp_path, "split", ["train"] * 6 + ["test"] * 4))
    path.write_text(path.read_text().replace(",a,test", ",,test").replace(",b,test", ",,test"))
    assert load(str(path)).evaluation_split.startswith("train[")


def test_a_label_may_be_called_like_a_split_column(tmp_path: Path) -> None:
    """The column that the user names for the labels is not asked for splits."""
    path = _write(tmp_path, "set", ["train", "bus"] * 5)
    assert load(path, label_column="set").label_names == ("bus", "train")


def test_files_named_by_split_have_the_last_word(tmp_path: Path) -> None:
    """train.csv beside test.csv: a column in them changes nothing."""
    _write(tmp_path, "split", ["train", "test"] * 5, "train.csv")
    _write(tmp_path, "split", ["train", "test"] * 5, "test.csv")
    data = load(str(tmp_path))
    assert {split: sum(counts.values()) for split, counts in data.counts.items()} == {"train": 10, "test": 10}
