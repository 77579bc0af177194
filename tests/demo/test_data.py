"""The demo's images, and the script that makes them."""

from __future__ import annotations

import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from datasets import ClassLabel, Image, load_dataset

from hf_transfer.demo import demo_data_folder
from hf_transfer.errors import DataError

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_demo_data.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_demo_data", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """A folder as Debian's, with 250 and 120 images of each class; the first two pixels hold the image's number."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for prefix, per_class in (("train", 250), ("t10k", 120)):
        labels = np.tile(np.arange(10), per_class)
        images = np.zeros((labels.size, 28, 28), dtype=np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(labels.size), 256)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder


def load(folder: Path, cache: Path) -> dict[str, object]:
    files = {split: str(folder / f"{split}.parquet") for split in ("train", "test")}
    return load_dataset("parquet", data_files=files, cache_dir=str(cache))


def test_shipped_images_are_balanced_and_typed(tmp_path: Path) -> None:
    """`datasets` reads 2,000 and 1,000 grey images of 28 pixels, ten named classes, each equally often."""
    data = load(demo_data_folder(), tmp_path)
    for split, per_class in (("train", 200), ("test", 100)):
        assert data[split].features == {
            "image": Image(),
            "label": ClassLabel(names=data["train"].features["label"].names),
        }
        assert np.bincount(data[split]["label"]).tolist() == [per_class] * 10
        assert (data[split][0]["image"].size, data[split][0]["image"].mode) == ((28, 28), "L")
    assert data["train"].features["label"].names[:2] == ["T-shirt/top", "Trouser"]


def test_shipped_files_are_small_and_licensed() -> None:
    """The package stays light, and the images' MIT notice and origin lie beside them."""
    folder = demo_data_folder()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_300_000
    assert "Copyright (c) 2017 Zalando SE" in (folder / "LICENSE").read_text(encoding="utf-8")
    assert "2,000 of the 60,000" in (folder / "README.md").read_text(encoding="utf-8")


def test_missing_files_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the Parquet files is said to be incomplete."""
    monkeypatch.setattr("hf_transfer.demo.resources.files", lambda package: tmp_path)
    with pytest.raises(DataError, match=r"train\.parquet and test\.parquet are not in the installed package"):
        demo_data_folder()


def test_demo_package_imports_nothing_heavy() -> None:
    """The folder is found without torch, datasets or timm."""
    code = (
        "import sys, hf_transfer.demo as demo; demo.demo_data_folder(); "
        "print({'torch', 'datasets', 'timm'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_script_makes_the_same_files_twice(script: ModuleType, idx_folder: Path, tmp_path: Path) -> None:
    """Two runs give the same bytes; each image keeps its label and none is drawn twice."""
    for name in ("first", "second"):
        assert script.main([str(idx_folder), "--output_dir", str(tmp_path / name)]) == 0
    for split in ("train", "test"):
        first, second = (tmp_path / name / f"{split}.parquet" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    data = load(tmp_path / "first", tmp_path / "cache")
    corners = [np.asarray(row["image"])[0, :2] for row in data["train"]]
    numbers = [int(high) * 256 + int(low) for high, low in corners]
    assert len(set(numbers)) == len(numbers) == 2000
    assert [number % 10 for number in numbers] == data["train"]["label"]
    assert numbers != sorted(numbers)


def test_script_says_what_to_install(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the source files the script names them and the package, and writes nothing."""
    assert script.main([str(tmp_path), "--output_dir", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "train-images-idx3-ubyte.gz" in message
    assert "apt-get install dataset-fashion-mnist" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"\0\0\x0d\1" + bytes(8), "expected an IDX file"), (b"\0\0\x08\1\0\0\0\x05" + bytes(4), "found 4 bytes")],
)
def test_broken_source_is_refused(script: ModuleType, tmp_path: Path, content: bytes, complaint: str) -> None:
    """A file of another type, or one cut short, is not taken for images."""
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=complaint):
        script.read_idx(path)


def test_shipped_images_come_from_the_originals(script: ModuleType, tmp_path: Path) -> None:
    """Where Debian's package is installed, the script makes exactly the images that ship."""
    if not script.DEBIAN_FOLDER.is_dir():
        pytest.skip("needs Debian's dataset-fashion-mnist")
    assert script.main(["--output_dir", str(tmp_path / "out")]) == 0
    made, shipped = load(tmp_path / "out", tmp_path / "cache"), load(demo_data_folder(), tmp_path / "cache")
    for split in ("train", "test"):
        assert made[split]["label"] == shipped[split]["label"]
        pairs = zip(made[split]["image"], shipped[split]["image"], strict=True)
        assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
