"""CSV, JSON Lines and Parquet files with a column of images and one of labels."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets

from hf_transfer import run_files
from hf_transfer.data.raw import RawSplit
from hf_transfer.data.splits import SPLITS, TRAIN, split_in, weak_split_of
from hf_transfer.errors import DataError

# Larger Parquet files are not read into memory but converted once into the cache of the datasets library.
MAX_BYTES_IN_MEMORY = 2 * 2**30
_SHARD = re.compile(r".*-\d+-of-\d+.*")
_DELIMITERS = (",", ";", "\t")


def find_tables(folder: Path, usable: Callable[[Path], bool]) -> dict[str, list[Path]]:
    """The tables in a folder that name their split, such as `train.csv` or `train-00000-of-00002.parquet`.

    Args:
        folder: The folder; there may be none.
        usable: Whether a table has images and labels; asked where several tables could be a split.

    Raises:
        DataError: A split has several files that are no shards.
    """
    if not folder.is_dir():
        return {}
    found: dict[str, list[Path]] = {}
    tables = all_tables(folder)
    for path in tables:
        split = split_in(path.stem)
        if split is not None:
            found.setdefault(split, []).append(path)
    for path in tables:
        weak = weak_split_of(path.stem)
        if TRAIN in found and weak is not None and weak not in found:
            found[weak] = [path]
    for split, paths in found.items():
        if len(paths) > 1 and not all(_SHARD.fullmatch(path.stem) for path in paths):
            found[split] = paths = [path for path in paths if usable(path)] or paths[:1]
        if len(paths) > 1 and not all(_SHARD.fullmatch(path.stem) for path in paths):
            names = ", ".join(path.name for path in paths)
            raise DataError(f"Several tables could be the {split} split: {names}. Keep one, or name it as data set.")
    return {split: found[split] for split in SPLITS if split in found}


def all_tables(folder: Path) -> list[Path]:
    """The tables in a folder, sorted; not those that runs write."""
    written = [file.pattern for file in run_files.RUN_FILES]
    tables = [path for path in sorted(folder.iterdir()) if _is_table(path)]
    return [path for path in tables if not run_files.matches(path.name, written)]


def columns_of(path: Path) -> Mapping[str, Any]:
    """Column name to feature type of a file.

    Raises:
        DataError: The file is no table of its kind.
    """
    if path.suffix.lower() != ".parquet":
        return read_table(path).table.features
    try:
        return Dataset(pq.read_schema(path).empty_table()).features
    except (OSError, ValueError, TypeError, NotImplementedError, pa.ArrowException) as error:
        raise DataError(f"{path.name!r} cannot be read as a table: {error}") from error


def holds_images(path: Path, column: str) -> bool:
    """Whether the first image of a Parquet file is stored in it; False for files of other kinds, which hold none."""
    if path.suffix.lower() != ".parquet":
        return False
    first = next(pq.ParquetFile(path).iter_batches(batch_size=1, columns=[column]), None)
    value = first.column(0)[0].as_py() if first is not None and len(first) else None
    return bool(value.get("bytes")) if isinstance(value, dict) else isinstance(value, bytes)


def find_metadata(folder: Path) -> Path | None:
    """The table `metadata.csv`, `.jsonl` or `.parquet` that the datasets library puts next to images."""
    return next((path for path in sorted(folder.glob("metadata.*")) if _is_table(path)), None)


def read_tables(tables: Mapping[str, Sequence[Path]]) -> dict[str, RawSplit]:
    """Read the tables of all splits.

    Raises:
        DataError: A file cannot be read, or the shards of a split differ in their columns.
    """
    splits = {}
    for split, paths in tables.items():
        shards = [read_table(path) for path in paths]
        try:
            table = shards[0].table if len(shards) == 1 else concatenate_datasets([shard.table for shard in shards])
        except (ValueError, TypeError, pa.ArrowException) as error:
            names = ", ".join(path.name for path in paths)
            raise DataError(f"The files {names} cannot be joined, since their columns differ: {error}") from error
        splits[split] = RawSplit(table, paths[0].parent)
    return splits


def read_table(path: Path) -> RawSplit:
    """Read one file; relative paths in it start at its folder.

    Raises:
        DataError: The file is no table of its kind.
    """
    try:
        table = _READERS[path.suffix.lower()](path)
    except (OSError, ValueError, TypeError, NotImplementedError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path.name!r} cannot be read as a table: {error}") from error
    return RawSplit(table, path.parent)


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLE_SUFFIXES and path.is_file() and not path.name.startswith(".")


def _read_csv(path: Path) -> Dataset:
    """Every value stays text, so that a label "007" remains what it is."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        rows = list(csv.reader(file, delimiter=max(_DELIMITERS, key=first.count), strict=True))
    header, body = (rows[0], rows[1:]) if rows else ([], [])
    if len(set(header)) != len(header) or not header:
        raise ValueError(f"expected a first line of distinct column names, found {header}")
    body = [row for row in body if row]
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise ValueError(f"expected {len(header)} values in row {number}, found {len(row)}")
    columns = {name: [row[index] for row in body] for index, name in enumerate(header)}
    return Dataset(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}))


def _read_json(path: Path) -> Dataset:
    text = path.read_text(encoding="utf-8-sig")
    rows = json.loads(text) if text.lstrip().startswith("[") else list(_json_lines(text))
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected one JSON object for each image")
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
    except pa.ArrowException as error:
        raise ValueError(f"a column mixes several types of values ({error})") from error


def _json_lines(text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"line {number} is not valid JSON ({error})") from error
    return rows


def _read_parquet(path: Path) -> Dataset:
    file = pq.ParquetFile(path)
    size = sum(file.metadata.row_group(index).total_byte_size for index in range(file.num_row_groups))
    if size > MAX_BYTES_IN_MEMORY:
        return Dataset.from_parquet(str(path))
    return Dataset(file.read())


_READERS: Mapping[str, Callable[[Path], Dataset]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".parquet": _read_parquet,
}
TABLE_SUFFIXES = tuple(_READERS)
