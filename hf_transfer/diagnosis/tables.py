"""A diagnosis as tables for a terminal: layers, what else was measured, candidates."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_transfer.diagnosis.candidates import Candidate
from hf_transfer.diagnosis.findings import findings
from hf_transfer.diagnosis.measurements import ALL, LayerMeasurement, Measurements
from hf_transfer.evaluation.tables import metric_name
from hf_transfer.figures.accuracy_by_depth import short_names
from hf_transfer.figures.style import shortened

_WIDTH = 100


def layers_table(m: Measurements) -> str:
    """The score of each layer."""
    name = metric_name(m.metric)
    names = short_names([layer.layer for layer in m.layers])
    rows = [(shortened(each, 28, keep_end=True), *_row(layer)) for each, layer in zip(names, m.layers, strict=True)]
    table = rendered(("layer", "features", name, "fitted", "random", "behind best", "checkpoint"), rows)
    note = (
        f"{name[:1].upper()}{name[1:]} on {m.sample:,} images: {m.estimate}, with standard errors; fitted: on the "
        "images it was fitted to; random: with random weights. Behind best: in points."
    )
    return f"{table}\n{note}"


def findings_table(m: Measurements) -> str:
    """What was measured besides the layers."""
    return rendered(("measured", "value", "95 % interval"), [(f.title, f.value, f.interval) for f in findings(m)])


def candidates_table(found: Iterable[Candidate], metric: str) -> str:
    """What each candidate has or is expected to have, the cheapest first."""
    rows = [
        (each.name, f"{each.accuracy:.3f}", "measured" if each.measured else "assumed", gain_in_words(each))
        for each in found
    ]
    return rendered(("candidate", metric_name(metric), "basis", "against the last layer, points"), rows)


def gain_in_words(candidate: Candidate) -> str:
    """What a candidate gains over the linear classifier on the last layer, with its standard error, in points."""
    return f"{100 * candidate.gain:+.1f} \N{PLUS-MINUS SIGN} {100 * candidate.gain_error:.1f}"


def rendered(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is text, the others are aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=place > 0)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=_WIDTH, highlight=False, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().strip("\n").splitlines())


def _row(layer: LayerMeasurement) -> tuple[str, ...]:
    random = "" if layer.random_accuracy is None else f"{layer.random_accuracy:.3f}"
    return (
        f"{layer.channels:,}",
        f"{layer.accuracy:.3f} \N{PLUS-MINUS SIGN} {layer.standard_error:.3f}",
        f"{layer.train_accuracy:.3f}",
        random,
        f"{100 * layer.behind_best:.1f} \N{PLUS-MINUS SIGN} {100 * layer.behind_best_error:.1f}",
        "ordinary" if layer.native and layer.layer != ALL else "probe file",
    )
