"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_transfer.errors import OutputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file to write to, which takes the place of another one when it is complete.

    After a failure the other file is unchanged.

    Args:
        path: The file to replace or to make, in an existing folder.

    Yields:
        The file to write; it need not exist.
    """
    target = Path(path)
    # Not tempfile: only the owner may read its files, and os.replace keeps that.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # a crash of the machine must not leave an empty file under the final name
        temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, text: str) -> None:
    """Write a text file so that it is complete or, after a failure, unchanged.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}. Check the space on the disk and your permission."
        ) from error


def write_json(path: Path, data: Any) -> None:
    """Write plain data so that the file is complete or, after a failure, unchanged."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(data, file)
