"""The output folder of a run, checked before it is used."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_transfer.errors import OutputError
from hf_transfer.run_files import SAMPLES, evidence, removable

if TYPE_CHECKING:
    from torch import nn

# Weights, and twice as much for the state of Adam.
_SIZE_OF_CHECKPOINT = 3


@dataclass(frozen=True)
class RunFolder:
    """The folder that a run writes to.

    Attributes:
        path: The folder; need not exist.
        resume: The run resumes from a checkpoint in the folder.
        overwrite: The files of an earlier run may be removed; other files never are.
    """

    path: Path
    resume: bool = False
    overwrite: bool = False

    def check(self) -> None:
        """Check that the run may write here, before anything is loaded.

        Raises:
            OutputError: The path is a file, the folder cannot be written, or it holds another run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"The output {self.path} is a file. Give a folder by --output_dir.")
        earlier = evidence(self.path)
        if earlier and not (self.resume or self.overwrite):
            raise OutputError(
                f"The output folder {self.path} holds another run ({', '.join(earlier[:4])}). Choose another "
                "--output_dir, resume that run by --resume_from_checkpoint true, or replace it by "
                "--overwrite_output_dir."
            )
        existing = next(p for p in (self.path, *self.path.resolve().parents) if p.exists())
        if not os.access(existing, os.W_OK):
            raise OutputError(f"The output folder {self.path} cannot be written: no permission for {existing}.")

    def check_space(self, model: nn.Module, checkpoints: int | None) -> None:
        """Check that the disk holds the model and the checkpoints kept at one time.

        Args:
            model: What will be saved.
            checkpoints: `save_total_limit`; one more exists while the oldest is not yet removed.

        Raises:
            OutputError: Too little space is left.
        """
        size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
        needed = size * (1 + _SIZE_OF_CHECKPOINT * ((checkpoints or 1) + 1)) + 2**24
        existing = next(p for p in (self.path, *self.path.resolve().parents) if p.exists())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise OutputError(
                f"No space for the results: about {needed / 2**20:,.0f} MiB are needed at {self.path}, "
                f"{free / 2**20:,.0f} MiB are free. Free some, choose another --output_dir, or set --save_strategy no."
            )

    def prepare(self) -> None:
        """Make the folder, and remove the files of an earlier run where that was asked for.

        Raises:
            OutputError: The folder cannot be made.
        """
        try:
            if self.overwrite and not self.resume:
                for found in removable(self.path):
                    shutil.rmtree(found) if found.is_dir() and not found.is_symlink() else found.unlink()
                for name in ("figures", SAMPLES):
                    with contextlib.suppress(OSError):  # not there, a link, or holds files of the user
                        (self.path / name).rmdir()
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The output folder {self.path} cannot be prepared: {error}.") from error
