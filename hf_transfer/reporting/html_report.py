"""`report.html`: everything about a run on one page that needs no other file, no script and no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2

from hf_transfer.errors import OutputError
from hf_transfer.evaluation import EvaluationReport
from hf_transfer.evaluation.collapse import collapse
from hf_transfer.evaluation.tables import FULL_TABLE_CLASSES, SHOWN_AT_EACH_END, worst_and_best
from hf_transfer.figures.alt_text import ALT_TEXT
from hf_transfer.reporting import facts, training_facts
from hf_transfer.utils.files import replacing

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
        with replacing(path) as temporary:
            temporary.write_bytes(page.encode("utf-8", "replace"))
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
    data, training = facts.part(run, "data"), facts.part(run, "training")
    return environment.get_template("report.html.j2").render(
        title=_title(run),
        created=run.get("created"),
        headline=_headline(reports),
        evaluations=[_evaluation(report) for report in reports],
        figures=[_figure(figure) for figure in figures if figure.is_file()],
        plan=_plan(facts.part(training, "plan")),
        facts=[(title, found) for title, found in _facts(run).items() if found],
        counts=_counts(data),
        skipped=facts.skipped(data, "split"),
        versions=facts.versions(run),
        command=facts.command(run),
        intervals_note=facts.INTERVALS_NOTE,
    )


def _title(run: Mapping[str, Any]) -> str:
    model, data = facts.part(run, "base_model").get("id"), facts.part(run, "data").get("name")
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
    every = [facts.class_row(scores) for scores in report.per_class]
    ends = [
        (f"The {SHOWN_AT_EACH_END} worst classes by F1", [facts.class_row(scores) for scores in worst]),
        (f"The {SHOWN_AT_EACH_END} best classes by F1", [facts.class_row(scores) for scores in best]),
    ]
    return {
        "split": report.split,
        "n": f"{report.n:,}",
        "metrics": facts.metrics(report),
        "collapse": collapse(report),
        "class_tables": ends if shortened else [("Classes", every)],
        "all_classes": every if shortened else [],
        "confusions": facts.confusions(report),
    }


def _figure(path: Path) -> dict[str, str]:
    subject = path.stem.replace("_", " ").capitalize()
    return {
        "source": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}",
        "alt": ALT_TEXT.get(path.name, f"{subject}."),
        "title": subject,
        "caption": _CAPTIONS.get(path.name, ""),
    }


def _plan(plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The layer table: groups from input to output against phases."""
    groups, phases = plan.get("groups") or [], plan.get("phases") or []
    if not groups or not phases:
        return None
    return {
        "phases": [str(phase["name"]) for phase in phases],
        "steps": [training_facts.time_of(phase) for phase in phases],
        "rows": training_facts.group_rows(groups),
        "long": len(groups) > training_facts.FULL_TABLE_GROUPS,
    }


def _facts(run: Mapping[str, Any]) -> dict[str, facts.Facts]:
    """Titles and values by heading."""
    model, data, training = (facts.part(run, name) for name in ("base_model", "data", "training"))
    recipe = training.get("recipe") or facts.part(facts.part(training, "plan"), "plan").get("recipe")
    solved = facts.part(training, "solved_head") or facts.part(training, "solved_phase")
    details = ("id", "revision", "architecture", "library", "license")
    return {
        "Model": facts.known(
            {facts.words(name): model.get(name) for name in details}
            | {"Parameters": training.get("parameters") or model.get("parameters")}
        ),
        "Data": facts.known(
            {"Name": data.get("name"), "On the Hub": data.get("hub_id"), "Revision": data.get("revision")}
        ),
        "Preprocessing": facts.preprocessing(facts.part(run, "preprocessing")),
        "Training": facts.known({"Recipe": recipe})
        + training_facts.settings(training)
        + facts.known({"Weights of step": training.get("best_checkpoint_step")})
        + facts.known({"From the feature cache": "".join(training_facts.cache(training))}),
        "Head": training_facts.solver(solved) if solved else [],
        "Run": facts.setup(run),
    }


def _counts(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Images by class and split."""
    found = facts.counts(data)
    if found is None:
        return None
    return {
        "splits": found.splits,
        "totals": found.totals,
        "rows": [(label, cells) for label, *cells in found.rows],
        "long": len(found.rows) > FULL_TABLE_CLASSES,
    }
