"""The output folder of a run, checked before it is used."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_transfer.errors import OutputError
from hf_transfer.run_files import (
    CARD_NAME,
    RECORD,
    REPLACED,
    RUN_FILES,
    SAMPLES,
    TRAINER_STATE,
    evidence,
    found,
    is_ours,
    is_owned,
    removable,
    run_folders,
)
from hf_transfer.utils.files import replacing

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

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

    def check(self, trains: bool = True) -> None:
        """Check that the run may write here, before anything is loaded.

        Args:
            trains: Whether it is a training, which can resume or replace another run; for the advice.

        Raises:
            OutputError: The path is a file, the folder cannot be written, or it holds another run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"The output {self.path} is a file. Give a folder by --output_dir.")
        earlier = evidence(self.path)
        if earlier and not (self.resume or self.overwrite):
            ways = ", resume that run by --resume_from_checkpoint true, or replace it by --overwrite_output_dir"
            raise OutputError(
                f"The output folder {self.path} holds another run ({', '.join(earlier[:4])}). Choose another "
                f"--output_dir{ways if trains else ''}."
            )
        self._check_owner(earlier, trains)
        existing = next(p for p in (self.path, *self.path.resolve().parents) if p.exists())
        if not (os.access(existing, os.W_OK | os.X_OK) and existing.is_dir()):
            raise OutputError(f"The output folder {self.path} cannot be written: no permission for {existing}.")

    def _check_owner(self, earlier: Sequence[str], trains: bool) -> None:
        """Refuse to replace what no run wrote, and to write into the folders of another run."""
        own = (self.path / CARD_NAME).exists() and not is_ours(self.path)
        if own and trains and not self.resume:
            raise OutputError(
                f"The output folder {self.path} holds a {CARD_NAME} that no run wrote and the card would replace. "
                "Choose another --output_dir, or move that file away."
            )
        if earlier and self.overwrite and not self.resume and not is_ours(self.path):
            raise OutputError(
                f"The output folder {self.path} holds a model that no run of hf-transfer wrote "
                f"({', '.join(earlier[:4])}), and is not replaced. Choose another --output_dir."
            )
        for parent in self.path.absolute().resolve().parents:
            below = self.path.absolute().resolve().relative_to(parent).as_posix()
            if is_owned(f"{below}/") and is_ours(parent):
                raise OutputError(
                    f"The output folder {self.path} lies in {parent.name}/{below.partition('/')[0]}, which belongs to "
                    "a run and is removed with it. Choose another --output_dir."
                )

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
        """Make the folder, and move the files of an earlier run aside where it is to be replaced.

        Files that are links get a content of their own, so that nothing is written through them.

        Raises:
            OutputError: The folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.overwrite and not self.resume:
                self._move_aside()
            for owned in found(self.path, (file.pattern for file in RUN_FILES)):
                if owned.is_symlink() or owned.stat().st_nlink > 1:
                    with replacing(owned) as own:
                        shutil.copyfile(owned, own)
        except OSError as error:
            raise OutputError(f"The output folder {self.path} cannot be prepared: {error}.") from error

    @contextlib.contextmanager
    def replacing_earlier(self) -> Iterator[None]:
        """Keep the earlier run while the new one runs; after a failure it is put back, or kept where it is.

        It is kept aside where the failed run has left a checkpoint that it can be resumed from.
        """
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                self._put_back()
            raise

    def finish(self) -> None:
        """Remove the earlier run, now that the new one is complete."""
        if self._aside.is_dir() and not self._aside.is_symlink():
            shutil.rmtree(self._aside, ignore_errors=True)

    @property
    def _aside(self) -> Path:
        return self.path / REPLACED

    def _move_aside(self) -> None:
        """Move the earlier run aside; where one that was never replaced lies there, remove the unfinished one."""
        if self._aside.exists() and not (self.path / RECORD).exists():
            self._remove()
            return
        self.finish()
        try:
            _move(self.path, self._aside)
        except OSError:
            _move(self._aside, self.path)
            shutil.rmtree(self._aside, ignore_errors=True)
            raise

    def _remove(self) -> None:
        for path in removable(self.path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        _remove_empty(self.path)

    def _put_back(self) -> None:
        if not self._aside.is_dir():
            return
        if any((path / TRAINER_STATE).is_file() for path in run_folders(self.path)) or (self.path / RECORD).exists():
            logger.warning(
                "The earlier run is in %s until a run in %s is complete: resume this one, or move it away.",
                self._aside,
                self.path,
            )
            return
        self._remove()
        _move(self._aside, self.path)
        shutil.rmtree(self._aside, ignore_errors=True)
        logger.warning("The run failed before its first checkpoint; the earlier one is in %s as before.", self.path)


def _move(source: Path, target: Path) -> None:
    """Move everything that a run wrote into another folder, and remove its folders where they are empty then."""
    for path in removable(source):
        new = target / path.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, new)  # also to another disk, where figures is a link
    _remove_empty(source)


def _remove_empty(folder: Path) -> None:
    for name in ("figures", SAMPLES):
        with contextlib.suppress(OSError):  # not there, a link, or holds files of the user
            (folder / name).rmdir()
