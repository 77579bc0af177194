"""hf_transfer.data.files: what is no image is counted and named, and an image is one by its content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hf_transfer.data import files, load
from hf_transfer.data.files import LeftOut, is_image, kind_of, no_data, walk
from hf_transfer.errors import DataError
from tests.helpers.image_files import encoded, picture, write_classes

_FAKE_HEIF = """
import sys, types
calls = []
sys.modules["pillow_heif"] = types.SimpleNamespace(register_heif_opener=lambda: calls.append(1))
import hf_transfer.data
from hf_transfer.data.files import IMAGE_SUFFIXES
assert calls == [1] and {".heic", ".heif"} <= IMAGE_SUFFIXES
"""


def _put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["x", "St. Peter", "image.0007", "photo.jpg?width=3", "cat.", "x.png", "x.JPEG"])
def test_content_decides_where_there_is_no_suffix(name: str, tmp_path: Path) -> None:
    """What follows a dot is a suffix only if it looks like one."""
    assert is_image(_put(tmp_path / name, encoded(picture())))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("README", "without a suffix (no images)"),
        ("empty", "without a suffix (no images)"),
        ("x.npy", ".npy"),
        ("x.DCM", ".dcm"),
        ("x.mp4", ".mp4"),
        ("x.svg", ".svg"),
        ("x.jpg~", ".jpg~"),
        (".x.png", "hidden"),
        (".DS_Store", ""),
        ("Thumbs.db", ""),
    ],
)
def test_other_files_have_a_kind(name: str, kind: str, tmp_path: Path) -> None:
    """The suffix, or words; files of the system go without a word."""
    assert kind_of(_put(tmp_path / name, b"" if name == "empty" else b"x")) == kind


@pytest.mark.parametrize(
    "name", ["__pycache__", ".ipynb_checkpoints", "@eaDir", "lost+found", "$RECYCLE.BIN", "__MACOSX", "wandb", ".git"]
)
def test_folders_of_systems_are_no_classes(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beside the classes and inside of them, with a word that names them."""
    write_classes(tmp_path, {"cat": 3, "dog": 3})
    for place in (tmp_path, tmp_path / "cat"):
        _put(place / name / "1.png", encoded(picture(99)))
    data = load(str(tmp_path))
    assert data.label_names == ("cat", "dog")
    assert sum(data.counts["train"].values()) == 4
    assert f"the folder {name!r}" in caplog.text


