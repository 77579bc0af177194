"""What a run's record says of plan and training, put into words once, as in `facts`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from hf_transfer.reporting.facts import Code, Facts, known, number, plain, score

FULL_TABLE_GROUPS = 30
"""Up to this number of layer groups tables show each group."""


@dataclass(frozen=True)
class GroupRow:
    """One layer group, or several neighbours that were treated alike.

    Attributes:
        index: Or the first and the last one.
        first: Name of the first group.
        last: Name of the last group.
        count: Number of groups.
        role: The role that all of them have.
        parameters: Sum over all of them.
        cells: What each phase did: learning rate and weight decay, "solved" or "frozen".
    """

    index: str
    first: Code
    last: Code
    count: int
    role: str
    parameters: str
    cells: tuple[str, ...]


def group_rows(groups: Sequence[Mapping[str, Any]], merge: bool = False) -> list[GroupRow]:
    """Layer groups from input to output.

    Args:
        groups: The plan's.
        merge: Blocks next to each other share a row where every phase treated them alike.
    """
    runs = [[group] for group in groups]
    if merge:
        runs = [list(same) for _, same in groupby(groups, key=_treatment)]
    rows = [run for same in runs for run in ([same] if same[0]["role"] == "block" else [[group] for group in same])]
    return [_group_row(row) for row in rows]


def _treatment(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """What must be the same for two neighbouring groups to share a row."""
    return group["role"], tuple(
        (phase["learning_rate"], phase["weight_decay"], phase["trained_tensors"] == group["tensors"])
        for phase in group["phases"]
    )


def _group_row(same: Sequence[Mapping[str, Any]]) -> GroupRow:
    first, last = same[0], same[-1]
    return GroupRow(
        str(first["index"]) if first is last else f"{first['index']}–{last['index']}",
        Code(first["name"]),
        Code(last["name"]),
        len(same),
        str(first.get("role", "")),
        f"{sum(group['parameters'] for group in same):,}",
        tuple(_cell(same, phase) for phase in range(len(first["phases"]))),
    )


def _cell(same: Sequence[Mapping[str, Any]], phase: int) -> str:
    first = same[0]["phases"][phase]
    if first["learning_rate"] is None:
        return "solved" if first.get("solved") else "frozen"
    decay = f", decay {number(first['weight_decay'])}" if first.get("weight_decay") else ""
    return f"{number(first['learning_rate'])}{decay}{_partly(same, phase)}"


def _partly(same: Sequence[Mapping[str, Any]], phase: int) -> str:
    """How much of the groups trained, where that was not all."""
    if "tensors" in same[0]:
        trained = sum(group["phases"][phase]["trained_tensors"] for group in same)
        tensors = sum(group["tensors"] for group in same)
        return f", {trained:,} of {tensors:,} tensors" if trained < tensors else ""
    trained = sum(group["phases"][phase]["trained_parameters"] for group in same)
    return f" ({trained:,} of them)" if trained < sum(group["parameters"] for group in same) else ""


def any_frozen(plan: Mapping[str, Any]) -> bool:
    """Whether some phase left a layer group, or a part of one, unchanged."""
    return any(phase["trained_tensors"] < group["tensors"] for group in plan["groups"] for phase in group["phases"])


def was_reached(phase: Mapping[str, Any]) -> bool:
    """Whether the training came to a phase."""
    return phase.get("planned_steps") is None or phase["end_step"] > phase["start_step"]


def phase_name(phase: Mapping[str, Any]) -> str:
    """Name of a phase, with a note where the training did not come to it."""
    return str(phase["name"]) + ("" if was_reached(phase) else " (not reached)")


def phase_columns(phases: Sequence[Mapping[str, Any]]) -> dict[str, list[str | Sequence[str]]]:
    """Phases in their order, with their place in time and their schedule: cells by title, without empty columns."""
    columns: dict[str, list[str | Sequence[str]]] = {
        "Phase": [str(phase["name"]) for phase in phases],
        "Trains": [_selector(phase["train"]) for phase in phases],
        "Solved by": [phase.get("head_solver") or "" for phase in phases],
        "Learning rate by range test": [_measured(phase) for phase in phases],
        "Schedule": [phase["lr_scheduler_type"] for phase in phases],
        "Batch norm": [phase["norm"] for phase in phases],
        "Weights": [averaged(phase) for phase in phases],
        "Steps": [_steps(phase) for phase in phases],
        "Warm-up steps": [f"{phase['warmup_steps']:,}" for phase in phases],
        "Epochs": [_epochs(phase) for phase in phases],
        "Trained parameters": [f"{phase['trained_parameters']:,}" for phase in phases],
    }
    return {title: cells for title, cells in columns.items() if any(cells)}


def time_of(phase: Mapping[str, Any]) -> str:
    """When a phase ran, for the head of a column; empty where that is not known or there were no steps."""
    if phase.get("head_solver"):
        return f"solved ({phase['head_solver']})"
    start, end = phase.get("start_step"), phase.get("end_step")
    if start is None or end is None:
        return ""
    planned = phase.get("planned_steps")
    if not was_reached(phase):
        return f"not reached ({planned:,} steps planned)"
    if start == end:  # a head that was solved in a run without steps
        return ""
    early = "" if planned is None else f", stopped early ({planned:,} planned)"
    mean = averaged(phase)
    return f"steps {start:,} to {end:,}{early}{f', {mean}' if mean else ''}"


def averaged(phase: Mapping[str, Any]) -> str:
    """Which weights a phase left, where these are not those of its last step."""
    after = phase.get("averaged_after_step")
    return "" if after is None else f"mean over the steps from {after + 1:,} on"


def _measured(phase: Mapping[str, Any]) -> str:
    """The learning rate of a phase whose rate was measured when it began; empty where it was given."""
    return number(phase["learning_rate"]) if phase.get("learning_rate_from") == "range test" else ""


def _selector(train: str | Sequence[str]) -> tuple[str, ...]:
    parts: list[str] = []
    for each in [train] if isinstance(train, str) else train:
        parts += [", ", Code(each)] if parts else [Code(each)]
    return tuple(parts)


def _steps(phase: Mapping[str, Any]) -> str:
    steps, planned = phase["end_step"] - phase["start_step"], phase.get("planned_steps")
    if not steps:
        return "0" if planned is None else f"0 of {planned:,} planned, not reached"
    early = "" if planned is None else f" of {planned:,} planned, stopped early"
    return f"{steps:,}{early} ({phase['start_step'] + 1:,} to {phase['end_step']:,})"


def _epochs(phase: Mapping[str, Any]) -> str:
    if phase["epochs"] is None:
        return ""
    return plain(phase["epochs"]) + ("" if phase.get("planned_steps") is None else " planned")


def settings(training: Mapping[str, Any]) -> Facts:
    """The optimizer that ran, and the settings of the loop."""
    return known(
        {
            "Model ends after": training.get("ends_after"),
            "Optimizer": _optimizer(training),
            "Learning rate, before the schedule": _by_group(training, "initial_lr"),
            "Weight decay": _by_group(training, "weight_decay"),
            "Schedule": training.get("lr_scheduler_type"),
            "Warm-up steps": training.get("warmup_steps") or None,
            "Options of the schedule": training.get("lr_scheduler_kwargs") or None,
            "Effective batch size": training.get("effective_batch_size"),
            "Batch size per device": training.get("batch_size_per_device"),
            "Gradient accumulation steps": training.get("gradient_accumulation_steps"),
            "Model divided over the processes by": training.get("sharded_by"),
            "Loss": training.get("loss"),
            "Precision": training.get("precision"),
            "Dropout": _dropout(training.get("dropout") or {}) or None,
            "Gradient norm clipped at": training.get("max_grad_norm") or None,
            "Label smoothing": training.get("label_smoothing") or None,
            "Optimizer steps": training.get("steps"),
            "Epochs": training.get("epochs"),
            "Last training loss": training.get("final_loss"),
        }
        | held_out(training.get("held_out"))
    )


def held_out(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Which weights were kept, and by which images: rows of the settings, None where there is nothing to tell."""
    if not found:
        return {}
    metric = found["metric"].replace("_", " ")
    rows: dict[str, Any] = {
        "Weights kept": f"{found['followed']}, as chosen on folds" if "followed" in found else None
    }
    if "followed" not in found:
        kept, start = (
            f"{metric} {score(each['value'])}, log loss {score(each['log_loss'])}"
            for each in (found["chosen"], found["start"])
        )
        rows = {
            "Weights chosen on": f"{found['images']:,} training images that were held out, and never trained on",
            "Weights kept": f"{found['chosen']['name']}: {kept}",
            "Held-out scores of the start": start,
            "Stopped early": found["stopped"],
        }
    slowed, temperature = found.get("slowed_at"), found["temperature"]
    return rows | {
        "Went back to the start, at a lower rate": f"after {slowed:.0%} of the steps" if slowed else None,
        "Temperature folded into the head": None if temperature == 1 else number(temperature),
    }


