"""What an earlier training left in the output folder: moved aside, so that it is not taken for the present one's."""

from __future__ import annotations

import logging
from pathlib import Path

from hf_transfer.hub.samples import FOLDER as SAMPLES
from hf_transfer.saving import PLAN_FILE

logger = logging.getLogger(__name__)

FOLDER = "earlier_run"
"""In the output folder; holds what was moved aside last."""
RECORD = "run.json"
_REPORT = "report.html"
# Whoever finds these finds the folder of a run; results alone may be of an evaluation before the first training.
_EVIDENCE = (RECORD, "model.safetensors", "model.safetensors.index.json")
_RESULTS = (
    *(f"{split}_results.json" for split in ("all", "train", "eval", "test")),
    "figures/*.png",
    "predictions*.parquet",
    _REPORT,
    PLAN_FILE,
    f"{SAMPLES}/*",
)
# May be made before the training that rests on it, but not before the end of the earlier one.
_DIAGNOSIS = ("diagnosis.json", "figures/accuracy_by_depth.png")


def set_aside(folder: Path, since: float) -> list[str]:
    """Move results, figures, plan, diagnosis and samples of an earlier run into `earlier_run`.

    Model, record, card and checkpoints stay: they are replaced by those who write them.

    Args:
        folder: The output folder.
        since: When the present training began, in seconds since the epoch; younger files are its own.

    Returns:
        What was moved.
    """
    if not any(_is_older(folder / name, since) for name in _EVIDENCE):
        return []
    names = [path.relative_to(folder).as_posix() for pattern in _RESULTS for path in folder.glob(pattern)]
    ended = max((_modified(folder / name) for name in (RECORD, _REPORT)), default=0.0)
    diagnosis = [name for name in _DIAGNOSIS if _is_older(folder / name, min(since, ended + 1e-6))]
    names = [name for name in names if name not in _DIAGNOSIS and _is_older(folder / name, since)] + diagnosis
    for name in names:
        (folder / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).replace(folder / FOLDER / name)
    if names:
        logger.warning(
            "%s held results of an earlier run, which are in its folder %s now: %s.", folder, FOLDER, ", ".join(names)
        )
    return names


def _modified(path: Path) -> float:
    return path.stat().st_mtime if path.is_file() else 0.0


def _is_older(path: Path, since: float) -> bool:
    return path.is_file() and path.stat().st_mtime < since
