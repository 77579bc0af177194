"""The tables of a model card that tell of plan and training; as those of `card_tables`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from hf_transfer.reporting.card_tables import code, escape, key_table, number, plain, score, table

FULL_TABLE_GROUPS = 30
"""Up to this number of layer groups the plan's table shows every one."""


def group_table(plan: Mapping[str, Any]) -> str:
    """Layer groups against phases: learning rate and weight decay, or frozen."""
    groups, phases = plan["groups"], plan["phases"]
    merged = [[group] for group in groups]
    if len(groups) > FULL_TABLE_GROUPS:
        merged = [list(same) for _, same in groupby(groups, key=_treatment)]
    rows = [_group_row(group) for same in merged for group in ([same] if _is_block(same[0]) else [[g] for g in same])]
    totals = [f"{phase['trained_parameters']:,} trained" for phase in phases]
    rows.append(["", "**all**", "", f"{sum(group['parameters'] for group in groups):,}", *totals])
    headers = ["#", "Layer group", "Role", "Parameters", *map(_phase_header, phases)]
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
        "Weights": [_weights(phase) for phase in phases],
        "Steps": [_steps(phase) for phase in phases],
        "Warm-up steps": [f"{phase['warmup_steps']:,}" for phase in phases],
        "Epochs": [_epochs(phase) for phase in phases],
        "Trained parameters": [f"{phase['trained_parameters']:,}" for phase in phases],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    texts = sum(
        name in ("Phase", "Trains", "Solved by", "Learning rate by range test", "Schedule", "Batch norm", "Weights")
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
            "Learning rate, before the schedule": _by_group(training, "initial_lr"),
            "Weight decay": _by_group(training, "weight_decay"),
            "Schedule": training.get("lr_scheduler_type"),
            "Warm-up steps": training.get("warmup_steps") or None,
            "Options of the schedule": training.get("lr_scheduler_kwargs") or None,
            "Effective batch size": training.get("effective_batch_size"),
            "Batch size per device": training.get("batch_size_per_device"),
            "Gradient accumulation steps": training.get("gradient_accumulation_steps"),
            "Model divided over the processes by": training.get("sharded_by"),
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


def range_text(tests: Sequence[Mapping[str, Any]]) -> str:
    """How the learning rates were chosen; empty where they were given."""
    chosen = [f"{escape(test['phase'])}: {number(test['learning_rate'])} ({escape(test['reason'])})" for test in tests]
    if not chosen:
        return ""
    return (
        "The learning rate of pretrained layers was chosen by a range test before each phase, on training images, and "
        f"the weights were put back afterwards. {'; '.join(chosen)}."
    )


def _by_group(training: Mapping[str, Any], name: str) -> str | None:
    """A setting of the optimizer's groups, of a run without a plan: one value, or each with what it counts for."""
    counts: Counter[float] = Counter()
    for group in training.get("optimizer_groups") or []:
        if group[name] is None:
            return None
        counts[group[name]] += group["parameters"]
    if len(counts) == 1:
        return number(next(iter(counts)))
    return "; ".join(f"{number(value)} ({count:,} parameters)" for value, count in counts.items()) or None


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


def _selector(train: str | Sequence[str]) -> str:
    return ", ".join(code(part) for part in ([train] if isinstance(train, str) else train))


def _weights(phase: Mapping[str, Any]) -> str:
    """What a phase leaves, where that is not what its last step gave."""
    after = phase.get("averaged_after_step")
    return "" if after is None else f"mean over the steps from {after + 1:,} on"


def _steps(phase: Mapping[str, Any]) -> str:
    steps, planned = phase["end_step"] - phase["start_step"], phase.get("planned_steps")
    if not steps:
        return "0" if planned is None else f"0 of {planned:,} planned, not reached"
    early = "" if planned is None else f" of {planned:,} planned, stopped early"
    return f"{steps:,}{early} ({phase['start_step'] + 1:,} to {phase['end_step']:,})"


def _phase_header(phase: Mapping[str, Any]) -> str:
    return escape(phase["name"]) + ("" if _reached(phase) else " (not reached)")


def _epochs(phase: Mapping[str, Any]) -> str:
    if phase["epochs"] is None:
        return ""
    return plain(phase["epochs"]) + ("" if phase.get("planned_steps") is None else " planned")


def _reached(phase: Mapping[str, Any]) -> bool:
    return phase.get("planned_steps") is None or phase["end_step"] > phase["start_step"]
