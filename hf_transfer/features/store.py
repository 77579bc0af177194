"""`FeatureStore`: one memory-mapped table of a row per image, filled in chunks that are there whole or not at all.

A store is a folder: `entry.json` (what it holds), `rows.bin` (the table, of its full size from the start) and
`chunks/NUMBER.json` (the checksum of a chunk, written after the chunk itself is on the disk). A run that is killed
leaves whole chunks, which the next one keeps; several processes may fill different chunks at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_transfer.errors import CacheError
from hf_transfer.utils.files import write_json

SCHEMA = 1
ENTRY_FILE = "entry.json"
ROWS_FILE = "rows.bin"
CHUNKS = "chunks"
# Small enough to lose little when killed and to be shared evenly by ranks, large enough for few files; whole batches,
# so that the numbers of a row do not depend on where a run was killed.
CHUNK_BYTES = 32 * 2**20
BATCH_ROWS = 32
MAX_CHUNK_ROWS = 256


@dataclass(frozen=True)
class Entry:
    """What a store holds.

    Attributes:
        rows: Number of rows: images times views.
        columns: Name, numpy type and shape (of one row) of each column.
        chunk_rows: Rows in each chunk but the last.
        facts: Whatever else belongs to the entry, as plain data.
    """

    rows: int
    columns: tuple[tuple[str, str, tuple[int, ...]], ...]
    chunk_rows: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def plan(cls, rows: int, columns: Mapping[str, tuple[str, tuple[int, ...]]], facts: Mapping[str, Any]) -> Entry:
        """An entry with chunks of a suitable size."""
        named = tuple((name, kind, tuple(shape)) for name, (kind, shape) in columns.items())
        per_chunk = CHUNK_BYTES // max(cls(rows, named, 1).dtype.itemsize, 1)
        chunk_rows = max(BATCH_ROWS, min(MAX_CHUNK_ROWS, per_chunk // BATCH_ROWS * BATCH_ROWS))
        return cls(rows, named, chunk_rows, facts)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a row."""
        return np.dtype([(name, kind, shape) for name, kind, shape in self.columns], align=True)

    @property
    def nbytes(self) -> int:
        """Size of the table in bytes."""
        return self.rows * self.dtype.itemsize

    @property
    def chunk_count(self) -> int:
        """Number of chunks."""
        return -(-self.rows // self.chunk_rows)

    def same_table(self, other: Entry) -> bool:
        """Whether another entry has the same rows, columns and chunks."""
        mine, theirs = (replace(entry, facts={}) for entry in (self, other))
        return mine == theirs

    def chunk(self, number: int) -> range:
        """The rows of a chunk."""
        return range(number * self.chunk_rows, min((number + 1) * self.chunk_rows, self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        columns = [[name, kind, list(shape)] for name, kind, shape in self.columns]
        facts = {"columns": columns, "chunk_rows": self.chunk_rows, "facts": dict(self.facts)}
        return {"schema": SCHEMA, "rows": self.rows, **facts}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Entry:
        """Inverse of `to_dict`; any error means that the entry cannot be used."""
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}")
        columns = tuple((str(name), str(kind), tuple(shape)) for name, kind, shape in data["columns"])
        return cls(int(data["rows"]), columns, int(data["chunk_rows"]), dict(data["facts"]))


class FeatureStore:
    """A store on disk, opened for reading and for filling.

    Attributes:
        folder: Where it is.
        entry: What it holds.
    """

    def __init__(self, folder: Path, entry: Entry) -> None:
        self.folder = folder
        self.entry = entry
        self._rows: npt.NDArray[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_rows": None}  # a mapped array would be pickled whole

    @classmethod
    def open(cls, folder: Path) -> FeatureStore | None:
        """Open an existing store; None where there is none that can be used."""
        try:
            entry = Entry.from_dict(json.loads((folder / ENTRY_FILE).read_text(encoding="utf-8")))
            if (folder / ROWS_FILE).stat().st_size != entry.nbytes:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(folder, entry)

    @classmethod
    def create(cls, folder: Path, entry: Entry) -> FeatureStore:
        """Make an empty store with its space on the disk reserved, or open one that another process just made.

        Raises:
            CacheError: The disk has no space for it, or the folder cannot be written.
        """
        opened = cls.open(folder)
        if opened is not None and opened.entry.same_table(entry):
            return opened
        # Made in a folder of its own and moved into place, so that of two processes one finds the other's store whole.
        new = folder.with_name(f".new-{folder.name}-{os.getpid()}")
        try:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(new, ignore_errors=True)
            (new / CHUNKS).mkdir(parents=True)
            _reserve(new / ROWS_FILE, entry.nbytes)
            write_json(new / ENTRY_FILE, entry.to_dict())
            with contextlib.suppress(FileExistsError):
                _move(new, folder)
        except OSError as error:
            raise _cache_error(error, folder, entry.nbytes) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
        made = cls.open(folder)
        if made is None or not made.entry.same_table(entry):
            raise CacheError(f"The feature cache's {folder.name} was changed while it was made. Start again.")
        return made

    @property
    def rows(self) -> npt.NDArray[Any]:
        """The table, mapped read-only: a structured array of shape `(rows,)`; columns are views of it."""
        if self._rows is None:
            path = self.folder / ROWS_FILE
            shape = (self.entry.rows,)
            self._rows = np.memmap(path, self.entry.dtype, mode="r", shape=shape) if shape[0] else np.empty(shape)
        return self._rows

    def finished(self) -> list[int]:
        """Numbers of the chunks that are there."""
        numbers = [int(path.stem) for path in (self.folder / CHUNKS).glob("*.json") if path.stem.isdigit()]
        return sorted(number for number in numbers if number < self.entry.chunk_count)

    def missing(self) -> list[int]:
        """Numbers of the chunks that are still to be computed."""
        return sorted(set(range(self.entry.chunk_count)) - set(self.finished()))

    def write(self, number: int, rows: npt.NDArray[Any]) -> None:
        """Write a chunk: its rows, then its checksum.

        Raises:
            CacheError: The disk has no space, or the folder cannot be written.
        """
        start = number * self.entry.chunk_rows
        content = np.ascontiguousarray(rows.astype(self.entry.dtype, copy=False)).view(np.uint8).data
        try:
            with (self.folder / ROWS_FILE).open("r+b") as file:
                file.seek(start * self.entry.dtype.itemsize)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            write_json(self._mark(number), {"crc32": zlib.crc32(content)})
        except OSError as error:
            raise _cache_error(error, self.folder, self.entry.nbytes) from error

    def drop_corrupted(self) -> list[int]:
        """Compare every finished chunk with its checksum; chunks that differ are to be computed again.

        Returns:
            Their numbers.
        """
        dropped = []
        for number in self.finished():
            chunk = self.entry.chunk(number)
            content = np.ascontiguousarray(self.rows[chunk.start : chunk.stop]).view(np.uint8).data
            try:
                expected = json.loads(self._mark(number).read_text(encoding="utf-8"))["crc32"]
            except (OSError, ValueError, KeyError, TypeError):
                expected = None
            if expected != zlib.crc32(content):
                self._mark(number).unlink(missing_ok=True)
                dropped.append(number)
        return dropped

    def add_fact(self, name: str, value: Any) -> None:
        """Note something in the entry, for later runs."""
        self.entry = replace(self.entry, facts={**self.entry.facts, name: value})
        write_json(self.folder / ENTRY_FILE, self.entry.to_dict())

    def _mark(self, number: int) -> Path:
        return self.folder / CHUNKS / f"{number:06d}.json"


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Protect a store from being evicted by another process, as long as the context lasts."""
    lock = _lock(folder, exclusive=False)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def is_in_use(folder: Path) -> bool:
    """Whether some process has the store in use."""
    lock = _lock(folder, exclusive=True)
    if lock is None:
        return True
    os.close(lock)
    return False


def _lock(folder: Path, exclusive: bool) -> int | None:
    """An open file with a lock that the system gives back when the process ends, however it ends."""
    path = folder.with_name(f"{folder.name}.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return None
    try:
        import fcntl

        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except ImportError:  # Windows refuses to remove files that are mapped, which protects them as well
        pass
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _reserve(path: Path, nbytes: int) -> None:
    """Make a file of a size whose blocks are there, so that the disk cannot be full later."""
    with path.open("wb") as file:
        if not nbytes:
            return
        try:
            os.posix_fallocate(file.fileno(), 0, nbytes)
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            file.truncate(nbytes)  # no macOS and not every file system can reserve


def _move(new: Path, folder: Path) -> None:
    """Rename a folder to a name that must be free."""
    try:
        new.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(error.errno, error.strerror) from error
        raise


def _cache_error(error: OSError, folder: Path, nbytes: int) -> CacheError:
    return CacheError(
        f"The feature cache cannot hold {nbytes / 2**20:,.0f} MiB in {folder.parent}: {error.strerror or error}. Free "
        "space there, choose another folder with HF_TRANSFER_CACHE, or use --cache_features off."
    )
