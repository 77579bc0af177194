"""What a run's record says, put into words once: titles and values for the card (Markdown) and the report (HTML).

Nothing here is escaped: `markdown` escapes for the card, the template engine for the report. Whatever a record does
not say is left out. Facts of plan and training are in `training_facts`.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_transfer.evaluation import METRIC_TITLES, ClassScore, EvaluationReport
from hf_transfer.evaluation.tables import SHOWN_AT_EACH_END
from hf_transfer.utils.clock import duration

NOT_KNOWN = "–"
CLASS_HEADERS = ("Class", "Precision", "Recall", "F1", "Images")
CONFUSION_HEADERS = ("True class", "Predicted", "Images", "Share of the class")
CLASS_ENDS = f"the {SHOWN_AT_EACH_END} worst and the {SHOWN_AT_EACH_END} best"

INTERVALS_NOTE = (
    "The intervals cover the choice of evaluation images alone. One run with one seed does not show how much training "
    "itself\nvaries."
)

Facts = list[tuple[str, str]]
"""Titles with their values."""


class Code(str):
    """A name in the spelling of a program, to be shown as code."""

    __slots__ = ()


def number(value: float) -> str:
    """A learning rate or setting, to three digits as in `TransferPlan.describe`."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def score(value: float) -> str:
    """A metric, to three decimals."""
    return f"{value:.3f}"


def interval(low: float | None, high: float | None) -> str:
    """Bounds of a confidence interval; a dash where there is none."""
    return NOT_KNOWN if low is None or high is None else f"{low:.3f} to {high:.3f}"


def plain(value: Any) -> str:
    """A setting of any type."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return str(value)


def words(key: str) -> str:
    """A key of the record as a title."""
    spaced = " ".join(key.replace("_", " ").split())
    return spaced[:1].upper() + spaced[1:]


def part(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A nested mapping, empty where it is missing or None."""
    return mapping.get(key) or {}


def known(values: Mapping[str, Any]) -> Facts:
    """Titles and values of what is known."""
    shown = [(title, plain(value)) for title, value in values.items() if value is not None]
    return [(title, value) for title, value in shown if value]


def metrics(report: EvaluationReport) -> list[tuple[str, str, str]]:
    """Title, value and interval of each metric."""
    return [
        (METRIC_TITLES.get(name, name), score(metric.value), interval(metric.low, metric.high))
        for name, metric in report.metrics.items()
        if metric.value is not None
    ]


def class_row(scores: ClassScore) -> tuple[str, ...]:
    """Name, precision, recall, F1 and number of images of a class."""
    # A class without images has no scores: the zeros of the report are conventions.
    values = [score(v) for v in (scores.precision, scores.recall, scores.f1)] if scores.support else [NOT_KNOWN] * 3
    return (scores.name, *values, f"{scores.support:,}")


def confusions(report: EvaluationReport) -> list[tuple[str, ...]]:
    """The most frequent mistakes: true class, prediction, images, share of the class."""
    return [(c.true, c.predicted, f"{c.count:,}", f"{c.share:.1%}") for c in report.worst_confusions]


@dataclass(frozen=True)
class Counts:
    """Images by class and split.

    Attributes:
        splits: Names.
        rows: A class with its images in each split.
        totals: Images of each split.
    """

    splits: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    totals: tuple[str, ...]


def counts(data: Mapping[str, Any]) -> Counts | None:
    """Images by class and split; None where they were not counted."""
    by_split = part(data, "counts")
    if not by_split:
        return None
    labels = data.get("label_names") or list(dict.fromkeys(label for found in by_split.values() for label in found))
    return Counts(
        tuple(by_split),
        tuple((label, *(f"{found.get(label, 0):,}" for found in by_split.values())) for label in labels),
        tuple(f"{sum(found.values()):,}" for found in by_split.values()),
    )


SPREAD_HEADERS = ("Split", "Images", "Classes with images", "Fewest", "Median", "Most in a class")


