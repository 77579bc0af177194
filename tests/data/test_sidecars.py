"""hf_transfer.data.sidecars: what unpacked shards of WebDataset hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_transfer.data import load
from hf_transfer.errors import DataError
from tests.helpers.image_files import encoded, picture


def _samples(folder: Path, suffix: str = ".cls", start: int = 0, count: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + count):
        (folder / f"{index:06}.png").write_bytes(encoded(picture(index)))
        label = "ab"[index % 2]
        (folder / f"{index:06}{suffix}").write_text(
            json.dumps({"label": label}) if suffix == ".json" else f"{label}\n"
        )
    return folder


@pytest.mark.parametrize("suffix", [".cls", ".json"])
def test_labels_lie_beside_the_images(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """000001.png and 000001.cls, or .json with a label; a line says so."""
    data = load(str(_samples(tmp_path, suffix)))
    assert (data.label_names, data.counts["train"]) == (("a", "b"), {"a": 3, "b": 3})
    assert "labels are those of the files beside the images" in caplog.text


def test_shards_in_folders_are_no_classes(tmp_path: Path) -> None:
    """tar xf into one folder each."""
    for shard in range(2):
        _samples(tmp_path / f"shard-{shard}", start=10 * shard)
    assert load(str(tmp_path)).label_names == ("a", "b")


def test_a_class_folder_stays_a_class(tmp_path: Path) -> None:
    """Files of labels inside of folders of classes change nothing."""
    for name in ("cat", "dog"):
        _samples(tmp_path / name, start=10 * ord(name[0]))
    assert load(str(tmp_path)).label_names == ("cat", "dog")


def test_json_with_the_name_of_its_image_is_no_table(tmp_path: Path) -> None:
    """An object with image and label reads as a table of one row."""
    for index in range(8):
        (tmp_path / f"{index}.png").write_bytes(encoded(picture(index)))
        (tmp_path / f"{index}.json").write_text(json.dumps({"image": f"{index}.png", "label": "ab"[index % 2]}))
    assert load(str(tmp_path)).label_names == ("a", "b")


def test_splits_are_folders(tmp_path: Path) -> None:
    """train/ and val/ with samples each."""
    _samples(tmp_path / "train")
    _samples(tmp_path / "val", start=20, count=4)
    assert load(str(tmp_path)).counts["validation"] == {"a": 2, "b": 2}


def test_missing_and_broken_labels_are_said(tmp_path: Path) -> None:
    """An image without label, and a JSON file without one."""
    (_samples(tmp_path / "one") / "000001.cls").unlink()
    with pytest.raises(DataError, match="1 of the 8 images in train have no label: 000001.png"):
        load(str(tmp_path / "one"))
    (_samples(tmp_path / "two", ".json") / "000001.json").write_text('{"caption": "x"}')
    with pytest.raises(DataError, match="'000001.json' holds no label: expected text or a whole number under one of"):
        load(str(tmp_path / "two"))
    (tmp_path / "two" / "000001.json").write_text("{")
    with pytest.raises(DataError, match="label in '000001.json' cannot be read"):
        load(str(tmp_path / "two"))


def test_other_files_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Captions and segmentations of a sample are left out with a word."""
    (_samples(tmp_path) / "000001.txt").write_text("a cat")
    load(str(tmp_path))
    assert "train: left out are 1 .txt" in caplog.text


def test_shards_have_to_be_unpacked(tmp_path: Path) -> None:
    """A folder of tar files says what to do."""
    for name in ("a-000.tar", "a-001.tar"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"2 .tar \(archives: unpack them\)"):
        load(str(tmp_path))
