"""hf_transfer.data.choosing: folders and tables side by side; the labels are found out or asked for, never guessed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_transfer.data import ImageData, load
from hf_transfer.errors import DataError
from tests.helpers.image_files import encoded, picture, write_classes


def _table(folder: Path, name: str, rows: Iterable[Iterable[object]], header: str = "image,label") -> None:
    (folder / name).write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def _rows(*folders: str, count: int = 6, labels: str = "ab") -> list[tuple[str, str]]:
    return [(f"{folder}/{i}.png", labels[i % len(labels)]) for folder in folders for i in range(count)]


def _sizes(data: ImageData) -> dict[str, int]:
    return {split: sum(counts.values()) for split, counts in data.counts.items()}


@pytest.mark.parametrize("folders", [("part_1", "part_2"), ("a1", "b1"), ("batch1", "other")])
@pytest.mark.parametrize("name", ["labels.csv", "annotations.jsonl", "labels.parquet"])
def test_a_table_that_names_all_images_tells_the_labels(
    folders: tuple[str, str], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Folders that only hold the images are no classes, and a line says so."""
    write_classes(tmp_path, dict.fromkeys(folders, 6))
    rows = _rows(*folders)
    if name.endswith(".csv"):
        _table(tmp_path, name, rows)
    elif name.endswith(".jsonl"):
        (tmp_path / name).write_text("".join(f'{{"image": "{path}", "label": "{label}"}}\n' for path, label in rows))
    else:
        images = [{"bytes": None, "path": path} for path, _ in rows]
        pq.write_table(pa.table({"image": images, "label": [label for _, label in rows]}), tmp_path / name)
    data = load(str(tmp_path))
    assert (data.label_names, sum(_sizes(data).values())) == (("a", "b"), 12)
    assert f"labels are those of {name}; the folders {', '.join(folders)} are no classes" in caplog.text
    assert load(str(tmp_path), labels="folders").label_names == folders
    assert load(str(tmp_path), labels="table").fingerprint == data.fingerprint


def test_masks_beside_images_are_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the table does not name is counted; without a table the names of the folders are a question."""
    write_classes(tmp_path, {"images": 6, "masks": 6})
    with pytest.raises(DataError, match="folders images, masks do not look like classes.*--labels folders"):
        load(str(tmp_path))
    assert load(str(tmp_path), labels="folders").label_names == ("images", "masks")
    _table(tmp_path, "annotations.csv", _rows("images"))
    assert load(str(tmp_path)).label_names == ("a", "b")
    assert "Beside annotations.csv, left out are 6 images that no table names" in caplog.text


def test_columns_that_are_not_found_are_asked_for(tmp_path: Path) -> None:
    """The folders are no classes, and the table is not understood: the flags of both answer."""
    write_classes(tmp_path, {"part_1": 6, "part_2": 6})
    _table(tmp_path, "labels.csv", _rows("part_1", "part_2"), "where,diagnosis")
    with pytest.raises(DataError, match="--image_column"):
        load(str(tmp_path))
    assert load(str(tmp_path), image_column="where", label_column="diagnosis").label_names == ("a", "b")
    _table(tmp_path, "more.csv", [(1, 2)], "x,y")
    with pytest.raises(DataError, match="labels.csv, more.csv. Choose with --labels folders or --labels table"):
        load(str(tmp_path))


def test_a_table_that_says_something_else_of_some_images_is_a_question(tmp_path: Path) -> None:
    """Classes in folders, and another label for half of the images."""
    write_classes(tmp_path, {"cat": 6, "dog": 6})
    _table(tmp_path, "breeds.csv", _rows("cat"))
    with pytest.raises(
        DataError, match=r"breeds.csv, which names 6 of the 12 images there. Choose with --labels folders"
    ):
        load(str(tmp_path))
    assert load(str(tmp_path), labels="table").label_names == ("a", "b")
    assert load(str(tmp_path), labels="folders").label_names == ("cat", "dog")
    assert load(str(tmp_path), label_column="label").label_names == ("a", "b")


def test_two_tables_of_the_same_images_are_a_question(tmp_path: Path) -> None:
    """breeds.csv and colours.csv."""
    write_classes(tmp_path, {"cat": 6, "dog": 6})
    for name in ("breeds.csv", "colours.csv"):
        _table(tmp_path, name, _rows("cat", "dog"))
    with pytest.raises(DataError, match="in the tables breeds.csv and colours.csv. Choose with"):
        load(str(tmp_path))


def test_a_table_that_agrees_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same labels as the folders; of fewer images it says how many; with splits it says more than they do."""
    write_classes(tmp_path, {"cat": 6, "dog": 6})
    alone = load(str(tmp_path))
    rows = [(path, path[:3]) for path, _ in _rows("cat", "dog")]
    _table(tmp_path, "labels.csv", rows)
    assert load(str(tmp_path)).fingerprint == alone.fingerprint
    _table(tmp_path, "labels.csv", rows[:8])
    assert load(str(tmp_path)).fingerprint == alone.fingerprint
    assert "labels.csv names 8 of 12 images; all are used" in caplog.text
    _table(
        tmp_path, "labels.csv", [(*row, "test" if "/5" in row[0] else "train") for row in rows], "image,label,split"
    )
    assert _sizes(load(str(tmp_path))) == {"train": 10, "test": 2}


