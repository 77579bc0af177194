"""The sections of a model card, written from a run's record; a section that has nothing to say is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_transfer.evaluation import EvaluationReport
from hf_transfer.evaluation.collapse import collapse
from hf_transfer.evaluation.tables import FULL_TABLE_CLASSES, worst_and_best
from hf_transfer.reporting import facts
from hf_transfer.reporting.base_model import initial_weights
from hf_transfer.reporting.card_origins import base_name, data_name
from hf_transfer.reporting.card_training import training_text
from hf_transfer.reporting.card_usage import usage
from hf_transfer.reporting.facts import Facts, score
from hf_transfer.reporting.markdown import (
    Markdown,
    code,
    escape,
    facts_table,
    fenced,
    images,
    lines,
    paragraphs,
    table,
)

# Figures of the training and of the diagnosis; all others belong to the evaluation.
_TRAINING_FIGURES = ("layer_plan", "learning_rate_range", "learning_curves")
_DIAGNOSIS_FIGURES = ("accuracy_by_depth",)


@dataclass(frozen=True)
class Section:
    """A part of a card.

    Attributes:
        title: Heading of the second level.
        body: Markdown; None leaves the section out.
    """

    title: str
    body: str | None


def sections(
    record: Mapping[str, Any],
    figures: Mapping[str, str],
    limitations: str,
    repo_id: str | None,
    revision: str | None,
    checkpoint_step: int | None,
) -> list[Section]:
    """All sections that have something to say, in their order.

    Args:
        record: Content of `run.json`.
        figures: Paths relative to the card, by name.
        limitations: The user's text for the section of that name.
        repo_id: Where the model is on the Hub; None for a folder.
        revision: What the examples pin; None pins nothing.
        checkpoint_step: The step of the checkpoint in the repository; None if there is none.
    """
    training = {name: figures[name] for name in _TRAINING_FIGURES if name in figures}
    diagnosis = {name: figures[name] for name in _DIAGNOSIS_FIGURES if name in figures}
    evaluation = {name: path for name, path in figures.items() if name not in training and name not in diagnosis}
    found = (
        Section("Limitations", limitations or None),
        Section("How to use", usage(record, repo_id, revision, checkpoint_step)),
        Section("Labels", _labels(record)),
        Section("Evaluation", _evaluation(record, evaluation)),
        Section("What was trained", training_text(record, training, diagnosis)),
        Section("Data", _data(record)),
        Section("Preprocessing", facts_table("Setting", facts.preprocessing(record["preprocessing"]))),
        Section("Reproduction", _reproduction(record)),
    )
    return [section for section in found if section.body]


def introduction(record: Mapping[str, Any]) -> str | None:
    """What the model is, and how good it is."""
    data, architecture = data_name(record), code(record["base_model"]["architecture"])
    init, base = initial_weights(record), base_name(record)
    if init == "random":
        origin = f"architecture {architecture}, trained from random weights"
    elif not base:
        origin = f"architecture {architecture}, trained from weights whose origin is not known"
    else:
        origin = f"fine-tuned from {base}" if init == "pretrained" else f"trained from {base}"
    classes = len(record["data"]["label_names"])
    return lines(
        f"An image classifier for {classes:,} classes, {origin}{f' on {data}' if data else ''}.",
        *(_accuracy(report) for report in _reports(record)),
    )


def _accuracy(report: EvaluationReport) -> str | None:
    found = report.metrics.get("accuracy")
    if found is None or found.value is None:
        return None
    known = found.low is not None and found.high is not None
    bounds = f" (95 % interval {facts.interval(found.low, found.high)})" if known else ""
    return f"Accuracy **{score(found.value)}** on {report.n:,} images of {code(report.split)}{bounds}."


def _reports(record: Mapping[str, Any]) -> list[EvaluationReport]:
    """Evaluations, that of the evaluation split first."""
    first = record["data"]["evaluation_split"]
    found = sorted(record["evaluation"].items(), key=lambda item: item[0] != first)
    return [EvaluationReport.from_dict(report) for _, report in found]


def _labels(record: Mapping[str, Any]) -> str:
    """Class index and label; only where they are found, for more classes than a reader looks through."""
    names = record["data"]["label_names"]
    if not names or len(names) > FULL_TABLE_CLASSES:
        key = "label_names" if record["base_model"]["library"] == "timm" else "id2label"
        return f"{len(names):,} classes; `config.json` lists them under `{key}`."
    return table(("Index", "Label"), ((str(index), name) for index, name in enumerate(names)), text_columns=2)


def _evaluation(record: Mapping[str, Any], figures: Mapping[str, str]) -> str | None:
    reports, step = _reports(record), record["training"].get("best_checkpoint_step")
    if not reports:
        return None
    return paragraphs(
        lines(
            facts.INTERVALS_NOTE,
            None
            if step is None
            else f"The weights are those of step {step:,}, chosen by their result on\n"
            f"{code(record['data']['evaluation_split'])}: on that split the values are slightly optimistic.",
        ),
        *map(_report, reports),
        _calibration(record["training"].get("calibration")),
        images(figures),
    )


def _report(report: EvaluationReport) -> str | None:
    classes, mistakes = _class_table(report), facts.confusions(report)
    return paragraphs(
        f"### {escape(report.split)}: {report.n:,} images",
        _said_nothing(report),
        _metric_table(report),
        f"#### {_class_table_title(report)}" if classes else None,
        classes,
        "#### Most frequent mistakes" if mistakes else None,
        table(facts.CONFUSION_HEADERS, mistakes, text_columns=2) if mistakes else None,
    )


def _said_nothing(report: EvaluationReport) -> str | None:
    found = collapse(report)
    return None if found is None else f"**{escape(found)}**"


def _metric_table(report: EvaluationReport) -> str | None:
    rows = facts.metrics(report)
    known = any(interval != facts.NOT_KNOWN for _, _, interval in rows)
    headers = ("Metric", "Value", *(["95 % interval"] if known else []))
    return table(headers, [row[: len(headers)] for row in rows]) if rows else None


def _class_table(report: EvaluationReport) -> str | None:
    """Scores of each class; of more than 50 the ten worst and the ten best."""
    if len(report.per_class) <= FULL_TABLE_CLASSES:
        rows = [facts.class_row(scores) for scores in report.per_class]
        return table(facts.CLASS_HEADERS, rows) if rows else None
    worst, best = worst_and_best(report.per_class)
    between = len(report.per_class) - len(worst) - len(best)
    gap = (Markdown(f"*{between:,} classes between*"), "", "", "", "")
    rows = [*map(facts.class_row, worst), *([gap] if between else []), *map(facts.class_row, best)]
    return table(facts.CLASS_HEADERS, rows)


def _class_table_title(report: EvaluationReport) -> str:
    count = len(report.per_class)
    return "By class" if count <= FULL_TABLE_CLASSES else f"By class: {facts.CLASS_ENDS} of {count:,} by F1"


def _calibration(found: Mapping[str, Any] | None) -> str | None:
    if not found:
        return None
    crossed = "Each half was scored with the temperature of the other half. " if found["crossed"] else ""
    return paragraphs(
        "### Calibration",
        f"Dividing the logits by a temperature of {found['temperature']:.2f}, fitted on {code(found['fitted_on'])}, "
        f"would change the\ncalibration error on {code(found['measured_on'])} from {score(found['ece_before'])} to "
        f"{score(found['ece_after'])} and the log loss from {score(found['log_loss_before'])} to\n"
        f"{score(found['log_loss_after'])}. {crossed}The published weights have no temperature.",
    )


def _data(record: Mapping[str, Any]) -> str | None:
    data = record["data"]
    if not data_name(record) and not data["counts"]:
        return None
    size = data.get("median_size")
    pixels = f"{size['height']} × {size['width']} pixels" if size else None
    return paragraphs(
        lines(
            _source(record),
            _evaluation_split(data) if data["evaluation_split"] else None,
            f"Median size of the images: {pixels} (height × width)." if pixels else None,
            f"{escape('; '.join(data['pixels']).capitalize())}." if data.get("pixels") else None,
            _skipped(data),
        ),
        _count_table(data),
    )


def _source(record: Mapping[str, Any]) -> str | None:
    data, name = record["data"], data_name(record)
    if not name:
        return None
    details = [f", {key} {code(data[key])}" for key in ("revision", "fingerprint") if data.get(key)]
    return f"{name}{''.join(details)}."


def _evaluation_split(data: Mapping[str, Any]) -> str:
    drawn = "set aside from the training images, as the data came without one"
    origin = drawn if facts.drawn_split(data) else "as the data came with it"
    return f"Evaluation split: {code(data['evaluation_split'])}, {origin}."


def _skipped(data: Mapping[str, Any]) -> str | None:
    splits = ", ".join(f"{code(split)} {count}" for split, count in facts.skipped(data, "split"))
    reasons = "; ".join(f"{escape(reason)} ({count})" for reason, count in facts.skipped(data, "reason"))
    if not splits:
        return None
    return f"Unusable images that were left out: {splits}. Reasons: {reasons}."


def _count_table(data: Mapping[str, Any]) -> str | None:
    """Images by class and split; for more than 50 classes how they spread."""
    found, labels = facts.counts(data), data["label_names"]
    if found is None:
        return None
    if len(labels) > FULL_TABLE_CLASSES:
        spread = [
            facts.spread(split, [counts.get(label, 0) for label in labels]) for split, counts in data["counts"].items()
        ]
        return table(facts.SPREAD_HEADERS, spread)
    rows: list[Sequence[str]] = [*found.rows, (Markdown("**all**"), *found.totals)]
    return table(("Class", *found.splits), rows)


def _reproduction(record: Mapping[str, Any]) -> str | None:
    command, version = facts.command(record), record["versions"].get("hf_transfer_learning")
    versions: Facts = [("Versions", facts.joined(facts.versions(record)))]
    run = [("Date", record["created"]), *facts.setup(record), *versions]
    by = f", by hf-transfer-learning {escape(version)}" if version else ""
    return paragraphs(
        fenced(command, "bash") if command else None,
        facts_table("Run", run),
        f"Generated from `run.json`, which holds more digits and the training log{by}.",
    )