def _optimizer(training: Mapping[str, Any]) -> str | None:
    optimizer = training.get("optimizer") or {}
    if not optimizer.get("class"):
        return None
    # The rates of the groups are in the plan's table; with a plan the defaults are not what was used.
    hidden = {"lr", "weight_decay"} if training.get("plan") is not None else set()
    defaults = {k: v for k, v in (optimizer.get("defaults") or {}).items() if k not in hidden}
    shown = {name: value for name, value in defaults.items() if value is not None and value is not False}
    details = "; ".join(f"{name} {plain(value)}" for name, value in shown.items())
    return f"{optimizer['class']} ({details})" if details else str(optimizer["class"])


def _dropout(found: Mapping[str, Sequence[float]]) -> str:
    """Each kind of dropout with its probability, or with the least and the greatest."""
    return "; ".join(f"{kind} {' to '.join(map(plain, values))}" for kind, values in found.items())


def _by_group(training: Mapping[str, Any], name: str) -> str | None:
    """A setting of the optimizer's groups, of a run without a plan: one value, or each with its parameters."""
    counts: Counter[float] = Counter()
    for group in training.get("optimizer_groups") or []:
        if group[name] is None:
            return None
        counts[group[name]] += group["parameters"]
    if len(counts) == 1:
        return number(next(iter(counts)))
    return "; ".join(f"{number(value)} ({count:,} parameters)" for value, count in counts.items()) or None