@pytest.mark.parametrize(
    "mark", ["run.json", "trainer_state.json", "model.safetensors", "evaluation.json", "diagnosis.json"]
)
def test_results_of_runs_are_no_classes(mark: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever they are, and whatever the folder is called; figures beside the record as well."""
    write_classes(tmp_path, {"cat": 3, "dog": 3})
    for folder in (tmp_path / "out", tmp_path / "experiments" / "first", tmp_path):
        _put(folder / mark, b"{}")
        _put(folder / "figures" / "1.png", encoded(picture(99)))
    data = load(str(tmp_path))
    assert data.label_names == ("cat", "dog")
    for name in ("out", "first", "figures"):
        assert f"the folder {name!r} (results of a run)" in caplog.text


def test_a_class_may_be_called_figures(tmp_path: Path) -> None:
    """Without a record of a run beside it, and with a config.json, which is not of a run alone."""
    write_classes(tmp_path, {"figures": 3, "dog": 3})
    _put(tmp_path / "dog" / "config.json", b"{}")
    assert load(str(tmp_path)).label_names == ("dog", "figures")


def test_results_at_the_top_are_no_tables(tmp_path: Path) -> None:
    """predictions_test.parquet and train_results.json of a run would be splits by their names."""
    for split in ("train", "val"):
        write_classes(tmp_path / split, {"cat": 3, "dog": 3}, seed=10 * len(split))
    for name in ("predictions_test.parquet", "train_results.json"):
        _put(tmp_path / name, b"{}")
    assert load(str(tmp_path)).counts["validation"] == {"cat": 3, "dog": 3}


def test_one_warning_counts_by_suffix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All that is left out of a split, loose files too, in one line."""
    write_classes(tmp_path, {"cat": 3, "dog": 3})
    for name in ("cat/1.npy", "cat/2.npy", "dog/1.mp4", "dog/.1.png", "loose.png", "notes.txt", "labels.csv"):
        _put(tmp_path / name)
    load(str(tmp_path))
    assert caplog.text.count("left out") == 1
    for part in ("2 .npy", "1 .mp4", "1 hidden", "1 images outside of the class folders", "1 .txt", "labels.csv"):
        assert part in caplog.text


def test_each_split_has_its_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """train, validation and what lies beside them."""
    for split in ("train", "val"):
        write_classes(tmp_path / split, {"cat": 3, "dog": 3}, seed=10 * len(split))
        _put(tmp_path / split / "cat" / "x.npy")
    _put(tmp_path / "log.txt")
    load(str(tmp_path))
    for text in ("train: left out are 1 .npy.", "validation: left out are 1 .npy.", "left out are 1 .txt."):
        assert text in caplog.text


def test_nothing_left_out_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Clean data load without a word; litter of file managers is not worth one."""
    write_classes(tmp_path, {"cat": 3, "dog": 3})
    for name in (".DS_Store", "cat/.DS_Store", "dog/Thumbs.db", "desktop.ini"):
        _put(tmp_path / name)
    load(str(tmp_path))
    assert not caplog.records


@pytest.mark.skipif(files.HEIF, reason="pillow-heif is installed")
def test_heif_is_counted_with_the_extra_that_reads_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Photographs of phones are not lost silently, be it some of them or all."""
    write_classes(tmp_path, {"cat": 3, "dog": 3})
    for index in range(90):
        _put(tmp_path / "cat" / f"{index}.HEIC")
    load(str(tmp_path))
    assert "left out are 90 .heic (pip install 'hf-transfer-learning[heif]' reads them)" in caplog.text
    _put(tmp_path / "only" / "cat" / "1.heif")
    with pytest.raises(DataError, match=r"holds no images. It holds 1 .heif \(pip install .*\[heif\]"):
        load(str(tmp_path / "only"))


def test_heif_is_registered_once_where_it_is_installed() -> None:
    """Every process that imports the package can decode it."""
    subprocess.run([sys.executable, "-c", _FAKE_HEIF], check=True, timeout=120)


def test_heif_is_read_where_it_is_installed(tmp_path: Path) -> None:
    """With the real library, from the file to the pixels."""
    pytest.importorskip("pillow_heif")
    for name in ("cat", "dog"):
        for index in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            picture(10 * len(name) + index + ord(name[0]), 64, 64).save(tmp_path / name / f"{index}.heic")
    assert load(str(tmp_path)).counts["train"] == {"cat": 2, "dog": 2}


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """os.walk would pass over it silently."""
    write_classes(tmp_path, {"cat": 3, "dog": 3})

    def refuse(*_: object, onerror: object, **__: object) -> list[object]:
        assert callable(onerror)
        onerror(PermissionError(13, "Permission denied"))
        return []

    monkeypatch.setattr(files.os, "walk", refuse)
    with pytest.raises(DataError, match="may not be read: Permission denied"):
        load(str(tmp_path))


def test_many_kinds_are_cut(tmp_path: Path) -> None:
    """Ten kinds and ten names are shown."""
    left_out = LeftOut()
    for index in range(30):
        left_out.count(f".s{index}")
        left_out.named(f"f{index}")
    assert ".s9, 20 other files, f0," in str(left_out) and str(left_out).endswith("f9, 20 more")


def test_empty_folders_of_systems_are_not_named(tmp_path: Path) -> None:
    """There is nothing in them that could be missed."""
    left_out = LeftOut()
    (tmp_path / "lost+found").mkdir()
    assert no_data(tmp_path / "lost+found") is not None
    assert not list(walk(tmp_path, left_out)) and not str(left_out)
