"""Checkpoint folders: written in a staging folder and moved into place whole, so that none is ever half-written."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_transfer.run_files import STAGING, TRAINER_STATE

logger = logging.getLogger(__name__)

_OLD = "old-"


def checkpoint_name(step: int) -> str:
    """Name of the folder of a step."""
    return f"{PREFIX_CHECKPOINT_DIR}-{step}"


def checkpoint_steps(folder: str | Path | None) -> dict[int, Path]:
    """The checkpoint folders in a folder, by step."""
    found = Path(folder or ".").glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    numbered = {path: path.name.rpartition("-")[2] for path in found if path.is_dir()}
    return {int(number): path for path, number in numbered.items() if number.isascii() and number.isdigit()}


def last_complete(folder: str | Path | None) -> Path | None:
    """The checkpoint of the highest step that was written to its end, or None.

    A kill between the two renames of `move_into_place` is made good first. Trainer writes `trainer_state.json` last.
    Folders without it, left by a program that was killed while it copied or
    wrote them, are passed over with a warning.
    """
    return next(complete_checkpoints(folder), None)


def complete_checkpoints(folder: str | Path | None) -> Iterator[Path]:
    """The checkpoints that `last_complete` chooses from, the highest step first."""
    recover(Path(folder or "."))
    for _, path in sorted(checkpoint_steps(folder).items(), reverse=True):
        if (path / TRAINER_STATE).is_file():
            yield path
        else:
            logger.warning("%s is incomplete (it has no %s) and is passed over.", path, TRAINER_STATE)


def recover(run_folder: Path) -> None:
    """Put a checkpoint in its place whose replacement was broken off after the old one had been moved away."""
    for old in (run_folder / STAGING).glob(f"{_OLD}*"):
        name = old.name.removeprefix(_OLD)
        staged, final = run_folder / STAGING / name, run_folder / name
        if final.exists():
            continue
        # The old one is moved only when the new one is complete.
        with contextlib.suppress(OSError):  # another process of the run was faster
            (staged if staged.is_dir() else old).rename(final)
            logger.warning("%s was left half replaced by a run that was killed, and is in its place again.", final)


def clear_staging(run_folder: Path) -> None:
    """Remove what a killed run left behind."""
    recover(run_folder)
    shutil.rmtree(run_folder / STAGING, ignore_errors=True)


def move_into_place(run_folder: Path, name: str) -> None:
    """Move a finished checkpoint out of the staging folder; one that is there already is replaced.

    Where several machines each have the folder on a disk of their own, each calls this; on a shared disk the others
    find nothing to move.
    """
    staged, final = run_folder / STAGING / name, run_folder / name
    if not staged.is_dir():
        return
    if final.exists():
        # There is a moment without this step's checkpoint, never one with half of it; see `recover`.
        final.rename(run_folder / STAGING / f"{_OLD}{name}")
    staged.rename(final)
    clear_staging(run_folder)


def note_best(state: TrainerState, run_folder: Path, name: str) -> None:
    """Make the state name the best checkpoint by its final place, although it is being written elsewhere.

    Args:
        state: Changed in place.
        run_folder: Where checkpoints end up.
        name: Name of the checkpoint that is being written.
    """
    if state.best_global_step and checkpoint_name(state.best_global_step) == name:
        state.best_model_checkpoint = str(run_folder / name)