def solver(solved: Mapping[str, Any]) -> Facts:
    """How a head was solved."""
    layer = solved["layer"]
    held_out = f"{solved['accuracy']:.3f} ± {solved['standard_error']:.3f} ({solved['held_out']:,} images)"
    return known(
        {
            "Solver": solved["solver"],
            f"Chosen {solved['parameter'].replace('_', ' ')}": number(solved["value"]),
            "Chosen by": solved["estimate"],
            "Held-out accuracy at that choice, with standard error": held_out,
            "Accuracy on the training images": score(solved["train_accuracy"]),
            "Temperature": None if solved["temperature"] == 1 else number(solved["temperature"]),
            "Class weights": solved["class_weights"],
            "Layer": layer["layer"],
            "Why this layer": None if layer["reason"] == "asked for" else layer["reason"],
        }
    )


def cache(training: Mapping[str, Any]) -> list[str]:
    """Which phases read the frozen part of the network from the feature cache: text with names as code."""
    used = [decision for decision in training.get("cache_decisions") or [] if decision["used"]]
    text: list[str] = []
    for decision in used:
        views = f", in {decision['views']:,} views of each" if decision["views"] > 1 else ""
        text += [" In phase " if text else "In phase ", Code(decision["phase"]), " what comes before "]
        text += [Code(decision["cut"]), f" was computed once for {decision['images']:,} images{views}, and read from "]
        text.append("the feature cache in each epoch.")
    if any(decision["views"] > 1 for decision in used):
        text.append(" Each epoch saw one of the stored views, in turn, and no other augmentation.")
    return text


def range_tests(tests: Iterable[Mapping[str, Any]]) -> str:
    """How the learning rates were chosen; empty where they were given."""
    chosen = [f"{test['phase']}: {number(test['learning_rate'])} ({test['reason']})" for test in tests]
    if not chosen:
        return ""
    return (
        "The learning rate of pretrained layers was chosen by a range test before each phase, on training images; the "
        f"weights were restored afterwards. {'; '.join(chosen)}."
    )
