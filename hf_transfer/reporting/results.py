"""The files that a run writes at its end: record, plan, predictions, figures, card and report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hf_transfer.data import SkippedImage, decode_row
from hf_transfer.errors import OutputError
from hf_transfer.evaluation import EvaluationReport, most_confident_errors, write_predictions
from hf_transfer.figures.accuracy_by_depth import accuracy_by_depth
from hf_transfer.figures.confusion_matrix import confusion_matrix
from hf_transfer.figures.layer_plan import layer_plan
from hf_transfer.figures.learning_curves import PhaseSpan, learning_curves
from hf_transfer.figures.learning_rate_range import learning_rate_range
from hf_transfer.figures.mistakes import worst_mistakes
from hf_transfer.reporting.card import write_card
from hf_transfer.reporting.html_report import write_report
from hf_transfer.reporting.record import RunRecord
from hf_transfer.run_files import DEPTHS_FIGURE, EVALUATION_FILE, PLAN_FILE, RECORD, REPORT, SKIPPED_FILE
from hf_transfer.utils.files import write_atomically

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class SplitResult:
    """Predictions for one split.

    Attributes:
        report: The metrics.
        logits: Shape `(images, classes)`.
        labels: Shape `(images,)`.
        images: The split, with the columns "image" and "name"; None where a script's data have other ones.
    """

    report: EvaluationReport
    logits: npt.NDArray[np.floating]
    labels: npt.NDArray[np.integer]
    images: Dataset | None


def write_results(
    folder: Path,
    record: RunRecord,
    results: Sequence[SplitResult],
    skipped: Sequence[SkippedImage] = (),
    license: str | None = None,
) -> None:
    """Write everything but the model: plan, record, predictions, figures, card and report.

    Args:
        folder: The run's output folder.
        record: The whole record of the run.
        results: The evaluation split first.
        skipped: Images that were left out; their names go into a file of their own, which is not published.
        license: As for `write_card`.

    Raises:
        OutputError: A file cannot be written; the model in the folder is not touched.
    """
    try:
        record.save(folder / RECORD)
        data = record.to_dict()
        plan = data["training"]["plan"]
        if plan is not None:
            stated = plan if data["diagnosis"] is None else plan | {"diagnosis": data["diagnosis"]}
            write_atomically(folder / PLAN_FILE, json.dumps(stated, indent=2) + "\n")
        for position, result in enumerate(results):
            name = "predictions.parquet" if position == 0 else f"predictions_{result.report.split}.parquet"
            _write_predictions(folder / name, result)
        figures = _write_figures(folder / "figures", data, results[0] if results else None)
        shown = {path.stem: f"figures/{path.name}" for path in figures}
        write_card(folder, data, figures=shown, license=license)
        write_report(folder / REPORT, data, data["evaluation"], figures)
        (folder / SKIPPED_FILE).unlink(missing_ok=True)
        if skipped:
            listed = json.dumps([asdict(image) for image in skipped], indent=2)
            write_atomically(folder / SKIPPED_FILE, listed + "\n")
    except OSError as error:
        raise OutputError(f"The results cannot be written to {folder}: {error}. The model there is whole.") from error


def write_evaluation(folder: Path, result: SplitResult) -> None:
    """Write metrics, predictions and figures of one split, without a training run.

    Raises:
        OutputError: A file cannot be written.
    """
    try:
        figures = folder / "figures"
        figures.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result.report.to_dict(), indent=2)
        write_atomically(folder / EVALUATION_FILE, text + "\n")
        _write_predictions(folder / "predictions.parquet", result)
        confusion_matrix(result.report, figures / "confusion_matrix.png")
        _write_mistakes(figures / "worst_mistakes.png", result)
    except OSError as error:
        raise OutputError(f"The results cannot be written to {folder}: {error}.") from error


def _write_predictions(path: Path, result: SplitResult) -> None:
    if result.images is None:
        names = [f"{result.report.split}/{row}" for row in range(len(result.labels))]
    else:
        names = [str(name) for name in result.images.with_format(None)["name"]]
    write_predictions(path, names, result.logits, result.labels, result.report.label_names)


def _write_figures(folder: Path, data: Mapping[str, Any], result: SplitResult | None) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    # A solved head has no rates to draw, and no steps: one point is no curve.
    solved = data["training"].get("solved_head") is not None
    plan = (None if solved else data["training"]["plan"]) or {"groups": [], "phases": []}
    spans = [
        PhaseSpan(p["name"], p["start_step"], p["end_step"]) for p in plan["phases"] if p["end_step"] > p["start_step"]
    ]
    written = (
        None if solved else learning_curves(data["log_history"], folder / "learning_curves.png", spans),
        learning_rate_range(data["training"].get("learning_rate_range") or [], folder / "learning_rate_range.png"),
        layer_plan(plan["groups"], plan["phases"], folder / "layer_plan.png"),
        None if result is None else confusion_matrix(result.report, folder / "confusion_matrix.png"),
        None if result is None else _write_mistakes(folder / "worst_mistakes.png", result),
        _write_depths(folder / DEPTHS_FIGURE, data["diagnosis"]),
    )
    return [path for path in written if path is not None]


def _write_depths(path: Path, diagnosis: Mapping[str, Any] | None) -> Path | None:
    return None if diagnosis is None else accuracy_by_depth(diagnosis["measurements"], path, diagnosis["layer"])


def _write_mistakes(path: Path, result: SplitResult) -> Path | None:
    if result.images is None:
        return None
    wrong = most_confident_errors(result.logits, result.labels)
    names = result.report.label_names
    shifted = result.logits - result.logits.max(axis=1, keepdims=True)
    confidence = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    rows = [result.images.with_format(None)[int(index)] for index in wrong]
    return worst_mistakes(
        [decode_row(row) for row in rows],
        [
            {
                "name": row["name"],
                "label": names[int(result.labels[index])],
                "prediction": names[int(result.logits[index].argmax())],
                "confidence": float(confidence[index].max()),
            }
            for row, index in zip(rows, wrong, strict=True)
        ],
        path,
    )