@pytest.mark.parametrize("name", ["metadata.csv", "photos.csv", "train_photos.csv"])
def test_tables_without_labels_leave_the_folders(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Photographer and date are no labels: the folders are, and the table is named."""
    write_classes(tmp_path, {"cat": 6, "dog": 6})
    alone = load(str(tmp_path)).fingerprint
    _table(tmp_path, name, [(path, "x", "y") for path, _ in _rows("cat", "dog")], "file_name,photographer,date")
    assert load(str(tmp_path)).fingerprint == alone
    assert f"left out are {name}" in caplog.text


def test_metadata_in_folders_of_splits_without_labels(tmp_path: Path) -> None:
    """The same in train/ and test/."""
    for split, seed in (("train", 0), ("test", 50)):
        write_classes(tmp_path / split, {"cat": 4, "dog": 4}, seed=seed)
        _table(tmp_path / split, "metadata.csv", [("cat/0.png", "x")], "file_name,photographer")
    data = load(str(tmp_path))
    assert (data.label_names, data.evaluation_split) == (("cat", "dog"), "test")


@pytest.mark.parametrize(
    "names",
    [
        ("test_log.jsonl",),
        ("val_ids.csv",),
        ("train_report.csv",),
        ("test_log.jsonl", "val_ids.csv", "train_report.csv", "train_log.csv"),
        ("test.csv",),
        ("train_broken.json",),
    ],
)
def test_stray_tables_beside_complete_folders_are_named(
    names: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Logs, reports and lists of numbers are not splits."""
    for split, seed in (("train", 0), ("test", 50)):
        write_classes(tmp_path / split, {"cat": 4, "dog": 4}, seed=seed)
    alone = load(str(tmp_path)).fingerprint
    for name in names:
        (tmp_path / name).write_text(
            '{"epoch": 1}\n' if name.endswith(".jsonl") else "{" if "broken" in name else "id\n1\n"
        )
    assert load(str(tmp_path)).fingerprint == alone
    assert all(name in caplog.text for name in names)


def test_stray_tables_beside_complete_tables_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """train.csv with train_log.csv, val_ids.csv and sample_submission.csv."""
    write_classes(tmp_path, {"images": 6})
    _table(tmp_path, "train.csv", _rows("images"))
    for name in ("train_log.csv", "val_ids.csv"):
        _table(tmp_path, name, [(1,)], "id")
    _table(tmp_path, "sample_submission.csv", [("x.png", "a")])
    data = load(str(tmp_path))
    assert (sum(_sizes(data).values()), data.evaluation_split[:6]) == (6, "train[")
    assert "Beside train.csv, left out are sample_submission.csv, train_log.csv, val_ids.csv." in caplog.text


@pytest.mark.parametrize("header", ["image", "id", "image,width"])
def test_a_test_table_without_labels_is_left_out(
    header: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Competitions ship test.csv without the column, as well as with an empty one."""
    write_classes(tmp_path, {"images": 8})
    _table(tmp_path, "train.csv", _rows("images"))
    _table(tmp_path, "test.csv", [["images/7.png", "3"][: header.count(",") + 1]], header)
    assert load(str(tmp_path)).evaluation_split.startswith("train[")
    assert "test split of" in caplog.text and "has no column of labels: it is left out" in caplog.text


def test_a_table_named_by_split_wins_over_folders_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As ever; what is new is the line, where the folders could be classes."""
    write_classes(tmp_path, {"cat": 6, "dog": 6})
    _table(tmp_path, "train.csv", _rows("cat", "dog"))
    assert load(str(tmp_path)).label_names == ("a", "b")
    assert "labels are those of train.csv; the folders cat, dog are no classes" in caplog.text
    assert load(str(tmp_path), labels="folders").label_names == ("cat", "dog")


def test_a_table_of_other_files_leaves_the_folders(tmp_path: Path) -> None:
    """train_report.csv with paths of another machine, and a table that holds other images itself."""
    for split, seed in (("train", 0), ("test", 50)):
        write_classes(tmp_path / split, {"cat": 4, "dog": 4}, seed=seed)
    alone = load(str(tmp_path)).fingerprint
    _table(tmp_path, "train_report.csv", [("/mnt/x/1.png", "a"), ("/mnt/x/2.png", "b")])
    images = [{"bytes": encoded(picture(index)), "path": None} for index in range(4)]
    pq.write_table(pa.table({"image": images, "label": list("abab")}), tmp_path / "birds.parquet")
    assert load(str(tmp_path)).fingerprint == alone


def test_metadata_that_lists_the_folders_of_splits(tmp_path: Path) -> None:
    """Images in test/ are not trained on, be they in one table with those in train/."""
    for split, seed in (("train", 0), ("test", 50)):
        write_classes(tmp_path / split, {"cat": 4, "dog": 4}, seed=seed)
    paths = [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("cat", "dog") for i in range(4)]
    _table(tmp_path, "metadata.csv", [(path, path.split("/")[1]) for path in paths], "file_name,label")
    assert _sizes(load(str(tmp_path))) == {"train": 8, "test": 8}


@pytest.mark.parametrize("table", ["labels.csv", "metadata.csv", "train.csv"])
def test_the_only_folder_may_hold_table_and_images(table: str, tmp_path: Path) -> None:
    """An archive that unpacks into a folder of its name."""
    (tmp_path / "d").mkdir()
    for index in range(6):
        (tmp_path / "d" / f"{index}.png").write_bytes(encoded(picture(index)))
    _table(tmp_path / "d", table, [(f"{index}.png", "ab"[index % 2]) for index in range(6)], "file_name,label")
    assert load(str(tmp_path)).label_names == ("a", "b")


def test_answers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """No table, a table that is no folder, a typing error."""
    write_classes(tmp_path / "d", {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match="--labels table needs a table"):
        load(str(tmp_path / "d"), labels="table")
    _table(tmp_path, "d.csv", [("d/cat/0.png", "a"), ("d/dog/0.png", "b")])
    with pytest.raises(DataError, match="--labels folders needs a folder"):
        load(str(tmp_path / "d.csv"), labels="folders")
    with pytest.raises(DataError, match="labels must be one of folders, table; found 'tabel'"):
        load(str(tmp_path / "d"), labels="tabel")


def test_several_labels_for_an_image_leave_the_folders(tmp_path: Path) -> None:
    """Tags of photographs are no classes."""
    write_classes(tmp_path, {"cat": 4, "dog": 4})
    alone = load(str(tmp_path)).fingerprint
    rows = (f'{{"image": "{path}", "labels": ["x", "y"]}}\n' for path, _ in _rows("cat", "dog", count=4))
    (tmp_path / "tags.jsonl").write_text("".join(rows))
    assert load(str(tmp_path)).fingerprint == alone


def test_folders_above_the_data_say_nothing(tmp_path: Path) -> None:
    """A table does not agree with folders because the data lie in a folder called like a label."""
    write_classes(tmp_path / "a" / "b", {"one": 6, "two": 6})
    _table(tmp_path / "a" / "b", "labels.csv", _rows("one", "two"))
    assert load(str(tmp_path / "a" / "b")).label_names == ("a", "b")


def test_images_that_no_table_names_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A table of 6 of 8 images; complete tables load without a word."""
    write_classes(tmp_path, {"images": 8})
    _table(tmp_path, "metadata.csv", _rows("images"), "file_name,label")
    load(str(tmp_path))
    assert "Beside metadata.csv, left out are 2 images that no table names" in caplog.text
    caplog.clear()
    _table(tmp_path, "metadata.csv", _rows("images", count=8), "file_name,label")
    load(str(tmp_path))
    assert not caplog.records


def test_eval_csv_is_the_validation_split(tmp_path: Path) -> None:
    """As the folder eval is, beside train."""
    write_classes(tmp_path, {"images": 8})
    _table(tmp_path, "train.tsv", _rows("images"))
    (tmp_path / "train.tsv").write_text((tmp_path / "train.tsv").read_text().replace(",", "\t"))
    _table(tmp_path, "eval.csv", _rows("images", count=8)[6:])
    assert _sizes(load(str(tmp_path))) == {"train": 6, "validation": 2}


@pytest.mark.parametrize("form", ["{name}.png", "{name}", "data/{folder}/{name}.png", "/mnt/x/{folder}/{name}.jpg"])
def test_images_that_are_named_by_other_paths_are_a_question(form: str, tmp_path: Path) -> None:
    """Names alone, names without suffix, and the paths of another place."""
    write_classes(tmp_path, {"a": 6, "b": 6})
    rows = [(form.format(folder=path[0], name=path[2]), label) for path, label in _rows("a", "b", labels="xy")]
    _table(tmp_path, "labels.csv", rows)
    with pytest.raises(DataError, match="names the images by other paths: write them relative to the table"):
        load(str(tmp_path))
    assert load(str(tmp_path), labels="folders").label_names == ("a", "b")
    _table(tmp_path, "labels.csv", [(row[0], path[0]) for row, (path, _) in zip(rows, _rows("a", "b"), strict=True)])
    assert load(str(tmp_path)).label_names == ("a", "b")


def test_columns_of_a_split_table_are_asked_for(tmp_path: Path) -> None:
    """train.csv beside flat images in train/: the table has the labels, whatever its columns are called."""
    write_classes(tmp_path, {"train": 6, "HAM_images_part_1": 2})
    _table(tmp_path, "train.csv", _rows("train"), "image_name,diagnosis")
    with pytest.raises(DataError, match="No column with images was found.*--image_column"):
        load(str(tmp_path))
    assert load(str(tmp_path), image_column="image_name", label_column="diagnosis").label_names == ("a", "b")
