"""The files of a run's output folder, as one table: who may remove, move and publish which.

Cleaning, setting aside, publishing and privacy ask this table; a new file is one row here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

Part = Literal["model", "description", "results", "diagnosis", "state"]
Published = Literal["always", "examples", "checkpoint", "never"]

CARD_NAME = "README.md"
RECORD = "run.json"
PLAN_FILE = "transfer_plan.json"
REPORT = "report.html"
DIAGNOSIS_FILE = "diagnosis.json"
EVALUATION_FILE = "evaluation.json"
DEPTHS_FIGURE = "accuracy_by_depth.png"
SKIPPED_FILE = "skipped_images.json"
"""Names of images that were left out: they can tell of people, and so are in no file that is published."""
PROBE_FILE, PROBE_WEIGHTS = "probe.json", "probe.safetensors"
TRAINER_STATE = "trainer_state.json"
STATE_FILE = "transfer_state.json"
RANGE_FILE = "learning_rate_range.json"
"""In a checkpoint: the range tests of the phases that had begun, so that a resumed run keeps their rates."""
AVERAGE_FILE = "weight_average.safetensors"
"""In a checkpoint from within a phase that averages: the mean so far, and the weights that training continues with.
The checkpoint's own weights are the mean, as it was evaluated."""
EARLIER_RUN = "earlier_run"
"""Holds a folder for each time that something was moved aside, the highest number last."""
_WEIGHTS, _INDEX, _SHARDS = "model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors"
_CHECKPOINT = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True)
class RunFile:
    """One kind of file.

    Attributes:
        pattern: Path below the output folder, with slashes; `?` and `*` stand for letters other than a slash.
        part: What it belongs to: the model; a description of the run, which whoever writes it again replaces; its
            results, which are moved aside for the next run; the diagnosis, which may be made before the training that
            rests on it; or the state of a training.
        published: When it is sent to the Hub: always, with examples of the data, with a checkpoint, or never.
    """

    pattern: str
    part: Part
    published: Published = "never"


RUN_FILES: tuple[RunFile, ...] = (
    RunFile("config.json", "model", "always"),
    RunFile(_WEIGHTS, "model", "always"),
    RunFile(_SHARDS, "model", "always"),
    RunFile(_INDEX, "model", "always"),
    RunFile("preprocessor_config.json", "model", "always"),
    RunFile("processor_config.json", "model", "always"),
    RunFile("training_args.bin", "model"),
    RunFile(PROBE_FILE, "model"),
    RunFile(PROBE_WEIGHTS, "model"),
    RunFile(CARD_NAME, "description", "always"),
    RunFile(RECORD, "description", "always"),
    RunFile(PLAN_FILE, "description", "always"),
    *(RunFile(f"{split}_results.json", "results", "always") for split in ("all", "train", "eval", "test")),
    *(
        RunFile(f"figures/{name}.png", "results", "always")
        for name in ("confusion_matrix", "layer_plan", "learning_curves", "learning_rate_range")
    ),
    RunFile("figures/worst_mistakes.png", "results", "examples"),
    RunFile("predictions.parquet", "results", "examples"),
    *(RunFile(f"predictions_{split}.parquet", "results", "examples") for split in ("train", "validation", "test")),
    RunFile(REPORT, "results", "examples"),
    RunFile(f"figures/{DEPTHS_FIGURE}", "diagnosis", "always"),
    RunFile(DIAGNOSIS_FILE, "diagnosis", "checkpoint"),
    RunFile(EVALUATION_FILE, "state"),
    RunFile(SKIPPED_FILE, "state"),
    RunFile(TRAINER_STATE, "state", "checkpoint"),
    RunFile(STATE_FILE, "state", "checkpoint"),
    RunFile(RANGE_FILE, "state", "checkpoint"),
    RunFile(AVERAGE_FILE, "state", "checkpoint"),
)

EVIDENCE = ("config.json", _WEIGHTS, _INDEX, RECORD, PLAN_FILE, TRAINER_STATE)
"""Whoever finds one of these finds the folder of a run or of a model."""
TRAINED = (RECORD, _WEIGHTS, _INDEX)
"""Whoever finds one of these finds a run that has ended; results alone may be of an evaluation before a training."""


def patterns(*, published: Iterable[Published] = (), part: Part | None = None) -> tuple[str, ...]:
    """The patterns of the files that are published so, or that belong to a part."""
    chosen = tuple(published)
    return tuple(f.pattern for f in RUN_FILES if (f.published in chosen if chosen else f.part == part))


def matches(path: str, among: Iterable[str]) -> bool:
    """Whether a path with slashes fits one of some patterns; a star matches no slash."""
    depth = path.count("/")
    return any(pattern.count("/") == depth and fnmatchcase(path, pattern) for pattern in among)


def found(folder: Path, among: Iterable[str]) -> Iterator[Path]:
    """The files in a folder that fit some patterns."""
    for pattern in among:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_file())


def removable(folder: Path) -> list[Path]:
    """All that runs wrote into a folder: files of the table, checkpoints, and what they had moved aside.

    What the user put there is not among it, wherever it lies.
    """
    below = [path for path in sorted(folder.glob("*")) if path.is_dir()]
    folders = [path for path in below if path.name == EARLIER_RUN or _CHECKPOINT.fullmatch(path.name)]
    return [*found(folder, (file.pattern for file in RUN_FILES)), *folders]


def without_stale_weights(folder: Path, names: Iterable[str]) -> list[str]:
    """Names of files without weights that a larger model left behind, which `from_pretrained` would not read.

    Args:
        folder: Holds the files.
        names: Their names.
    """
    kept = list(names)
    if _WEIGHTS in kept:
        return [name for name in kept if name != _INDEX and not fnmatchcase(name, _SHARDS)]
    if _INDEX not in kept:
        return kept
    try:
        named = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return kept  # whoever reads the index says what is wrong with it
    return [name for name in kept if not fnmatchcase(name, _SHARDS) or name in named]


def is_probe(folder: str | Path) -> bool:
    """Whether a folder's result is a probe file."""
    return (Path(folder) / PROBE_FILE).is_file()


def remove_probe(folder: str | Path) -> None:
    """Remove the probe file of an earlier run."""
    for name in (PROBE_FILE, PROBE_WEIGHTS):
        (Path(folder) / name).unlink(missing_ok=True)
