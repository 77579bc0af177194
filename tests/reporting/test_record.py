"""The run record: an exact round trip through JSON, and nothing private in it."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_transfer.errors import ArgumentError, OutputError
from hf_transfer.reporting.record import RunRecord
from hf_transfer.utils.environment import collect_hardware, collect_versions
from hf_transfer.utils.files import write_atomically


class Precision(Enum):
    """As the enums of TrainingArguments."""

    HALF = "bf16"


def record(**changes: Any) -> RunRecord:
    """A record with the least that it must hold."""
    parts: dict[str, Any] = {
        "command": "hf-transfer train",
        "versions": {"python": "3.11.7"},
        "hardware": {"device": "cpu"},
        "seed": 42,
        "split_seed": 42,
        "base_model": {"id": "a/b", "on_hub": True, "architecture": "timm:x", "library": "timm", "parameters": 1},
        "data": {"evaluation_split": "test", "label_names": ["a|b", "é"], "counts": {"test": {"a|b": 1, "é": 2}}},
        "preprocessing": {"mean": (0.5, 0.5, 0.5)},
        "training": {"plan": None, "optimizer": {"class": "AdamW"}, "precision": Precision.HALF},
        "timing": {"train_seconds": np.float32(1.5)},
        "evaluation": {},
        "log_history": [{"loss": 0.1, "grad_norm": float("inf"), "step": np.int64(3)}],
    }
    return RunRecord(**parts | changes)


def test_round_trip(tmp_path: Path) -> None:
    """What is saved and loaded is equal to what was made, and the file says which schema it has."""
    made = record()
    made.save(tmp_path / "run.json")
    data = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert RunRecord.load(tmp_path / "run.json") == made == RunRecord.from_dict(made.to_dict())
    assert data == made.to_dict() and next(iter(data)) == "schema" and data["schema"] == 1


def test_values_become_plain() -> None:
    """Tuples, enums and numpy's numbers are reduced; what is not finite becomes None, as JSON has no such number."""
    made = record()
    assert made.preprocessing["mean"] == [0.5, 0.5, 0.5] and made.training["precision"] == "bf16"
    assert type(made.timing["train_seconds"]) is float
    assert made.log_history == [{"loss": 0.1, "grad_norm": None, "step": 3}]
    assert record(command="a\udcff").command == "a?"


def test_created_is_utc() -> None:
    """The time of a record is now, in UTC."""
    created = datetime.fromisoformat(record().created)
    assert created.utcoffset() is not None and not created.utcoffset()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"timing": {"at": {"path": Path("x")}}}, r"timing\.at\.path"),
        ({"evaluation": {1: {}}}, "evaluation"),
        ({"seed": "42"}, "seed"),
        ({"seed": True}, "seed"),
        ({"log_history": {}}, "log_history"),
        ({"data": {"label_names": [], "counts": {}}}, "evaluation_split"),
        ({"training": {"plan": None}}, "optimizer"),
    ],
)
def test_what_is_no_record_is_refused(changes: dict[str, Any], key: str) -> None:
    """A missing part or a value that JSON does not hold is named when the record is made, not when it is read."""
    with pytest.raises(ArgumentError, match=key):
        record(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "object"),
        ("{}", "schema"),
        ('{"schema": 2}', "schema 2"),
        ('{"schema": 1, "x": 1}', "unknown: .*'x'"),
        ("{", "read"),
    ],
)
def test_what_is_no_run_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Another file, or one of another version, gives one clear error."""
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ArgumentError, match=message):
        RunRecord.load(tmp_path / "run.json")
    with pytest.raises(ArgumentError, match="read"):
        RunRecord.load(tmp_path / "missing.json")


def test_a_private_record_is_not_written(tmp_path: Path) -> None:
    """The key is named, and an older file stays as it was."""
    path = tmp_path / "run.json"
    record().save(path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"data\.name holds an absolute local path"):
        replace(record(), data={**record().data, "name": "/home/anna/pets"}).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the disk full in the middle of writing, the file is as it was and no rest is left behind."""
    path = tmp_path / "run.json"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_write_into_a_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there, or is a file, gives an OutputError."""
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with pytest.raises(OutputError, match=folder):
            record().save(tmp_path / folder / "run.json")


def test_machines_are_told_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher says how many processes each machine has; without it, or on one machine, nothing is told."""
    assert "machines" not in collect_hardware(4, "cpu")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert collect_hardware(4, "cpu")["machines"] == 2
    assert "machines" not in collect_hardware(2, "cpu")


def test_collected_facts_are_plain_and_not_private() -> None:
    """Versions and hardware can go into a record as they are, without host and user name."""
    made = record(versions=collect_versions(), hardware=collect_hardware(world_size=2, device="cpu"))
    assert {"python", "torch", "transformers", "hf_transfer_learning"} <= set(made.versions)
    assert made.hardware["cores"] >= 1 and made.hardware["processor"]
    assert made.hardware["world_size"] == 2 and made.hardware["accelerators"] == []
    text = shlex.join(map(str, made.hardware.values()))
    assert os.uname().nodename not in text.split() and "device" in collect_hardware()
