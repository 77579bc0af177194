"""The tables of a model card as Markdown; pure functions of the run's record, in which every text is escaped.

Those of the training are in `card_training`.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_transfer.evaluation import METRIC_TITLES, ClassScore, EvaluationReport
from hf_transfer.evaluation.tables import FULL_TABLE_CLASSES, SHOWN_AT_EACH_END, worst_and_best
from hf_transfer.utils.clock import duration

NOT_KNOWN = "–"
# Order of what is read marks: they could show a label as something else than it is.
_DIRECTION_MARKS = re.compile("[\u202a-\u202e\u2066-\u2069]")
_NO_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*\[\]|~$#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})

Rows = Iterable[Sequence[str]]


def escape(text: Any) -> str:
    """Text as it stands, on one line: no character of it works as Markdown or HTML."""
    flat = _NO_CHARACTERS.sub("", _DIRECTION_MARKS.sub("", " ".join(str(text).split())))
    return _MARKDOWN.sub(lambda found: f"\\{found.group()}", flat).translate(_HTML)


def code(text: Any) -> str:
    """Inline code, or escaped text where that would need more than one backtick or a table's bar."""
    flat = " ".join(str(text).split())
    return f"`{flat}`" if re.fullmatch(r"[\w./:+=,()\[\] -]+", flat) else escape(flat)


def table(headers: Sequence[str], rows: Rows, text_columns: int = 1) -> str:
    """A Markdown table of cells that are escaped already.

    Args:
        headers: One for each column.
        rows: Cells.
        text_columns: So many columns from the left are aligned left, the others right.
    """
    rule = ["---" if column < text_columns else "---:" for column in range(len(headers))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headers, rule, *rows))


def number(value: float) -> str:
    """A learning rate or setting, to three digits as in `TransferPlan.describe`."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def plain(value: Any) -> str:
    """A setting of any type."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(key)} {plain(item)}" for key, item in value.items())
    return escape(value)


def label_table(names: Sequence[str]) -> str:
    """Class index and label; empty for more classes than a reader goes through."""
    if len(names) > FULL_TABLE_CLASSES:
        return ""
    return table(("Index", "Label"), ((str(index), escape(name)) for index, name in enumerate(names)), text_columns=2)


def metric_table(report: EvaluationReport) -> str:
    """Metrics with their intervals."""
    known = any(metric.low is not None and metric.high is not None for metric in report.metrics.values())
    rows = [
        [
            escape(METRIC_TITLES.get(name, name)),
            score(metric.value),
            *([interval(metric.low, metric.high)] if known else []),
        ]
        for name, metric in report.metrics.items()
        if metric.value is not None
    ]
    return table(["Metric", "Value", *(["95 % interval"] if known else [])], rows) if rows else ""


def score(value: float) -> str:
    """A metric, to three decimals."""
    return f"{value:.3f}"


def interval(low: float | None, high: float | None) -> str:
    """Bounds of a confidence interval; a dash where there is none."""
    return NOT_KNOWN if low is None or high is None else f"{low:.3f} to {high:.3f}"


def class_table(report: EvaluationReport) -> str:
    """Scores of each class; of more than 50 the ten worst and the ten best."""
    headers = ("Class", "Precision", "Recall", "F1", "Images")
    if len(report.per_class) <= FULL_TABLE_CLASSES:
        return table(headers, map(_class_row, report.per_class)) if report.per_class else ""
    worst, best = worst_and_best(report.per_class)
    between = len(report.per_class) - len(worst) - len(best)
    gap = (f"*{between:,} classes between*", "", "", "", "")
    return table(headers, [*map(_class_row, worst), *([gap] if between else []), *map(_class_row, best)])


def class_table_title(report: EvaluationReport) -> str:
    """What `class_table` shows."""
    shown = f"the {SHOWN_AT_EACH_END} worst and the {SHOWN_AT_EACH_END} best of {len(report.per_class):,} by F1"
    return "By class" if len(report.per_class) <= FULL_TABLE_CLASSES else f"By class: {shown}"


def confusion_table(report: EvaluationReport) -> str:
    """The most frequent mistakes."""
    rows = [(escape(c.true), escape(c.predicted), f"{c.count:,}", f"{c.share:.1%}") for c in report.worst_confusions]
    return table(("True class", "Predicted", "Images", "Share of the class"), rows, text_columns=2) if rows else ""


def count_table(data: Mapping[str, Any]) -> str:
    """Images by class and split; for more than 50 classes how they spread."""
    splits, labels = data["counts"], data["label_names"]
    totals = {split: sum(counts.values()) for split, counts in splits.items()}
    if len(labels) > FULL_TABLE_CLASSES:
        rows = [_spread_row(split, [counts.get(label, 0) for label in labels]) for split, counts in splits.items()]
        return table(("Split", "Images", "Classes with images", "Fewest", "Median", "Most in a class"), rows)
    rows = [[escape(label), *(f"{counts.get(label, 0):,}" for counts in splits.values())] for label in labels]
    rows.append(["**all**", *(f"{total:,}" for total in totals.values())])
    return table(["Class", *map(escape, splits)], rows)


