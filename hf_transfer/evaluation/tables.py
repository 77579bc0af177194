"""Evaluation reports as text tables for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from hf_transfer.evaluation.results import ClassScore, EvaluationReport

METRIC_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "top5_accuracy": "Top-5 accuracy",
        "macro_f1": "Macro F1",
        "log_loss": "Log loss",
        "ece": "Calibration error (ECE)",
        "brier_score": "Brier score",
    }
)
"""How each metric is called in tables, cards and reports, in their order."""

FULL_TABLE_CLASSES = 50
"""Up to this number of classes tables show every class."""
SHOWN_AT_EACH_END = 10
_WIDTH = 100


def metric_name(metric: str) -> str:
    """What a metric is called within a sentence."""
    title = METRIC_TITLES.get(metric, metric)
    return title[:1].lower() + title[1:]


def metrics_table(report: EvaluationReport) -> str:
    """The metrics of a report with their 95 % intervals."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, metric in report.metrics.items():
        bounds = "" if metric.low is None or metric.high is None else f"{metric.low:.3f} to {metric.high:.3f}"
        table.add_row(Text(METRIC_TITLES.get(name, name)), f"{metric.value:.3f}", bounds)
    return _rendered(f"{report.split}: {report.n:,} images, {len(report.label_names)} classes", table)


def per_class_table(report: EvaluationReport) -> str:
    """Scores of each class; the ten worst and ten best by F1 where there are more than 50."""
    count = len(report.per_class)
    shortened = count > FULL_TABLE_CLASSES
    selection = (
        f"the {SHOWN_AT_EACH_END} worst and {SHOWN_AT_EACH_END} best of {count} classes" if shortened else "classes"
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class", max_width=40)
    for column in ("precision", "recall", "F1", "images"):
        table.add_column(column, justify="right")
    if not shortened:
        _add_rows(table, report.per_class)
    else:
        worst, best = worst_and_best(report.per_class)
        _add_rows(table, worst)
        table.add_section()
        _add_rows(table, best)
    return _rendered(f"{report.split}: {selection}", table)


def worst_and_best(scores: Sequence[ClassScore]) -> tuple[list[ClassScore], list[ClassScore]]:
    """Among the classes that have images, the ten of lowest F1, worst first, and the ten of highest, best last."""
    ranked = sorted((score for score in scores if score.support), key=lambda score: score.f1)
    return ranked[:SHOWN_AT_EACH_END], ranked[SHOWN_AT_EACH_END:][-SHOWN_AT_EACH_END:]


def _add_rows(table: Table, scores: Sequence[ClassScore]) -> None:
    for score in scores:
        # Text, not str: a label such as "[red]" is no markup.
        numbers = (
            [f"{value:.3f}" for value in (score.precision, score.recall, score.f1)] if score.support else ["-"] * 3
        )
        table.add_row(Text(score.name), *numbers, f"{score.support:,}")


def _rendered(title: str, table: Table) -> str:
    # The title as a line of its own: as the table's title it would be broken at the width of a narrow table.
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    lines = (line.rstrip() for line in capture.get().split("\n"))
    return "\n".join([title, *(line for line in lines if line)])
