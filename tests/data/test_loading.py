"""hf_transfer.data.load: what is checked, what is an error, and what the result says."""

from __future__ import annotations

import json
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_transfer.data import ImageData, decode_image, files, load
from hf_transfer.errors import DataError
from tests.helpers.image_files import encoded, picture, write_classes

SPLIT = "train[stratified fifth, seed 42]"


def _write(path: Path, labels: list[Any], start: int = 0) -> str:
    images = [{"bytes": encoded(picture(start + index)), "path": None} for index in range(len(labels))]
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return str(path)


def _content(data: ImageData) -> dict[str, set[bytes]]:
    parts = {"train": data.train, "validation": data.validation}
    return {name: {decode_image(row["image"]).tobytes() for row in part or ()} for name, part in parts.items()}


def test_a_copy_elsewhere_is_the_same_data(tmp_path: Path) -> None:
    """Fingerprint and split depend on images and labels, not on the path or the names of the files."""
    write_classes(tmp_path / "one", {"a": 12, "b": 7})
    shutil.copytree(tmp_path / "one", tmp_path / "deep" / "two")
    for file in sorted((tmp_path / "deep" / "two" / "a").iterdir()):
        file.rename(file.with_name(f"renamed-{99 - int(file.stem)}.png"))
    one, two = load(str(tmp_path / "one")), load(str(tmp_path / "deep" / "two"))
    assert one.fingerprint == two.fingerprint
    assert _content(one) == _content(two)


def test_fingerprint_changes_with_everything_that_matters(tmp_path: Path) -> None:
    """Another image, another label, another seed and another split are other data."""
    write_classes(tmp_path / "d", {"a": 10, "b": 10})
    prints = [load(str(tmp_path / "d")).fingerprint, load(str(tmp_path / "d"), split_seed=1).fingerprint]
    shutil.copytree(tmp_path / "d", tmp_path / "image")
    (tmp_path / "image" / "a" / "0.png").write_bytes(encoded(picture(500)))
    shutil.copytree(tmp_path / "d", tmp_path / "label")
    (tmp_path / "label" / "a" / "0.png").rename(tmp_path / "label" / "b" / "x.png")
    shutil.copytree(tmp_path / "d", tmp_path / "split" / "train")
    write_classes(tmp_path / "split" / "test", {"a": 1, "b": 1}, seed=900)
    prints += [load(str(tmp_path / name)).fingerprint for name in ("image", "label", "split")]
    assert len(set(prints)) == 5


def test_split_ignores_row_order(tmp_path: Path) -> None:
    """A shuffled table gives the same fifth, since images are drawn by their content."""
    rows = [({"bytes": encoded(picture(index)), "path": None}, "ab"[index % 2]) for index in range(20)]
    found = []
    for attempt in range(3):
        random.Random(attempt).shuffle(rows)
        table = pa.table({"image": [image for image, _ in rows], "label": [label for _, label in rows]})
        pq.write_table(table, tmp_path / "d.parquet")
        found.append(load(str(tmp_path / "d.parquet")))
    assert found[0].fingerprint == found[1].fingerprint == found[2].fingerprint
    assert _content(found[0]) == _content(found[1]) == _content(found[2])


def test_seed_changes_the_split(tmp_path: Path) -> None:
    """Another seed draws another fifth of the same size."""
    write_classes(tmp_path, {"a": 20, "b": 20})
    first, second = load(str(tmp_path)), load(str(tmp_path), split_seed=7)
    assert second.evaluation_split == "train[stratified fifth, seed 7]"
    assert _content(first)["validation"] != _content(second)["validation"]
    assert [len(data.validation or ()) for data in (first, second)] == [8, 8]


