"""The folders that two checkouts wrote, compared file by file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors import safe_open

from .cards import card_differences, report_differences
from .values import differences
from .volatile import UNREAD_FILES, mask_data

ASPECTS = ("losses", "weights", "checkpoints", "card", "record")
"""What a file tells of; "record" is of all files that belong to none of the others."""

_CHECKPOINT = re.compile(r"checkpoint-\d+")
_CARDS = ("README.md", "report.html")
_LOSSES = ("trainer_state.json", "*_results.json")
# What the random states of NumPy and Python in a checkpoint are made of, beside tensors and plain values.
_RANDOM_STATES = [np._core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Allowed:
    """Differences that were agreed upon.

    Attributes:
        files: Patterns of names, or of paths relative to the compared folder, of files that are left out.
        entries: By name of a JSON file, patterns of dotted places in it that are left out.
        card_text: Compare the metadata and the numbers of cards and reports alone.
    """

    files: tuple[str, ...] = ()
    entries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    card_text: bool = False

    def leaves_out(self, path: Path) -> bool:
        """Whether a file is not compared."""
        return any(fnmatchcase(path.name, pattern) or fnmatchcase(str(path), pattern) for pattern in self.files)


NOTHING_ALLOWED = Allowed()


@dataclass
class Comparison:
    """What was found in two folders.

    Attributes:
        files: How many files of each aspect were in either.
        differences: In words, by aspect.
    """

    files: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ASPECTS, 0))
    differences: dict[str, list[str]] = field(default_factory=lambda: {aspect: [] for aspect in ASPECTS})

    def add(self, aspect: str, found: list[str]) -> None:
        """Note differences."""
        self.differences[aspect] += found

    @property
    def is_equal(self) -> bool:
        """Whether no difference was found."""
        return not any(self.differences.values())


def aspect_of(path: Path) -> str:
    """What a file, by its path relative to the compared folder, tells of."""
    if any(_CHECKPOINT.fullmatch(part) for part in path.parts[:-1]):
        return "checkpoints"
    if path.name in _CARDS:
        return "card"
    if path.suffix == ".safetensors":
        return "weights"
    return "losses" if any(fnmatchcase(path.name, pattern) for pattern in _LOSSES) else "record"


def compare_folders(old: Path, new: Path, allowed: Allowed = NOTHING_ALLOWED) -> Comparison:
    """Compare all files below two folders.

    Args:
        old: A folder.
        new: Another one.
        allowed: What may differ.
    """
    found = Comparison()
    first, second = (_files(folder, allowed) for folder in (old, new))
    for path in sorted(first | second):
        aspect = aspect_of(path)
        found.files[aspect] += 1
        if path not in second:
            found.add(aspect, [f"{path}: only in old"])
        elif path not in first:
            found.add(aspect, [f"{path}: only in new"])
        else:
            lines = file_differences(old / path, new / path, allowed)
            is_diff = lines[:1] == [f"--- old/{path.name}"]
            found.add(aspect, [f"{path}:", *lines[2:]] if is_diff else [f"{path}: {line}" for line in lines])
    return found


def file_differences(old: Path, new: Path, allowed: Allowed = NOTHING_ALLOWED) -> list[str]:
    """How two files of one name differ; empty where they do not."""
    if old.name in UNREAD_FILES or old.read_bytes() == new.read_bytes():
        return []
    if old.name in _CARDS:
        compare = card_differences if old.suffix == ".md" else report_differences
        return compare(old.read_text("utf-8"), new.read_text("utf-8"), allowed.card_text)
    if old.suffix not in (".json", ".safetensors", ".parquet", ".pt", ".pth"):
        return [f"other content, {old.stat().st_size:,} bytes became {new.stat().st_size:,}"]
    return differences(*(content(path, allowed) for path in (old, new)))


def content(path: Path, allowed: Allowed = NOTHING_ALLOWED) -> Any:
    """What a JSON, safetensors, Parquet or torch file holds, without what is volatile."""
    if path.suffix == ".json":
        data = json.loads(path.read_text("utf-8"))
        return mask_data(data, path.name, allowed.entries.get(path.name, ()))
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()} | {"metadata": file.metadata()}  # noqa: SIM118
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return {"schema": str(table.schema), "rows": table.to_pylist()}
    with torch.serialization.safe_globals(_RANDOM_STATES):
        return torch.load(path, map_location="cpu", weights_only=True)


def _files(folder: Path, allowed: Allowed) -> set[Path]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path for path in paths if not allowed.leaves_out(path)}
