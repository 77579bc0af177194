"""The files of a run's output folder, as one table: who writes, removes, moves and publishes which.

Cleaning, setting aside, publishing and privacy ask this table; a new file is one row here. A file without a row is the
user's, and is never removed, moved or published.
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
"""Names of images that were left out. Names can identify people, so no published file holds them."""
PROBE_FILE, PROBE_WEIGHTS = "probe.json", "probe.safetensors"
TRAINER_STATE = "trainer_state.json"
STATE_FILE = "transfer_state.json"
RANGE_FILE = "learning_rate_range.json"
"""In a checkpoint: the range tests of the phases that had begun, so that a resumed run keeps their rates."""
AVERAGE_FILE = "weight_average.safetensors"
"""In a checkpoint from within a phase that averages: the mean so far, and the weights that training continues with.
The checkpoint's own weights are the mean, as it was evaluated."""
HELD_OUT_FILE = "held_out.safetensors"
"""In a checkpoint of a run with held-out images: the weights at the start, the best so far, and their logits."""
EARLIER_RUN = "earlier_run"
"""Holds a folder for each time that something was moved aside, the highest number last."""
STAGING = ".unfinished"
"""Holds the checkpoint that is being written; no name that transformers' get_last_checkpoint would take."""
REPLACED = ".replaced"
"""Holds the run that is being replaced, until the new one is complete."""
SAMPLES = "verification"
"""Holds the evaluation images that a publication is verified with; never published."""
SAMPLES_INDEX = "samples.json"
SAMPLE_INPUTS = "inputs.safetensors"
WIDGET_IMAGES = "examples/widget_"
"""Where in a repository the images of the model page's widget lie; a number and `.png` follow."""
EVAL_RESULTS = ".eval_results/hf_transfer_"
"""Start of the name of our results for a leaderboard in a repository; other files there belong to others."""
INDEX = "model.safetensors.index.json"
_WEIGHTS, _SHARDS = "model.safetensors", "model-?????-of-?????.safetensors"
_CHECKPOINT = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True)
class RunFile:
    """One kind of file.

    Attributes:
        pattern: Path below the output folder, with slashes; `?` and `*` stand for letters other than a slash.
        part: What it belongs to: the model; the description of the run, which the next run replaces; its results,
            which are moved aside for the next run; the diagnosis, which may be older than the training that rests on
            it; or the state of a training.
        published: When it is sent to the Hub: always, with examples of the data, with a checkpoint, or never.
        writer: The module below `hf_transfer`, or the library, that writes it.
    """

    pattern: str
    part: Part
    published: Published = "never"
    writer: str = "transformers"


RUN_FILES: tuple[RunFile, ...] = (
    RunFile("config.json", "model", "always"),
    RunFile(_WEIGHTS, "model", "always"),
    RunFile(_SHARDS, "model", "always"),
    RunFile(INDEX, "model", "always"),
    RunFile("preprocessor_config.json", "model", "always"),
    RunFile("processor_config.json", "model", "always"),
    RunFile("training_args.bin", "model"),  # a pickle, with the Hub token in plain text
    RunFile(PROBE_FILE, "model", writer="linear_probe.probe_file"),
    RunFile(PROBE_WEIGHTS, "model", writer="linear_probe.probe_file"),
    RunFile(CARD_NAME, "description", "always", "reporting.card"),
    RunFile(RECORD, "description", "always", "reporting.record"),
    RunFile(PLAN_FILE, "description", "always", "trainer.trainer"),
    *(RunFile(f"{split}_results.json", "results", "always") for split in ("all", "train", "eval", "test")),
    RunFile("figures/confusion_matrix.png", "results", "always", "figures.confusion_matrix"),
    RunFile("figures/layer_plan.png", "results", "always", "figures.layer_plan"),
    RunFile("figures/learning_curves.png", "results", "always", "figures.learning_curves"),
    RunFile("figures/learning_rate_range.png", "results", "always", "figures.learning_rate_range"),
    RunFile("figures/worst_mistakes.png", "results", "examples", "figures.mistakes"),
    RunFile("predictions.parquet", "results", "examples", "evaluation.predictions"),
    *(
        RunFile(f"predictions_{split}.parquet", "results", "examples", "evaluation.predictions")
        for split in ("train", "validation", "test")
    ),
    RunFile(REPORT, "results", "examples", "reporting.html_report"),
    RunFile(EVALUATION_FILE, "results", writer="reporting.results"),
    RunFile(SKIPPED_FILE, "results", writer="reporting.results"),
    RunFile(f"figures/{DEPTHS_FIGURE}", "diagnosis", "always", "figures.accuracy_by_depth"),
    RunFile(DIAGNOSIS_FILE, "diagnosis", "checkpoint", "diagnosis.result"),
    RunFile(TRAINER_STATE, "state", "checkpoint"),
    RunFile(STATE_FILE, "state", "checkpoint", "checkpoints.run_state"),
    RunFile(RANGE_FILE, "state", "checkpoint", "trainer.range_test"),
    RunFile(AVERAGE_FILE, "state", "checkpoint", "phases.weight_averaging"),
    RunFile(HELD_OUT_FILE, "state", "never", "trainer.held_out"),
)

