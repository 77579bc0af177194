"""`report.html`: everything about a run on one page that needs no other file, no script and no network."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2

from hf_transfer.errors import OutputError
from hf_transfer.evaluation import METRIC_TITLES, ClassScore, EvaluationReport
from hf_transfer.evaluation.tables import FULL_TABLE_CLASSES, SHOWN_AT_EACH_END, worst_and_best
from hf_transfer.figures.alt_text import ALT_TEXT
from hf_transfer.utils.clock import duration

_CAPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "learning_curves.png": "Loss and accuracy over the optimizer steps; dashed lines part the phases.",
        "confusion_matrix.png": "Rows are true classes, columns predictions; numbers are images.",
        "layer_plan.png": "What each phase trained, and at which learning rate.",
        "learning_rate_range.png": "Losses of trial steps before each phase; dashed: the learning rate chosen.",
        "accuracy_by_depth.png": "A linear classifier on each layer, from input to output, with pretrained and with "
        "random weights; the circle is the layer that the chosen head reads.",
        "worst_mistakes.png": "The most confident mistakes: prediction with its confidence, then the true class.",
    }
)
_FULL_TABLE_GROUPS = 40
_UNKNOWN = "\N{EN DASH}"

Facts = list[tuple[str, str]]


def write_report(
    path: Path, run: Mapping[str, Any], evaluation: Mapping[str, Mapping[str, Any]], figures: Sequence[Path]
) -> None:
    """Write the report of a run as one HTML file.

    Args:
        path: The file to write.
        run: The content of `run.json`; whatever is missing is left out of the page.
        evaluation: `EvaluationReport.to_dict()` by split, the split of the headline first.
        figures: PNG files, which are embedded; those that do not exist are left out.

    Raises:
        DataError: An evaluation has not the form that `EvaluationReport.to_dict` gives.
        OutputError: A figure cannot be read, or the page cannot be written.
    """
    try:
        page = render_report(run, evaluation, figures)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A label from a file name that is not UTF-8 holds lone surrogates, which no UTF-8 file can.
        path.write_bytes(page.encode("utf-8", "replace"))
    except OSError as error:
        raise OutputError(f"Cannot write the report {path}: {error}. Check space and permissions.") from error


def render_report(run: Mapping[str, Any], evaluation: Mapping[str, Mapping[str, Any]], figures: Sequence[Path]) -> str:
    """The page as text; arguments as for `write_report`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    reports = [EvaluationReport.from_dict(data) for data in evaluation.values()]
    data = _part(run, "data")
    return environment.get_template("report.html.j2").render(
        title=_title(run),
        created=run.get("created"),
        headline=_headline(reports),
        evaluations=[_evaluation(report) for report in reports],
        figures=[_figure(figure) for figure in figures if figure.is_file()],
        plan=_plan(_part(run, "training")),
        facts=[(name, facts) for name, facts in _facts(run).items() if facts],
        counts=_counts(data),
        skipped=_skipped(data),
        versions=_known(_part(run, "versions")),
        command=run.get("command"),
    )


