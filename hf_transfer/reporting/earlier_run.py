"""What an earlier training left in the output folder: moved aside, so that it is not taken for the present one's."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from hf_transfer.hub.staging import ALLOWED, EXAMPLES
from hf_transfer.models.timm_interop import PLAN_FILE
from hf_transfer.reporting.card import CARD_NAME
from hf_transfer.reporting.verification_samples import sample_files

logger = logging.getLogger(__name__)

FOLDER = "earlier_run"
"""In the output folder; holds a folder for each time that something was moved aside, the highest number last."""
RECORD = "run.json"
_REPORT = "report.html"
# Whoever finds these finds the folder of a run; results alone may be of an evaluation before the first training.
_EVIDENCE = (RECORD, "model.safetensors", "model.safetensors.index.json")
# May be made before the training that rests on it, but not before the end of the earlier one.
_DIAGNOSIS = ("diagnosis.json", "figures/accuracy_by_depth.png")
# Figures by name: others in that folder are the user's.
_FIGURES = tuple(name for name in (*ALLOWED, *EXAMPLES) if name.startswith("figures/") and name not in _DIAGNOSIS)
_RESULTS = (
    *(f"{split}_results.json" for split in ("all", "train", "eval", "test")),
    *_FIGURES,
    "predictions*.parquet",
    _REPORT,
)
# Tell what the results are of, and are replaced by those who write them.
_DESCRIPTIONS = (RECORD, CARD_NAME, PLAN_FILE)


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
    if not any(_is_older(folder / name, since) for name in _EVIDENCE):
        return []
    found = [path for pattern in _RESULTS for path in folder.glob(pattern)] + sample_files(folder)
    names = [path.relative_to(folder).as_posix() for path in found if _is_older(path, since)]
    ended = max(_modified(folder / name) for name in (RECORD, _REPORT))
    names += [name for name in _DIAGNOSIS if _is_older(folder / name, min(since, ended + 1e-6))]
    described = [name for name in _DESCRIPTIONS if _is_older(folder / name, since)]
    if not has_plan and PLAN_FILE in described:
        described.remove(PLAN_FILE)
        names.append(PLAN_FILE)
    return _move(folder, names, described) if names else []


def _move(folder: Path, names: Sequence[str], described: Sequence[str]) -> list[str]:
    numbers = [int(path.name) for path in (folder / FOLDER).glob("*") if path.name.isdecimal()]
    kept = folder / FOLDER / str(max(numbers, default=0) + 1)
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