def evaluation_split_text(data: Mapping[str, Any]) -> str:
    """Where the evaluation split comes from."""
    drawn = "set aside from the training images, as the data came without one"
    origin = drawn if drawn_split(data) else "as the data came with it"
    return f"Evaluation split: {code(data['evaluation_split'])}, {origin}."


def drawn_split(data: Mapping[str, Any]) -> bool:
    """Whether the evaluation split was set aside from `train`, such as "train[stratified fifth, seed 42]"."""
    return bool(data["evaluation_split"].startswith("train["))


def skipped_text(data: Mapping[str, Any]) -> str:
    """How many images could not be used; empty if all could."""
    splits: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for skipped in data.get("skipped") or []:
        count = skipped.get("images", 1)  # records of before told each image by name
        splits[skipped["split"]] += count
        reasons[skipped["reason"]] += count
    if not splits:
        return ""
    parts = ", ".join(f"{code(split)} {count:,}" for split, count in splits.items())
    why = "; ".join(f"{escape(reason)} ({count:,})" for reason, count in reasons.items())
    return f"Images that could not be used and were left out: {parts}. Reasons: {why}."


def preprocessing_table(preprocessing: Mapping[str, Any]) -> str:
    """How an image becomes the model's input."""
    rest = {key: value for key, value in preprocessing.items() if key not in ("height", "width")}
    height, width = preprocessing.get("height"), preprocessing.get("width")
    size = f"{height} × {width} pixels" if height and width else None
    return key_table("Setting", {"Height × width": size} | {_title(key): value for key, value in rest.items()})


def image_mode(preprocessing: Mapping[str, Any]) -> str:
    """Pillow's mode of the images that the model takes, by the number of channels that are normalised."""
    mean = preprocessing.get("mean")
    return {1: "L", 4: "RGBA"}.get(len(mean), "RGB") if isinstance(mean, list) else "RGB"


def command_text(record: Mapping[str, Any]) -> str:
    """The command of the run, with the launcher that starts as many processes."""
    command, hardware = str(record["command"]), record["hardware"]
    processes, machines = hardware.get("world_size") or 1, hardware.get("machines") or 1
    program, space, flags = command.partition(" ")
    if processes == 1 or program != "hf-transfer":
        return command
    sharded = {"FSDP": "--use_fsdp", "DeepSpeed": "--use_deepspeed"}
    # Without --multi_gpu accelerate starts one process where it sees no GPU.
    kind = sharded.get(record["training"].get("sharded_by") or "", "--multi_gpu")
    launcher = f"accelerate launch {kind} --num_processes {processes}"
    launcher += f" --num_machines {machines}" if machines > 1 else ""
    on_cpu = "ACCELERATE_USE_CPU=true " if hardware.get("device") == "cpu" else ""
    return f"{on_cpu}{launcher} -m hf_transfer{space}{flags}"


def run_table(record: Mapping[str, Any]) -> str:
    """Seeds, hardware, time and versions."""
    hardware, timing = record["hardware"], record["timing"]
    cores, names = hardware.get("cores"), Counter(hardware.get("accelerators") or [])
    processor = hardware.get("processor")
    seconds = {name: timing.get(f"{name}_seconds") for name in ("train", "evaluation")}
    rate = timing.get("images_per_second")
    return key_table(
        "Run",
        {
            "Date": record["created"],
            "Seed": str(record["seed"]),
            "Seed of the split": str(record["split_seed"]) if drawn_split(record["data"]) else None,
            "Device": hardware.get("device"),
            "Accelerators": ", ".join(f"{count} × {name}" for name, count in names.items()) or None,
            "Processor": f"{processor} ({cores} cores)" if processor and cores else processor,
            "Processes": hardware.get("world_size"),
            "Machines": hardware.get("machines"),
            "Training time": None if seconds["train"] is None else duration(seconds["train"]),
            "Training throughput": None if rate is None else f"{number(rate)} images/s",
            "Evaluation time": None if seconds["evaluation"] is None else duration(seconds["evaluation"]),
            "Versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        },
    )


def key_table(header: str, values: Mapping[str, Any]) -> str:
    """A table of names and values without those that are None; empty if none is left."""
    rows = [(key, plain(value)) for key, value in values.items() if value is not None]
    known = [row for row in rows if row[1]]
    return table((header, "Value"), known, text_columns=2) if known else ""


def _class_row(row: ClassScore) -> tuple[str, ...]:
    # A class without images has no scores: the zeros of the report are conventions.
    scores = [score(value) for value in (row.precision, row.recall, row.f1)] if row.support else [NOT_KNOWN] * 3
    return (escape(row.name), *scores, f"{row.support:,}")


def _spread_row(split: str, counts: Sequence[int]) -> list[str]:
    return [
        escape(split),
        f"{sum(counts):,}",
        f"{sum(map(bool, counts)):,}",
        f"{min(counts):,}",
        f"{statistics.median(counts):,g}",
        f"{max(counts):,}",
    ]


def _title(key: str) -> str:
    words = escape(key.replace("_", " "))
    return words[:1].upper() + words[1:]