EVIDENCE = ("config.json", _WEIGHTS, INDEX, RECORD, PLAN_FILE, TRAINER_STATE)
"""Any of these marks the folder of a run or of a model."""
TRAINED = (RECORD, _WEIGHTS, INDEX)
"""Any of these marks a run that has ended; results alone may come from an evaluation before a training."""


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


def samples(folder: Path) -> list[Path]:
    """The files of the samples that a run's folder keeps, the index last; none where a folder of that name has no
    index and so is the user's."""
    kept = folder / SAMPLES
    if not (kept / SAMPLES_INDEX).is_file():
        return []
    return list(found(kept, ("?.png", SAMPLE_INPUTS, SAMPLES_INDEX)))


def run_folders(folder: Path) -> list[Path]:
    """The folders that runs made: checkpoints, an unfinished one, and what was moved aside."""
    below = [path for path in sorted(folder.glob("*")) if path.is_dir()]
    return [path for path in below if path.name in (EARLIER_RUN, STAGING) or _CHECKPOINT.fullmatch(path.name)]


def removable(folder: Path) -> list[Path]:
    """Everything that runs wrote into a folder: files of the table, samples and whole folders.

    What the user put there is not among it, wherever it lies.
    """
    return [*found(folder, (file.pattern for file in RUN_FILES)), *samples(folder), *run_folders(folder)]


def evidence(folder: Path) -> list[str]:
    """Names that say that a folder is that of a run or of a model; empty where it is not."""
    checkpoints = [path.name for path in run_folders(folder) if _CHECKPOINT.fullmatch(path.name)]
    return [name for name in (*EVIDENCE, REPLACED) if (folder / name).exists()] + checkpoints


def is_ours(folder: Path) -> bool:
    """Whether a run of this library wrote into a folder, and not only another program that saves models."""
    named = any((folder / name).exists() for name in (RECORD, PLAN_FILE, STAGING, REPLACED))
    return named or any(folder.glob(f"checkpoint-*/{STATE_FILE}"))


def is_owned(path: str) -> bool:
    """Whether a path with slashes, below a run's folder, is or lies in what runs write and remove."""
    first = path.partition("/")[0]
    whole = (EARLIER_RUN, STAGING, REPLACED, "figures", SAMPLES)
    return first in whole or bool(_CHECKPOINT.fullmatch(first)) or matches(path, (f.pattern for f in RUN_FILES))


def without_stale_weights(folder: Path, names: Iterable[str]) -> list[str]:
    """Names of files without weights that another model left behind, which `from_pretrained` would not read.

    Args:
        folder: Holds the files.
        names: Their names.

    Raises:
        ValueError: The index of the shards cannot be read, or names a shard that is missing.
    """
    kept = list(names)
    others = [name for name in kept if name != INDEX and not fnmatchcase(name, _SHARDS)]
    if _WEIGHTS in kept or INDEX not in kept:
        return others
    named = _shards(folder / INDEX)
    if missing := sorted(named - set(kept)):
        raise ValueError(f"{INDEX} names {', '.join(missing)}, which is missing")
    return [name for name in kept if name in others or name == INDEX or name in named]


def _shards(index: Path) -> set[str]:
    """The shards that an index names."""
    try:
        return {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{INDEX} is no index of shards ({type(error).__name__})") from error


def is_probe(folder: str | Path) -> bool:
    """Whether a folder's result is a probe file."""
    return (Path(folder) / PROBE_FILE).is_file()


def remove_probe(folder: str | Path) -> None:
    """Remove the probe file of an earlier run."""
    for name in (PROBE_FILE, PROBE_WEIGHTS):
        (Path(folder) / name).unlink(missing_ok=True)
