"""hf_transfer.utils.files: a file is replaced completely or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hf_transfer.errors import OutputError
from hf_transfer.utils.files import replacing, write_atomically, write_json


def test_a_failure_leaves_the_file_unchanged(tmp_path: Path) -> None:
    """An error while the new file is written leaves the old one, and nothing else in the folder."""
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError, match="half"), replacing(path) as temporary:
        temporary.write_text("ne")
        raise ValueError("half")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [write_atomically, write_json])
def test_others_may_read_the_file(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    """The file has the rights of any new file of the user, and not those of a temporary file."""
    write(tmp_path / "file", "text")
    (tmp_path / "plain").write_text("text")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_failures_are_named(tmp_path: Path) -> None:
    """A folder that is not there is an OutputError with the path; plain data raise what the system raised."""
    with pytest.raises(OutputError, match="missing"):
        write_atomically(tmp_path / "missing" / "file", "text")
    with pytest.raises(FileNotFoundError):
        write_json(tmp_path / "missing" / "file", {})
