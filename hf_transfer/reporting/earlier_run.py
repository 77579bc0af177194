"""What an earlier training left in the output folder: moved aside, so that it is not taken for the present one's."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from hf_transfer.run_files import EARLIER_RUN, PLAN_FILE, RECORD, REPORT, TRAINED, found, patterns, samples

logger = logging.getLogger(__name__)

# A diagnosis may be made before the training that rests on it, but not before the end of the earlier one.
_DIAGNOSIS = patterns(part="diagnosis")


def set_aside(folder: Path, since: float, has_plan: bool) -> list[str]:
    """Move results, figures, diagnosis and samples of an earlier run into a new folder in `earlier_run`.

    Record, card and plan are copied there; they stay, as model and checkpoints do, until they are replaced. What
    cannot be moved stays with a warning: nothing here may keep a model from being saved.

    Args:
        folder: The output folder.
        since: When the present training began, in seconds since the epoch; younger files are its own.
        has_plan: Whether the present run writes a plan; else that of the earlier one is moved.

    Returns:
        What was moved.
    """
    if not any(_is_older(folder / name, since) for name in TRAINED):
        return []
    results = [*found(folder, patterns(part="results")), *samples(folder)]
    names = [path.relative_to(folder).as_posix() for path in results if _is_older(path, since)]
    ended = max(_modified(folder / name) for name in (RECORD, REPORT))
    names += [name for name in _DIAGNOSIS if _is_older(folder / name, min(since, ended + 1e-6))]
    described = [name for name in patterns(part="description") if _is_older(folder / name, since)]
    if not has_plan and PLAN_FILE in described:
        described.remove(PLAN_FILE)
        names.append(PLAN_FILE)
    return _move(folder, names, described) if names else []


def _move(folder: Path, names: Sequence[str], described: Sequence[str]) -> list[str]:
    numbers = [int(path.name) for path in (folder / EARLIER_RUN).glob("*") if path.name.isdecimal()]
    kept = folder / EARLIER_RUN / str(max(numbers, default=0) + 1)
    moved: list[str] = []
    try:
        for name in names:
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / name, kept / name)  # also to another disk, where figures is a link
            moved.append(name)
        for name in described:
            shutil.copy2(folder / name, kept / name)
    except OSError as error:
        logger.warning(
            "%s holds results of an earlier run that could not be moved aside (%s) and would be published with this "
            "one: %s. Remove them, or publish from another folder.",
            folder,
            error,
            ", ".join(name for name in names if name not in moved) or "none",
        )
    if moved:
        logger.warning("%s held results of an earlier run, which are in %s now: %s.", folder, kept, ", ".join(moved))
    return moved


def _modified(path: Path) -> float:
    return path.stat().st_mtime if path.is_file() else 0.0


def _is_older(path: Path, since: float) -> bool:
    return path.is_file() and path.stat().st_mtime < since
