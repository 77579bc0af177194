"""The part of a model card that says what was trained, from which weights, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_transfer.reporting import training_facts as facts
from hf_transfer.reporting.base_model import hub_base, initial_weights
from hf_transfer.reporting.card_origins import HUB, base_name
from hf_transfer.reporting.facts import plain
from hf_transfer.reporting.markdown import (
    Markdown,
    code,
    escape,
    facts_table,
    images,
    inline,
    lines,
    link,
    paragraphs,
    table,
)
from hf_transfer.reporting.training_facts import FULL_TABLE_GROUPS, GroupRow

_SCENARIOS = {
    1: "few images, similar to those of the pretraining",
    2: "many images, similar to those of the pretraining",
    3: "few images, different from those of the pretraining",
    4: "many images, different from those of the pretraining",
    "undecided": "no clear case",
}
_ONE_SCHEDULE = (
    "One schedule runs over all phases with the warm-up of the first. A later phase starts at the schedule's current "
    "value."
)
_FROZEN = "Frozen: parameters and buffers are unchanged, bit for bit."


def training_text(
    record: Mapping[str, Any], figures: Mapping[str, str], diagnosis_figures: Mapping[str, str]
) -> str | None:
    """Everything about weights, plan, settings and diagnosis.

    Args:
        record: Content of `run.json`.
        figures: Those of the training, by name.
        diagnosis_figures: Those of the diagnosis, by name.
    """
    training = record["training"]
    return paragraphs(
        _weights(record),
        _plan(training) if training["plan"] else None,
        None if training.get("solved_head") else facts_table("Setting", facts.settings(training)),
        images(figures),
        _diagnosis(record),
        images(diagnosis_figures),
    )


def _weights(record: Mapping[str, Any]) -> str | None:
    """The size of the model, and where its weights came from."""
    base, init = record["base_model"], initial_weights(record)
    parameters = record["training"].get("parameters") or base["parameters"]
    size = f"{parameters:,} parameters, architecture {code(base['architecture'])}."
    if init == "random":
        return lines(size, "All weights were drawn at random before the first step.")
    if init == "pretrained":
        return lines(
            size,
            f"Training started from the pretrained weights of {base_name(record)}{_at(base)}{_origin(record)}.",
            f"They are licensed as {code(base['license'])}." if base.get("license") else None,
            _settled(base),
        )
    return lines(size, None if base_name(record) else "It is not known which weights the training started from.")


def _settled(base: Mapping[str, Any]) -> str | None:
    """What became of the checkpoint's head and settings, where there is something to tell."""
    overridden = "; ".join(f"{field}: {plain(value)}" for field, value in (base.get("overridden") or {}).items())
    return lines(
        f"The head of the checkpoint: {escape(base['head'])}" if base.get("head") else None,
        f"Overridden in its configuration, since it does not hold for this task: {escape(overridden)}."
        if overridden
        else None,
    )


def _origin(record: Mapping[str, Any]) -> str:
    """What weights in a local folder were made from."""
    if record["base_model"]["on_hub"]:
        return ""
    made_from = hub_base(record)
    if made_from is None:
        return " in a local folder, which does not tell what they were made from"
    source = link(made_from["id"], f"{HUB}{made_from['id']}")
    return f" in a local folder, which had been made from {source}{_at(made_from)}"


def _at(origin: Mapping[str, Any]) -> str:
    return f" at revision {code(origin['revision'])}" if origin.get("revision") else ""


def _plan(training: Mapping[str, Any]) -> str | None:
    plan = training["plan"]
    return paragraphs(
        f"Recipe {code(plan['plan']['recipe'])}, from input to output:",
        group_table(plan),
        _solved_head(training["solved_head"]) if training.get("solved_head") else _steps(training),
    )


def _solved_head(solved: Mapping[str, Any]) -> str | None:
    return paragraphs(
        "The head was solved exactly on features that were computed once, without augmentation and without gradient "
        f"steps through\nthe network. Standardisation of the features is folded into its weights.\n{_FROZEN}",
        facts_table("Head", facts.solver(solved)),
        "The held-out accuracy is the best of several candidates and so slightly optimistic. The evaluation above "
        "played no part in\nany choice.",
    )


def _steps(training: Mapping[str, Any]) -> str | None:
    plan = training["plan"]
    return paragraphs(
        lines(
            "Cells show the peak learning rate, and the weight decay unless it is zero. Biases, norms and position or "
            "class tokens have\nno weight decay.",
            _FROZEN if facts.any_frozen(plan) else None,
        ),
        phase_table(plan["phases"]),
        _ONE_SCHEDULE if plan["plan"].get("schedule") == "run" else None,
        escape(facts.range_tests(training.get("learning_rate_range") or [])),
        "Batch norm: `eval` keeps the statistics unchanged, `train` updates those of trained groups.",
        inline(facts.cache(training)),
        _solved_phase(training["solved_phase"]) if training.get("solved_phase") else None,
    )


def _solved_phase(solved: Mapping[str, Any]) -> str | None:
    return paragraphs(
        f"In phase {code(solved['phase'])} the head was solved exactly on features that were computed once, without "
        "augmentation and\nwithout gradient steps. Later phases continued from it. Results of that head, before they "
        "began:",
        facts_table("Head", facts.solver(solved)),
    )


def group_table(plan: Mapping[str, Any]) -> str:
    """Layer groups against phases: learning rate and weight decay, or frozen."""
    groups, phases = plan["groups"], plan["phases"]
    rows = [_group_row(row) for row in facts.group_rows(groups, merge=len(groups) > FULL_TABLE_GROUPS)]
    totals = [f"{phase['trained_parameters']:,} trained" for phase in phases]
    rows.append(("", Markdown("**all**"), "", f"{sum(group['parameters'] for group in groups):,}", *totals))
    headers = [Markdown("#"), "Layer group", "Role", "Parameters", *map(facts.phase_name, phases)]
    return table(headers, rows, text_columns=3)


def _group_row(row: GroupRow) -> tuple[str | Sequence[str], ...]:
    several = (row.first, " to ", row.last, f" ({row.count} groups)")
    return (row.index, row.first if row.count == 1 else several, row.role, row.parameters, *row.cells)


def phase_table(phases: Sequence[Mapping[str, Any]]) -> str:
    """Phases in their order, with their place in time and their schedule."""
    columns = facts.phase_columns(phases)
    numbers = {"Steps", "Warm-up steps", "Epochs", "Trained parameters"}
    return table(list(columns), zip(*columns.values(), strict=True), text_columns=len(columns.keys() - numbers))


def diagnosis_of(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a diagnosis said of the recipe: "scenario", "recipe", "reasons"; None for a run that was given its plan."""
    found = record.get("diagnosis")
    return found if isinstance(found, Mapping) and found.get("reasons") else None


def _diagnosis(record: Mapping[str, Any]) -> str | None:
    found = diagnosis_of(record)
    if found is None:
        return None
    scenario, recipe, warnings = found.get("scenario"), found.get("recipe"), found.get("warnings")
    case = f": {escape(_SCENARIOS.get(scenario, scenario))}" if scenario else ""
    return paragraphs(
        "### Diagnosis",
        lines(
            f"Before the training, model and data were measured{case}.",
            f"The recipe {code(recipe)} was recommended." if recipe else None,
        ),
        lines(*(f"- {escape(reason)}" for reason in found["reasons"])),
        "Noticed in the data:" if warnings else None,
        lines(*(f"- {escape(warning)}" for warning in warnings or ())),
    )