def _part(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A nested mapping, empty where it is missing or None."""
    return mapping.get(key) or {}


def _title(run: Mapping[str, Any]) -> str:
    model, data = _part(run, "base_model").get("id"), _part(run, "data").get("name")
    return " on ".join(str(part) for part in (model, data) if part) or "Training report"


def _headline(reports: Sequence[EvaluationReport]) -> dict[str, str] | None:
    if not reports or "accuracy" not in reports[0].metrics:
        return None
    first = reports[0]
    accuracy = first.metrics["accuracy"]
    known = accuracy.low is not None and accuracy.high is not None
    return {
        "value": f"{accuracy.value:.1%}",
        "interval": f"95 % interval {accuracy.low:.1%} to {accuracy.high:.1%}" if known else "",
        "basis": f"{first.n:,} images, split {first.split}",
    }


def _evaluation(report: EvaluationReport) -> dict[str, Any]:
    shortened = len(report.per_class) > FULL_TABLE_CLASSES
    worst, best = worst_and_best(report.per_class)
    every = [_class_row(score) for score in report.per_class]
    return {
        "split": report.split,
        "n": f"{report.n:,}",
        "metrics": [
            (METRIC_TITLES.get(name, name), f"{metric.value:.3f}", _interval(metric.low, metric.high))
            for name, metric in report.metrics.items()
        ],
        "class_tables": [
            (f"The {SHOWN_AT_EACH_END} worst classes by F1", [_class_row(score) for score in worst]),
            (f"The {SHOWN_AT_EACH_END} best classes by F1", [_class_row(score) for score in best]),
        ]
        if shortened
        else [("Classes", every)],
        "all_classes": every if shortened else [],
        "confusions": [(c.true, c.predicted, f"{c.count:,}", f"{c.share:.1%}") for c in report.worst_confusions],
    }


def _class_row(score: ClassScore) -> tuple[str, ...]:
    # Without images the zeros are conventions, no results.
    values = (
        [f"{value:.3f}" for value in (score.precision, score.recall, score.f1)] if score.support else [_UNKNOWN] * 3
    )
    return (score.name, *values, f"{score.support:,}")


def _interval(low: float | None, high: float | None) -> str:
    return _UNKNOWN if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _figure(path: Path) -> dict[str, str]:
    subject = path.stem.replace("_", " ").capitalize()
    return {
        "source": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}",
        "alt": ALT_TEXT.get(path.name, f"{subject}."),
        "title": subject,
        "caption": _CAPTIONS.get(path.name, ""),
    }


_SHOWN_ELSEWHERE = (
    *("plan", "optimizer", "recipe", "solved_head", "solved_phase", "cache_decisions", "learning_rate_range"),
    "optimizer_groups",
)
# Of a solved head: what one line holds.
_SOLVED = ("solver", "parameter", "value", "estimate", "accuracy", "standard_error", "train_accuracy", "temperature")


def _plan(training: Mapping[str, Any]) -> dict[str, Any] | None:
    """The layer table: groups from input to output against phases."""
    plan = _part(training, "plan")
    groups, phases = plan.get("groups") or [], plan.get("phases") or []
    if not groups or not phases:
        return None
    return {
        "phases": [str(phase["name"]) for phase in phases],
        "steps": [_steps(phase) for phase in phases],
        "rows": [
            (str(group["name"]), str(group.get("role", "")), f"{group['parameters']:,}", _treatments(group))
            for group in groups
        ],
        "long": len(groups) > _FULL_TABLE_GROUPS,
    }


def _steps(phase: Mapping[str, Any]) -> str:
    start, end = phase.get("start_step"), phase.get("end_step")
    if phase.get("head_solver"):
        return f"solved ({phase['head_solver']})"
    if start is None or end is None:
        return ""
    planned = phase.get("planned_steps")
    if planned is not None and start == end:
        return f"not reached ({planned:,} steps planned)"
    after = phase.get("averaged_after_step")
    averaged = "" if after is None else f", weights averaged from step {after + 1:,} on"
    return (
        f"steps {start:,} to {end:,}"
        + ("" if planned is None else f", stopped early ({planned:,} planned)")
        + averaged
    )


def _treatments(group: Mapping[str, Any]) -> list[str]:
    cells = []
    for part in group["phases"]:
        rate, trained = part["learning_rate"], part["trained_parameters"]
        if rate is None or not trained:
            cells.append("solved" if part.get("solved") else "frozen")
            continue
        partly = f" ({trained:,} of them)" if trained < group["parameters"] else ""
        decay = f", decay {part['weight_decay']:.3g}" if part.get("weight_decay") else ""
        cells.append(f"{rate:.3g}{decay}{partly}")
    return cells


def _facts(run: Mapping[str, Any]) -> dict[str, Facts]:
    """Names and values by heading."""
    model, data, training = _part(run, "base_model"), _part(run, "data"), _part(run, "training")
    timing, hardware = _part(run, "timing"), _part(run, "hardware")
    plan = _part(_part(training, "plan"), "plan")
    optimizer = _part(training, "optimizer")
    rate = timing.get("images_per_second")
    return {
        "Model": _known(
            {name: model.get(name.lower()) for name in ("Id", "Revision", "Architecture", "Library", "License")}
            | {"Parameters": model.get("parameters")}
        ),
        "Data": _known({"Name": data.get("name"), "On the Hub": data.get("hub_id"), "Revision": data.get("revision")}),
        "Preprocessing": _known({_words(name): value for name, value in _part(run, "preprocessing").items()}),
        "Training": _known(
            {"Recipe": training.get("recipe") or plan.get("recipe"), "Optimizer": optimizer.get("class")}
            | {_words(name): training[name] for name in training if name not in _SHOWN_ELSEWHERE}
            | {"From the feature cache": _cached(training)}
            | {_words(name): value for name, value in _part(training, "solved_head").items() if name in _SOLVED}
        ),
        "Run": _known(
            {"Seed": _text(run.get("seed")), "Seed of the split": _text(run.get("split_seed"))}
            | {_words(name): value for name, value in hardware.items()}
            | {"Training time": _shown_duration(timing.get("train_seconds"))}
            | {"Evaluation time": _shown_duration(timing.get("evaluation_seconds"))}
            | {"Training throughput": None if rate is None else f"{rate:,.1f} images/s"}
        ),
    }


def _cached(training: Mapping[str, Any]) -> list[str]:
    """Phases that read the frozen part of the network from the feature cache."""
    used = [decision for decision in training.get("cache_decisions") or [] if decision["used"]]
    return [d["phase"] + (f" ({d['views']} stored views of each image)" if d["views"] > 1 else "") for d in used]


def _known(values: Mapping[str, Any]) -> Facts:
    return [(name, _plain(value)) for name, value in values.items() if value is not None and value not in ("", [], {})]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return str(value)


def _text(value: Any) -> str | None:
    """A number that is a name, such as a seed: without separators."""
    return None if value is None else str(value)


def _shown_duration(seconds: float | None) -> str | None:
    return None if seconds is None else duration(seconds)


def _words(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _counts(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Images by class and split."""
    counts = _part(data, "counts")
    if not counts:
        return None
    labels = data.get("label_names") or list(
        dict.fromkeys(label for by_class in counts.values() for label in by_class)
    )
    return {
        "splits": list(counts),
        "totals": [f"{sum(by_class.values()):,}" for by_class in counts.values()],
        "rows": [(label, [f"{by_class.get(label, 0):,}" for by_class in counts.values()]) for label in labels],
        "long": len(labels) > FULL_TABLE_CLASSES,
    }


def _skipped(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How many images of each split could not be used."""
    splits: Counter[str] = Counter()
    for skipped in data.get("skipped") or []:
        splits[str(skipped["split"])] += skipped.get("images", 1)
    return [(split, f"{count:,}") for split, count in splits.items()]
