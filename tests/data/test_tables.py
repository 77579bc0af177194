"""hf_transfer.data.tables: CSV, JSON Lines and Parquet files, and folders of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Image

from hf_transfer.data import decode_image, load, tables
from hf_transfer.errors import DataError
from tests.helpers.image_files import encoded, picture


def _images(folder: Path, count: int = 4, start: int = 0) -> list[str]:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    paths = [f"images/{index}.png" for index in range(start, start + count)]
    for index, path in enumerate(paths, start=start):
        (folder / path).write_bytes(encoded(picture(index)))
    return paths


def _csv(path: Path, rows: Sequence[Sequence[str]], header: str = "file_name,label", delimiter: str = ",") -> Path:
    path.write_text("\n".join([header, *(delimiter.join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def _struct(count: int = 4, start: int = 0) -> list[dict[str, Any]]:
    return [{"bytes": encoded(picture(index)), "path": f"{index}.png"} for index in range(start, start + count)]


def _first_pixels(data: Any) -> np.ndarray:
    rows = [*data.train, *data.validation]
    first = min(rows, key=lambda row: str(row["name"]))
    return np.asarray(decode_image(first["image"]))


def test_csv_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CSV and its images can be used from any working directory."""
    paths = _images(tmp_path)
    _csv(tmp_path / "birds.csv", list(zip(paths, ["a", "a", "b", "b"], strict=True)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    data = load("../birds.csv")
    assert (data.name, data.label_names) == ("birds.csv", ("a", "b"))
    assert {*data.train["name"], *data.validation["name"]} == set(paths)
    assert np.array_equal(_first_pixels(data), np.asarray(picture(0)))


def test_csv_labels_stay_text(tmp_path: Path) -> None:
    """ "007" and "NA" are labels, not a number and a gap."""
    paths = _images(tmp_path)
    path = _csv(tmp_path / "d.csv", list(zip(paths, ["007", "007", "NA", "NA"], strict=True)))
    assert load(str(path)).label_names == ("007", "NA")


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_of_a_spreadsheet(delimiter: str, tmp_path: Path) -> None:
    """Semicolons, tabs, a byte order mark and blank lines are what spreadsheets write."""
    paths = _images(tmp_path)
    rows = delimiter.join(["image", "class"]) + "\r\n\r\n"
    rows += "".join(f'"{path}"{delimiter}{label}\r\n' for path, label in zip(paths, "aabb", strict=True))
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    assert load(str(tmp_path / "d.csv")).label_names == ("a", "b")


def test_absolute_paths_do_not_leak_into_names(tmp_path: Path) -> None:
    """Names go into predictions: inside the folder they become relative, elsewhere the file's name is kept."""
    outside = _images(tmp_path / "outside", 2)
    inside = _images(tmp_path / "d", 2, start=10)
    paths = [str(tmp_path / "outside" / p) for p in outside] + [str(tmp_path / "d" / p) for p in inside]
    path = _csv(tmp_path / "d" / "d.csv", list(zip(paths, "abab", strict=True)))
    data = load(str(path))
    assert {*data.train["name"], *data.validation["name"]} == {*inside, "0.png", "1.png"}


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_json_lines(suffix: str, tmp_path: Path) -> None:
    """JSON Lines under both endings; missing fields elsewhere do no harm."""
    paths = _images(tmp_path)
    rows = [{"image": path, "label": label} for path, label in zip(paths, [10, 2, 10, 2], strict=True)]
    (tmp_path / f"d{suffix}").write_text("\n".join(json.dumps(row) for row in [*rows[:3], rows[3] | {"note": "x"}]))
    assert load(str(tmp_path / f"d{suffix}")).label_names == ("2", "10")


def test_json_array(tmp_path: Path) -> None:
    """One array of objects is as good as lines."""
    paths = _images(tmp_path)
    rows = [{"path": path, "category": label} for path, label in zip(paths, "abab", strict=True)]
    (tmp_path / "d.json").write_text(json.dumps(rows, indent=1))
    assert load(str(tmp_path / "d.json")).label_names == ("a", "b")


def test_parquet_with_feature_description(tmp_path: Path) -> None:
    """What `push_to_hub` and our demo write: bytes in the file, class names in its metadata, in their own order."""
    features = Features({"image": Image(), "label": ClassLabel(names=["z", "a", "m"])})
    columns = {"image": _struct(6), "label": [0, 0, 1, 1, 2, 2]}
    pq.write_table(pa.Table.from_pydict(columns, schema=features.arrow_schema), tmp_path / "d.parquet")
    data = load(str(tmp_path / "d.parquet"))
    assert data.label_names == ("z", "a", "m")
    assert data.train.features["label"] == ClassLabel(names=["z", "a", "m"])
    assert data.train.features["image"] == Image(decode=False)
    assert {*data.train["name"], *data.validation["name"]} == {f"train/{row}" for row in range(6)}
    assert np.array_equal(_first_pixels(data), np.asarray(picture(0)))


@pytest.mark.parametrize("limit", [2**31, 0])
def test_large_parquet_gives_the_same(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit the file goes through the cache of datasets, not into memory."""
    monkeypatch.setattr(tables, "MAX_BYTES_IN_MEMORY", limit)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    pq.write_table(pa.table({"image": _struct(), "label": [1, 0, 1, 0]}), tmp_path / "d.parquet")
    data = load(str(tmp_path / "d.parquet"))
    assert data.label_names == ("0", "1")
    assert bool(data.train.cache_files) == (limit == 0)
    assert np.array_equal(_first_pixels(data), np.asarray(picture(0)))


@pytest.mark.parametrize(
    "images",
    [
        pa.array([row["bytes"] for row in _struct()], pa.binary()),
        pa.array([row["bytes"] for row in _struct()], pa.large_binary()),
        pa.array([np.asarray(picture(index)).tolist() for index in range(4)]),
        pa.array(_struct()),
    ],
    ids=["binary", "large binary", "pixels", "struct"],
)
def test_parquet_of_other_programs(images: pa.Array, tmp_path: Path) -> None:
    """Bytes, pixels and structs without Hugging Face's metadata, and pandas' categories as labels."""
    labels = pa.array(["b", "a", "b", "a"]).dictionary_encode()
    pq.write_table(pa.table({"img": images, "label": labels}), tmp_path / "d.parquet")
    data = load(str(tmp_path / "d.parquet"))
    assert data.label_names == ("a", "b")
    assert np.array_equal(_first_pixels(data), np.asarray(picture(0)))


def test_parquet_with_paths(tmp_path: Path) -> None:
    """A struct without bytes names files beside the table."""
    paths = _images(tmp_path)
    images = [{"bytes": None, "path": path} for path in paths]
    pq.write_table(pa.table({"image": images, "label": [0, 0, 1, 1]}), tmp_path / "d.parquet")
    assert np.array_equal(_first_pixels(load(str(tmp_path / "d.parquet"))), np.asarray(picture(0)))


def test_grey_pixels(tmp_path: Path) -> None:
    """`(height, width)` and `(height, width, 1)` are greyscale images."""
    grey = [np.asarray(picture(index).convert("L")) for index in range(4)]
    for name, images in {"2d": grey, "3d": [pixels[..., None] for pixels in grey]}.items():
        table = pa.table({"pixels": [pixels.tolist() for pixels in images], "label": [0, 0, 1, 1]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        found = _first_pixels(load(str(tmp_path / f"{name}.parquet")))
        assert np.array_equal(found[..., 1], grey[0])


@pytest.mark.parametrize("pixels", [[[0.5, 0.1]], [[-1, 3]], [[0, 256]], [1, 2, 3]], ids=str)
def test_numbers_that_are_no_pixels(pixels: list[Any], tmp_path: Path) -> None:
    """Fractions, values out of range and flat lists are not guessed at."""
    pq.write_table(pa.table({"image": [pixels] * 4, "label": [0, 0, 1, 1]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="expected pixels as whole numbers from 0 to 255"):
        load(str(tmp_path / "d.parquet"))


def test_folder_of_tables(tmp_path: Path) -> None:
    """train.csv and test.csv; other tables are left alone."""
    _csv(tmp_path / "train.csv", list(zip(_images(tmp_path), "abab", strict=True)))
    _csv(tmp_path / "cats_test.csv", list(zip(_images(tmp_path, 2, start=4), "ab", strict=True)))
    _csv(tmp_path / "sample_submission.csv", [["x", "y"]])
    data = load(str(tmp_path))
    assert data.evaluation_split == "test"
    assert {split: sum(counts.values()) for split, counts in data.counts.items()} == {"train": 4, "test": 2}


def test_shards_are_joined(tmp_path: Path) -> None:
    """A cloned Hub repository: data/train-00000-of-00002.parquet and its brothers."""
    (tmp_path / "data").mkdir()
    for name, start in {"train-00000-of-00002": 0, "train-00001-of-00002": 4, "test-00000-of-00001": 8}.items():
        table = pa.table({"image": _struct(4, start), "label": [0, 0, 1, 1]})
        pq.write_table(table, tmp_path / "data" / f"{name}.parquet")
    data = load(str(tmp_path))
    assert {split: sum(counts.values()) for split, counts in data.counts.items()} == {"train": 8, "test": 4}


def test_shards_must_agree(tmp_path: Path) -> None:
    """Shards with other columns are a mistake."""
    pq.write_table(pa.table({"image": _struct(4), "label": [0, 0, 1, 1]}), tmp_path / "train-0-of-2.parquet")
    pq.write_table(pa.table({"image": _struct(4), "label": ["a"] * 4}), tmp_path / "train-1-of-2.parquet")
    with pytest.raises(DataError, match="cannot be joined"):
        load(str(tmp_path))


def test_several_tables_for_one_split_are_an_error(tmp_path: Path) -> None:
    """train.csv beside train_extra.csv: we do not choose."""
    for name in ("train.csv", "train_extra.csv"):
        _csv(tmp_path / name, list(zip(_images(tmp_path), "abab", strict=True)))
    with pytest.raises(DataError, match=r"Several tables could be the train split: train.csv, train_extra.csv"):
        load(str(tmp_path))


def test_lone_table_in_a_folder(tmp_path: Path) -> None:
    """A single table of any name is the data set; two are a question."""
    columns = pa.table({"image": _struct(), "label": list("abab")})
    pq.write_table(columns, tmp_path / "birds.parquet")
    assert load(str(tmp_path)).label_names == ("a", "b")
    pq.write_table(columns, tmp_path / "more.parquet")
    with pytest.raises(DataError, match=r"birds.parquet, more.parquet"):
        load(str(tmp_path))


def test_metadata_beside_images(tmp_path: Path) -> None:
    """The metadata.csv of datasets' image folders, at the top or in the folder of each split."""
    top = tmp_path / "top"
    _csv_in(top, "metadata.csv", _images(top))
    assert load(str(top)).label_names == ("a", "b")
    split = tmp_path / "split"
    _csv_in(split / "train", "metadata.csv", _images(split / "train"))
    _csv_in(split / "test", "metadata.csv", _images(split / "test", start=4))
    assert load(str(split)).evaluation_split == "test"


def _csv_in(folder: Path, name: str, paths: list[str]) -> None:
    _csv(folder / name, list(zip(paths, "abab", strict=True)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", b"", "distinct column names"),
        ("d.csv", b"a,a\n1,2\n", "distinct column names"),
        ("d.csv", b"image,label\nx.png\n", "expected 2 values in row 2, found 1"),
        ("d.csv", b'image,label\n"x.png,a\n', "cannot be read as a table"),
        ("d.csv", b"image,label\n\xff\xfe,a\n", "cannot be read as a table"),
        ("d.csv", b"image,label\n", "train split of d.csv is empty"),
        ("d.jsonl", b'{"image": "x.png"}\n{oops\n', "line 2 is not valid JSON"),
        ("d.jsonl", b"1\n2\n", "one JSON object for each image"),
        ("d.jsonl", b'{"label": 1}\n{"label": "a"}\n', "mixes several types"),
        ("d.json", b"[1, 2]", "one JSON object for each image"),
        ("d.parquet", b"PAR1 no", "cannot be read as a table"),
        ("d.zip", b"PK", "Unpack the archive first"),
        ("d.txt", b"hello", "'d.txt' is no data set that can be read"),
    ],
)
def test_broken_files_say_what_is_wrong(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """No traceback of a parser, no path, but what was expected and found."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / name))


def test_urls_are_not_fetched(tmp_path: Path) -> None:
    """A table of addresses is refused with advice instead of being downloaded image by image."""
    path = _csv(tmp_path / "d.csv", [["https://example.com/a.png", "a"], ["https://example.com/b.png", "b"]])
    with pytest.raises(DataError, match="download it first"):
        load(str(path))