def test_a_single_image_of_a_class_stays_in_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A class that cannot be divided is trained, not evaluated, and named."""
    data = load(str(write_classes(tmp_path, {"a": 5, "b": 5, "rare": 1})))
    assert data.counts["train"]["rare"] == 1
    assert data.counts[SPLIT]["rare"] == 0
    assert "single image" in caplog.text and "rare" in caplog.text
    assert "cannot be measured" not in caplog.text


def test_nothing_to_divide_is_an_error(tmp_path: Path) -> None:
    """One image of each class leaves nothing to evaluate on."""
    with pytest.raises(DataError, match="only one of its class"):
        load(str(write_classes(tmp_path, {"a": 1, "b": 1})))


@pytest.mark.parametrize("missing", [None, "", "  "])
def test_missing_labels_are_counted_and_listed(missing: str | None, tmp_path: Path) -> None:
    """A gap in the labels is an error that names the rows."""
    with pytest.raises(DataError, match=r"2 of the 6 images in train have no label: train/1, train/4\."):
        load(_write(tmp_path / "d.parquet", ["a", missing, "b", "b", missing, "a"]))


def test_missing_numbers_are_missing_labels(tmp_path: Path) -> None:
    """NaN, which pandas makes of gaps, is no class; whole floats are."""
    with pytest.raises(DataError, match="1 of the 5 images in train have no label: train/1"):
        load(_write(tmp_path / "d.parquet", [1.0, float("nan"), 0.0, 1.0, 0.0]))
    assert load(_write(tmp_path / "d.parquet", [1.0, 0.0, 0.0, 1.0])).label_names == ("0", "1")


def test_labels_of_evaluation_must_be_in_train(tmp_path: Path) -> None:
    """A class that cannot be learnt cannot be evaluated: the error names it and what train has."""
    write_classes(tmp_path / "train", {"a": 2, "b": 2})
    write_classes(tmp_path / "val", {"a": 2, "Bee": 2}, seed=30)
    with pytest.raises(DataError, match=r"validation has labels that train has not: 'Bee' \(2 images\).*'a', 'b'"):
        load(str(tmp_path))


def test_classes_missing_from_evaluation_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not every class need be evaluated, but one should know."""
    write_classes(tmp_path / "train", {"a": 2, "b": 2, "c": 2})
    write_classes(tmp_path / "val", {"a": 2, "b": 2}, seed=30)
    assert load(str(tmp_path)).counts["validation"]["c"] == 0
    assert "1 of 3 classes have no images in validation" in caplog.text


def test_one_class_is_an_error(tmp_path: Path) -> None:
    """There is nothing to tell apart."""
    with pytest.raises(DataError, match="All 5 images in train have the label 'cat'; expected two"):
        load(str(write_classes(tmp_path, {"cat": 5})))


def test_empty_split_is_an_error(tmp_path: Path) -> None:
    """An empty table beside a full one is a mistake."""
    _write(tmp_path / "train.parquet", ["a", "b"])
    pq.write_table(pq.read_table(tmp_path / "train.parquet").slice(0, 0), tmp_path / "test.parquet")
    with pytest.raises(DataError, match="test split of .* is empty"):
        load(str(tmp_path))


def test_train_is_required_for_training(tmp_path: Path) -> None:
    """Without train there is nothing to train on, but to evaluate on."""
    write_classes(tmp_path / "test", {"a": 2, "b": 3})
    with pytest.raises(DataError, match="has no train split, only test"):
        load(str(tmp_path))
    data = load(str(tmp_path), require_train=False)
    assert (data.train, data.evaluation_split) == (None, "test")
    assert data.counts == {"test": {"a": 2, "b": 3}}


def test_columns_must_agree_between_splits(tmp_path: Path) -> None:
    """A split that calls its label otherwise cannot be matched."""
    _write(tmp_path / "train.parquet", ["a", "b"])
    pq.write_table(
        pq.read_table(tmp_path / "train.parquet").rename_columns(["image", "target"]), tmp_path / "test.parquet"
    )
    with pytest.raises(DataError, match="test split has no column 'label'; its columns are image, target"):
        load(str(tmp_path))


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    """Two possible columns are a question that the flags answer."""
    table = pa.table(
        {
            "front": [{"bytes": encoded(picture(i)), "path": None} for i in range(4)],
            "back": [{"bytes": encoded(picture(9 + i)), "path": None} for i in range(4)],
            "species": list("abab"),
        }
    )
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(DataError, match="front or back .*--image_column"):
        load(str(tmp_path / "d.parquet"))
    with pytest.raises(DataError, match="No column with labels .*--label_column"):
        load(str(tmp_path / "d.parquet"), image_column="back")
    data = load(str(tmp_path / "d.parquet"), image_column="back", label_column="species")
    assert picture(9).tobytes() in _content(data)["train"] | _content(data)["validation"]


def test_labels_of_a_model(tmp_path: Path) -> None:
    """For evaluation labels become the model's class indices, by name."""
    path = _write(tmp_path / "test.parquet", ["b", "a", "b"])
    data = load(path, label_names=("c", "b", "a"), require_train=False)
    assert data.validation is not None and data.validation["label"][:] == [1, 2, 1]
    assert (data.evaluation_split, data.label_names) == ("test", ("c", "b", "a"))
    with pytest.raises(DataError, match=r"does not know the labels 'a'\. Labels of the data: 'a', 'b'\. .*'x', 'b'"):
        load(path, label_names=("x", "b"), require_train=False)


