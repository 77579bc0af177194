"""The store on disk: whole chunks or none, checksums, a cap, and what becomes of an interrupted run."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_transfer.errors import CacheError
from hf_transfer.features import cache_folder
from hf_transfer.features.cache_folder import CacheFolder, default_cache_folder
from hf_transfer.features.extraction import fill
from hf_transfer.features.store import Entry, FeatureStore, in_use


def entry(rows: int = 100, width: int = 3) -> Entry:
    return Entry.plan(rows, {"x": ("<f4", (width,)), "label": ("<i8", ())}, {"kind": "test"})


def filled(folder: CacheFolder, key: str, rows: int = 100) -> FeatureStore:
    """A store of rows that hold their number."""

    def compute(batch: Any) -> Any:
        numbers = np.array([row["pixel_values"] for row in batch])
        return {"x": np.repeat(numbers[:, None], 3, axis=1).astype(np.float32), "label": numbers}

    data = [{"pixel_values": i} for i in range(rows)]
    return fill(folder, key, data, compute, {}, progress=False)[0]


def test_rows_come_back_by_column(tmp_path: Path) -> None:
    """Values and types of each column are kept, also for a store that was opened anew or pickled."""
    store = filled(CacheFolder(tmp_path), "key")
    for opened in (store, CacheFolder(tmp_path).open("key"), pickle.loads(pickle.dumps(store))):
        assert opened is not None and not opened.missing()
        np.testing.assert_array_equal(opened.rows["x"][:, 2], np.arange(100, dtype=np.float32))
        np.testing.assert_array_equal(opened.rows["label"], np.arange(100))
    with pytest.raises(ValueError, match="read-only"):
        store.rows["x"][0] = 1
    assert len(pickle.dumps(store)) < 2000


def test_damaged_chunks_are_found_and_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed byte, a checksum that is no JSON, a file cut short: the rows are right after the next run."""
    folder = CacheFolder(tmp_path)
    store = filled(folder, "key")
    expected = store.rows.copy()
    content = bytearray((tmp_path / "key/rows.bin").read_bytes())
    content[40] ^= 1
    (tmp_path / "key/rows.bin").write_bytes(content)
    again = filled(folder, "key")
    np.testing.assert_array_equal(again.rows, expected)
    assert "damaged" in caplog.text
    (tmp_path / "key/chunks/000000.json").write_text("{")
    np.testing.assert_array_equal(filled(folder, "key").rows, expected)
    (tmp_path / "key/rows.bin").write_bytes(content[:100])
    np.testing.assert_array_equal(filled(folder, "key").rows, expected)
    (tmp_path / "key/entry.json").write_text("[]")
    np.testing.assert_array_equal(filled(folder, "key").rows, expected)


def test_the_least_recently_used_stores_are_evicted(tmp_path: Path) -> None:
    """The cap holds, what is in use stays, and what is larger than the cap is refused before anything is evicted."""
    size = entry(1000).nbytes
    folder = CacheFolder(tmp_path, cap_gb=3.5 * size / 1e9)
    for number, key in enumerate(("old", "middle", "new")):
        filled(folder, key, 1000)
        os.utime(tmp_path / key / "used", (number, number))
    folder.touch("old")
    with in_use(tmp_path / "middle"):
        filled(folder, "fourth", 1000)
        assert folder.open("middle") is not None and folder.open("new") is None
    filled(folder, "fifth", 1000)
    assert {key for key in ("old", "middle", "fourth", "fifth") if folder.open(key)} == {"old", "fourth", "fifth"}
    with pytest.raises(CacheError, match="cache_gb"):
        filled(folder, "huge", rows=10_000)
    assert folder.open("old") is not None


def test_a_full_disk_is_reported_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Space is reserved at the start: no row is computed for a store that cannot be held."""
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda _: _Usage())
    with pytest.raises(CacheError, match="disk has"):
        CacheFolder(tmp_path).create("key", entry())
    monkeypatch.undo()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(CacheError, match="No space left"):
        CacheFolder(tmp_path).create("key", entry())
    assert not (tmp_path / "key").exists()


class _Usage:
    free = 1000


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the home of Hugging Face's caches, unless the variable names another."""
    monkeypatch.delenv("HF_TRANSFER_CACHE", raising=False)
    assert default_cache_folder().parts[-2:] == ("hf_transfer", "features")
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path))
    assert default_cache_folder() == tmp_path


@pytest.mark.slow
def test_killed_shared_and_large_extractions(tmp_path: Path) -> None:
    """After kills and from two ranks the store is the same; they train alike from it; memory does not grow."""
    script = Path(__file__).parents[1] / "distributed" / "extraction.py"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["killed"] == found["whole"] == found["ranks"]
    codes, chunks = zip(*found["after"], strict=True)
    assert set(codes) <= {-9, 0} and codes.count(-9) >= 3
    assert list(chunks) == sorted(chunks) and 0 < chunks[1] < found["chunks"]
    assert found["kept"]  # finished chunks were not written again
    assert found["codes"] == [[0, 0], [0, 0]], done.stderr[-3000:]
    cached, whole = found["trained"]
    assert (cached["used"], whole["used"]) == ([True, True, False], [False] * 3)
    assert cached["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    small, large = found["peak_mb"]
    assert large < small + 20, found["peak_mb"]  # the store grew by 112 MiB