def spread(split: str, images: Sequence[int]) -> tuple[str, ...]:
    """How the images of a split spread over many classes, under `SPREAD_HEADERS`."""
    return (
        split,
        f"{sum(images):,}",
        f"{sum(map(bool, images)):,}",
        f"{min(images):,}",
        f"{statistics.median(images):,g}",
        f"{max(images):,}",
    )


def skipped(data: Mapping[str, Any], by: str) -> list[tuple[str, str]]:
    """How many images could not be used.

    Args:
        data: The record's part of that name.
        by: "split" or "reason".
    """
    found: Counter[str] = Counter()
    for entry in data.get("skipped") or []:
        found[str(entry[by])] += entry.get("images", 1)  # older records name each image
    return [(name, f"{count:,}") for name, count in found.items()]


def drawn_split(data: Mapping[str, Any]) -> bool:
    """Whether the evaluation split was set aside from `train`, such as "train[stratified fifth, seed 42]"."""
    return (data.get("evaluation_split") or "").startswith("train[")


def preprocessing(settings: Mapping[str, Any]) -> Facts:
    """How an image becomes the model's input."""
    rest = {words(key): value for key, value in settings.items() if key not in ("height", "width")}
    height, width = settings.get("height"), settings.get("width")
    return known({"Height × width": f"{height} × {width} pixels" if height and width else None} | rest)


def setup(record: Mapping[str, Any]) -> Facts:
    """Seeds, hardware and time."""
    hardware, timing = part(record, "hardware"), part(record, "timing")
    cores, processor, rate = hardware.get("cores"), hardware.get("processor"), timing.get("images_per_second")
    names = Counter(hardware.get("accelerators") or [])
    return known(
        {
            "Seed": _as_name(record.get("seed")),
            "Seed of the split": _as_name(record.get("split_seed")) if drawn_split(part(record, "data")) else None,
            "Device": hardware.get("device"),
            "Accelerators": ", ".join(f"{count} × {name}" for name, count in names.items()),
            "Processor": f"{processor} ({cores} cores)" if processor and cores else processor,
            "Processes": hardware.get("world_size"),
            "Machines": hardware.get("machines"),
            "Training time": _time(timing.get("train_seconds")),
            "Training throughput": None if rate is None else f"{number(rate)} images/s",
            "Evaluation time": _time(timing.get("evaluation_seconds")),
        }
    )


def versions(record: Mapping[str, Any]) -> Facts:
    """Versions of Python and of libraries."""
    return known(part(record, "versions"))


def command(record: Mapping[str, Any]) -> str:
    """The command of the run, with the launcher that starts as many processes; empty where it is not known."""
    typed, hardware = record.get("command") or "", part(record, "hardware")
    processes, machines = hardware.get("world_size") or 1, hardware.get("machines") or 1
    program, space, flags = typed.partition(" ")
    if processes == 1 or program != "hf-transfer":
        return str(typed)
    sharded = {"FSDP": "--use_fsdp", "DeepSpeed": "--use_deepspeed"}
    # Without --multi_gpu accelerate starts one process where it sees no GPU.
    kind = sharded.get(part(record, "training").get("sharded_by") or "", "--multi_gpu")
    launcher = f"accelerate launch {kind} --num_processes {processes}"
    launcher += f" --num_machines {machines}" if machines > 1 else ""
    on_cpu = "ACCELERATE_USE_CPU=true " if hardware.get("device") == "cpu" else ""
    return f"{on_cpu}{launcher} -m hf_transfer{space}{flags}"


def joined(names: Iterable[tuple[str, str]]) -> str:
    """Names with their values in one line."""
    return ", ".join(f"{name} {value}" for name, value in names)


def _as_name(value: int | None) -> str | None:
    """A number that is a name, such as a seed: without separators."""
    return None if value is None else str(value)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else duration(seconds)
