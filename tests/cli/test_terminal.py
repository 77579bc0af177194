"""hf_transfer.cli.terminal: what the commands say of the data."""

from __future__ import annotations

import io
from pathlib import Path

from hf_transfer.cli.terminal import Terminal
from hf_transfer.data import load
from tests.helpers.image_files import write_classes


def _printed(folder: Path, classes: dict[str, int]) -> str:
    stream = io.StringIO()
    Terminal(stream).data(load(str(write_classes(folder, classes))))
    return stream.getvalue()


def test_classes_are_named_with_their_images(tmp_path: Path) -> None:
    """A folder that is no class shows at once."""
    assert "classes: cat (4), dog (3)\n" in _printed(tmp_path, {"cat": 4, "dog": 3})


def test_of_many_classes_the_first_and_the_last_are_named(tmp_path: Path) -> None:
    """A thousand names would hide the rest of the output."""
    text = _printed(tmp_path, {f"c{number}": 2 for number in range(1, 13)})
    assert (
        "classes: c1 (2), c2 (2), c3 (2), c4 (2), c5 (2), c6 (2), ... 3 more ..., c10 (2), c11 (2), c12 (2)\n" in text
    )