def test_one_class_can_be_evaluated(tmp_path: Path) -> None:
    """A folder of cats alone says how well a model finds cats."""
    data = load(_write(tmp_path / "test.parquet", ["cat", "cat"]), label_names=("cat", "dog"), require_train=False)
    assert data.counts == {"test": {"cat": 2, "dog": 0}}


def _with_bad(tmp_path: Path, bad: int, good: int = 200) -> Path:
    write_classes(tmp_path / "d", {"a": good // 2, "b": good // 2})
    for index in range(bad):
        (tmp_path / "d" / "a" / f"bad{index}.png").write_bytes(b"" if index % 2 else b"oops")
    return tmp_path / "d"


def test_a_few_bad_images_are_skipped_counted_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Up to one percent is left out, with a warning that names the files and why."""
    with caplog.at_level(logging.WARNING):
        data = load(str(_with_bad(tmp_path, 2)))
    assert [(image.split, image.name) for image in data.skipped] == [("train", "a/bad0.png"), ("train", "a/bad1.png")]
    assert "empty (0 bytes)" in data.skipped[1].reason
    assert "2 of the 202 images in train cannot be read (a/bad0.png" in caplog.text
    assert sum(sum(counts.values()) for counts in data.counts.values()) == 200
    assert data.train is not None and not any("bad" in name for name in data.train["name"])


def test_many_bad_images_are_an_error_unless_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Above one percent something is wrong with the data: --skip_bad_images says go on."""
    folder = _with_bad(tmp_path, 12)
    with pytest.raises(DataError, match="12 of the 212 images .*more than 1%.*--skip_bad_images"):
        load(str(folder))
    data = load(str(folder), skip_bad_images=True)
    assert len(data.skipped) == 12
    assert "and 2 more" in caplog.text


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    """Whatever is allowed, something must be left."""
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="None is left"):
        load(str(tmp_path), skip_bad_images=True)


def test_a_class_of_bad_images_is_no_class(tmp_path: Path) -> None:
    """Labels are checked again without the bad images."""
    write_classes(tmp_path, {"a": 5})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="All 5 images in train have the label 'a'"):
        load(str(tmp_path), skip_bad_images=True)


def test_the_same_image_in_train_and_evaluation_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Copies make scores too good: they are counted by content."""
    write_classes(tmp_path / "train", {"a": 3, "b": 3})
    write_classes(tmp_path / "test", {"a": 2, "b": 2}, seed=70)
    shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "test" / "a" / "copy.png")
    load(str(tmp_path))
    assert "1 of the 5 images in test are also in train" in caplog.text


def test_the_same_image_with_two_labels_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing can learn both."""
    write_classes(tmp_path, {"a": 3, "b": 3})
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "b" / "copy.png")
    load(str(tmp_path))
    assert "1 images are there with several labels, byte for byte: " in caplog.text


@pytest.mark.skipif(files.HEIF, reason="pillow-heif is installed")
def test_a_table_of_photographs_of_phones_says_what_reads_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The extra is named before the images fail."""
    (tmp_path / "d.csv").write_text("image,label\n1.heic,a\n2.HEIC,b\n")
    with pytest.raises(DataError, match="cannot be read"):
        load(str(tmp_path / "d.csv"))
    assert "2 images are .heic or .heif files, which pip install" in caplog.text


def test_record_is_plain_and_complete(tmp_path: Path) -> None:
    """What goes into run.json is JSON and tells counts, sizes, how many images were skipped and why, and no path."""
    record = load(str(_with_bad(tmp_path, 2))).to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert str(tmp_path) not in json.dumps(record)
    assert record["images"] == {"train": 160, SPLIT: 40}
    assert record["median_size"] == {"height": 10, "width": 14}
    assert record["skipped"] == [
        {"split": "train", "reason": "it is no image, or of a format that Pillow does not know", "images": 1},
        {"split": "train", "reason": "the file is empty", "images": 1},
    ]
    assert "bad" not in json.dumps(record)
    assert len(record["fingerprint"]) == 64


@pytest.mark.parametrize("name", ["missing/folder/x", "./missing", "/missing/data", "missing.csv", "a b", "~/missing"])
def test_a_path_to_nothing_says_what_is_expected(name: str) -> None:
    """What cannot be a Hub id is a wrong path."""
    with pytest.raises(DataError, match="There is no file or folder .* Expected an image folder"):
        load(name)


def test_no_cache_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local data are read where they are: nothing is written beside them or into the datasets cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = _with_bad(tmp_path, 1)
    before = sorted(tmp_path.rglob("*"))
    load(str(folder))
    assert sorted(tmp_path.rglob("*")) == before
