"""The tables of a model card as Markdown; pure functions of the run's record, in which every text is escaped."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from hf_transfer.evaluation import METRIC_TITLES, ClassScore, EvaluationReport
from hf_transfer.evaluation.tables import FULL_TABLE_CLASSES, SHOWN_AT_EACH_END, worst_and_best

FULL_TABLE_GROUPS = 30
"""Up to this number of layer groups the plan's table shows every one."""
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


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    if seconds < 3600:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"


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


def group_table(plan: Mapping[str, Any]) -> str:
    """Layer groups against phases: learning rate and weight decay, or frozen."""
    groups, phases = plan["groups"], plan["phases"]
    merged = [[group] for group in groups]
    if len(groups) > FULL_TABLE_GROUPS:
        merged = [list(same) for _, same in groupby(groups, key=_treatment)]
    rows = [_group_row(group) for same in merged for group in ([same] if _is_block(same[0]) else [[g] for g in same])]
    totals = [f"{phase['trained_parameters']:,} trained" for phase in phases]
    rows.append(["", "**all**", "", f"{sum(group['parameters'] for group in groups):,}", *totals])
    headers = ["#", "Layer group", "Role", "Parameters", *(escape(phase["name"]) for phase in phases)]
    return table(headers, rows, text_columns=3)


def any_frozen(plan: Mapping[str, Any]) -> bool:
    """Whether some phase leaves a layer group, or a part of one, as it was."""
    return any(phase["trained_tensors"] < group["tensors"] for group in plan["groups"] for phase in group["phases"])


