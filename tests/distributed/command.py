"""`hf-transfer train` with a record of what this process writes: `python command.py RECORDS ARGUMENTS...`.

Each file that is opened to be written, and each target of a rename, is a line of `RECORDS/RANK.txt`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import safetensors.torch
import torch

RANK = os.environ.get("RANK", "0")
_WRITING = os.O_WRONLY | os.O_RDWR


def record_writes(folder: Path) -> None:
    """Note every file that Python opens to write, or makes by renaming."""
    folder.mkdir(exist_ok=True)
    notes = (folder / f"{RANK}.txt").open("a", encoding="utf-8", buffering=1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        path: Any = None
        if event == "open" and isinstance(arguments[0], str | bytes | Path):
            mode, flags = arguments[1], arguments[2]
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & _WRITING)
            path = arguments[0] if writes else None
        elif event == "os.rename":
            path = arguments[1]
        if path is not None:
            notes.write(os.path.abspath(os.fsdecode(path)) + "\n")  # noqa: PTH100  # of a file that need not exist

    sys.addaudithook(hook)


def tell(owner: Any, name: str, position: int) -> None:
    """Let a function that writes from C++ or Rust be seen by the hook; its path is the argument at a position."""
    function = getattr(owner, name)

    def told(*args: Any, **kwargs: Any) -> Any:
        path = args[position] if len(args) > position else kwargs.get("filename")
        if isinstance(path, str | Path):
            sys.audit("open", str(path), "w", 0)
        return function(*args, **kwargs)

    setattr(owner, name, told)


if __name__ == "__main__":
    torch.set_num_threads(1)
    record_writes(Path(sys.argv[1]))
    tell(safetensors.torch, "save_file", 1)
    tell(torch, "save", 1)
    from hf_transfer.cli import main  # transformers takes save_file when it is imported

    sys.exit(main(sys.argv[2:]))