def phase_table(phases: Sequence[Mapping[str, Any]]) -> str:
    """Phases in their order, with their place in time and their schedule."""
    columns = {
        "Phase": [escape(phase["name"]) for phase in phases],
        "Trains": [_selector(phase["train"]) for phase in phases],
        "Solved by": [escape(phase.get("head_solver") or "") for phase in phases],
        "Learning rate by range test": [_measured(phase) for phase in phases],
        "Schedule": [escape(phase["lr_scheduler_type"]) for phase in phases],
        "Batch norm": [escape(phase["norm"]) for phase in phases],
        "Steps": [_steps(phase) for phase in phases],
        "Warm-up steps": [f"{phase['warmup_steps']:,}" for phase in phases],
        "Epochs": ["" if phase["epochs"] is None else plain(phase["epochs"]) for phase in phases],
        "Trained parameters": [f"{phase['trained_parameters']:,}" for phase in phases],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    texts = sum(
        name in ("Phase", "Trains", "Solved by", "Learning rate by range test", "Schedule", "Batch norm")
        for name in shown
    )
    return table(list(shown), zip(*shown.values(), strict=True), text_columns=texts)


def settings_table(training: Mapping[str, Any]) -> str:
    """The optimizer as it was, and the settings of the loop; what is not known is left out."""
    optimizer = training["optimizer"]
    # The rates of the groups are in the plan's table; with a plan the defaults are not what was used.
    hidden = {"lr", "weight_decay"} if training["plan"] is not None else set()
    defaults = {k: v for k, v in optimizer.get("defaults", {}).items() if k not in hidden}
    shown = {name: value for name, value in defaults.items() if value is not None and value is not False}
    details = "; ".join(f"{escape(name)} {plain(value)}" for name, value in shown.items())
    norm = training.get("max_grad_norm")
    return key_table(
        "Setting",
        {
            "Optimizer": escape(optimizer["class"]) + (f" ({details})" if details else ""),
            "Effective batch size": training.get("effective_batch_size"),
            "Batch size per device": training.get("batch_size_per_device"),
            "Gradient accumulation steps": training.get("gradient_accumulation_steps"),
            "Precision": training.get("precision"),
            "Gradient norm clipped at": norm or None,
            "Label smoothing": training.get("label_smoothing") or None,
            "Optimizer steps": training.get("steps"),
            "Epochs": training.get("epochs"),
            "Last training loss": training.get("final_loss"),
        },
    )


def solver_table(solved: Mapping[str, Any]) -> str:
    """How a head was solved."""
    weights, layer = solved["class_weights"], solved["layer"]
    held_out = f"{solved['accuracy']:.3f} ± {solved['standard_error']:.3f} ({solved['held_out']:,} images)"
    return key_table(
        "Head",
        {
            "Solver": solved["solver"],
            f"Chosen {solved['parameter'].replace('_', ' ')}": number(solved["value"]),
            "Chosen by": solved["estimate"],
            "Held-out accuracy at that choice, with standard error": held_out,
            "Accuracy on the training images": score(solved["train_accuracy"]),
            "Temperature": None if solved["temperature"] == 1 else number(solved["temperature"]),
            "Class weights": weights,
            "Layer": layer["layer"],
            "Why this layer": None if layer["reason"] == "asked for" else layer["reason"],
        },
    )


def cache_text(training: Mapping[str, Any]) -> str:
    """Which phases read the frozen part of the network from the feature cache; empty if none did."""
    used = [decision for decision in training.get("cache_decisions") or [] if decision["used"]]
    parts = []
    for decision in used:
        views = f", in {decision['views']:,} views of each" if decision["views"] > 1 else ""
        parts.append(
            f"In phase {code(decision['phase'])} what comes before {code(decision['cut'])} was computed once for "
            f"{decision['images']:,} images{views}, and read from the feature cache in each epoch."
        )
    if any(decision["views"] > 1 for decision in used):
        parts.append("Augmentation there: each epoch saw one of the stored views, in turn, and no others.")
    return " ".join(parts)


def layer_words(layers: Sequence[str]) -> str:
    """Which layers a probe file reads."""
    if len(layers) == 1:
        return f"the layer {code(layers[0])}"
    return f"{len(layers)} layers side by side, {code(layers[0])} to {code(layers[-1])}"


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
    splits = Counter(skipped["split"] for skipped in data.get("skipped") or [])
    if not splits:
        return ""
    parts = ", ".join(f"{code(split)} {count:,}" for split, count in splits.items())
    return f"Images that could not be used and were left out: {parts}. `run.json` lists them with the reason."


def preprocessing_table(preprocessing: Mapping[str, Any]) -> str:
    """How an image becomes the model's input."""
    rest = {key: value for key, value in preprocessing.items() if key not in ("height", "width")}
    height, width = preprocessing.get("height"), preprocessing.get("width")
    size = f"{height} × {width} pixels" if height and width else None
    return key_table("Setting", {"Height × width": size} | {_title(key): value for key, value in rest.items()})


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


def _is_block(group: Mapping[str, Any]) -> bool:
    return bool(group["role"] == "block")


def _treatment(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two neighbouring groups one row of a shortened table."""
    return group["role"], tuple(
        (phase["learning_rate"], phase["weight_decay"], phase["trained_tensors"] == group["tensors"])
        for phase in group["phases"]
    )


def _group_row(same: Sequence[Mapping[str, Any]]) -> list[str]:
    first, last = same[0], same[-1]
    several = len(same) > 1
    tensors = sum(group["tensors"] for group in same)
    return [
        f"{first['index']}–{last['index']}" if several else str(first["index"]),
        f"{code(first['name'])} to {code(last['name'])} ({len(same)} groups)" if several else code(first["name"]),
        escape(first["role"]),
        f"{sum(group['parameters'] for group in same):,}",
        *(_phase_cell([group["phases"][i] for group in same], tensors) for i in range(len(first["phases"]))),
    ]


def _phase_cell(phases: Sequence[Mapping[str, Any]], tensors: int) -> str:
    rate, decay = phases[0]["learning_rate"], phases[0]["weight_decay"]
    if rate is None:
        return "solved" if phases[0].get("solved") else "frozen"
    trained = sum(phase["trained_tensors"] for phase in phases)
    partly = f", {trained:,} of {tensors:,} tensors" if trained < tensors else ""
    return f"{number(rate)}{f', decay {number(decay)}' if decay else ''}{partly}"


def _measured(phase: Mapping[str, Any]) -> str:
    """The learning rate of a phase whose rate was measured when it began; empty where it was given."""
    return number(phase["learning_rate"]) if phase.get("learning_rate_from") == "range test" else ""


def range_text(tests: Sequence[Mapping[str, Any]]) -> str:
    """How the learning rates were chosen; empty where they were given."""
    chosen = [f"{escape(test['phase'])}: {number(test['learning_rate'])} ({escape(test['reason'])})" for test in tests]
    if not chosen:
        return ""
    return (
        "The learning rate of pretrained layers was chosen by a range test before each phase, on training images, and "
        f"the weights were put back afterwards. {'; '.join(chosen)}."
    )


def _selector(train: str | Sequence[str]) -> str:
    return ", ".join(code(part) for part in ([train] if isinstance(train, str) else train))


def _steps(phase: Mapping[str, Any]) -> str:
    steps = phase["end_step"] - phase["start_step"]
    return f"{steps:,} ({phase['start_step'] + 1:,} to {phase['end_step']:,})" if steps else "0"


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
