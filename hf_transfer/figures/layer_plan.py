"""Figures of a run as PNG files: learning curves, confusion matrix, layer plan, worst mistakes.

Every function takes plain data and a path, and returns the path, or None where there is nothing to draw. Matplotlib's
object interface is used throughout: no window, no global figure, and its settings are restored afterwards. A figure
that cannot be written is an OutputError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.errors import ArgumentError
from hf_transfer.figures.style import BLUE, EMPTY, GREEN, INK, ORANGE, colour_map, new_figure, shortened

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from PIL import Image

    from hf_transfer.evaluation import EvaluationReport
    from hf_transfer.evaluation.scores import FloatArray

ALT_TEXT: Mapping[str, str] = MappingProxyType(
    {
        "learning_curves.png": "Line charts of training loss, evaluation loss and evaluation accuracy over the steps.",
        "confusion_matrix.png": "Heat map of true against predicted class; each row shows the shares of one class.",
        "layer_plan.png": "Table of layer groups from input to output against phases: learning rate, or frozen.",
        "learning_rate_range.png": "Line charts of training loss against learning rate; the chosen rate is marked.",
        "accuracy_by_depth.png": "Line chart of held-out accuracy by layer, with pretrained and with random weights.",
        "worst_mistakes.png": "Grid of wrongly classified images: prediction with its confidence, and true label.",
    }
)
"""What each figure shows, for readers who cannot see it, by file name."""

_DOTS: Mapping[str, Any] = MappingProxyType({"linewidth": 1.4, "marker": "o", "markersize": 4, "clip_on": False})
_ANNOTATED_CLASSES = 20
_TICKS = 50
_MISTAKES = 12
_NAME_ROOM = 56
"""How many characters of a phase's name fit over a panel of the learning curves."""


@dataclass(frozen=True)
class PhaseSpan:
    """The optimizer steps of a phase: from `start_step`, included, to `end_step`, excluded."""

    name: str
    start_step: int
    end_step: int

    def __post_init__(self) -> None:
        if not 0 <= self.start_step <= self.end_step:
            raise ArgumentError(
                f"Expected 0 <= start_step <= end_step for the phase {self.name!r}, found {self.start_step} and "
                f"{self.end_step}."
            )


def learning_curves(
    log_history: Sequence[Mapping[str, Any]], path: Path, phases: Sequence[PhaseSpan] = ()
) -> Path | None:
    """Draw training loss, evaluation loss and evaluation accuracy over the steps.

    Args:
        log_history: `trainer.state.log_history`; entries without "step" are left out.
        path: The PNG file to write.
        phases: Their borders are drawn and named.

    Returns:
        The path, or None if the history holds no loss and no accuracy.
    """
    train, loss, accuracy = (_series(log_history, key) for key in ("loss", "eval_loss", "eval_accuracy"))
    if not (train or loss or accuracy):
        return None
    panels = bool(train or loss) + bool(accuracy)
    with new_figure(path, 4.6 * panels, 3.4) as figure:
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        if train or loss:
            _draw_losses(axes[0], train, loss)
        if accuracy:
            _draw_accuracy(axes[-1], accuracy)
        for panel in axes:
            panel.set_xlabel("step")
            panel.grid(True)
            panel.set_axisbelow(True)
            _mark_phases(panel, phases)
    return path


def _series(log_history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    # A value that was not finite is None once the history has been through JSON.
    return [(entry["step"], entry[key]) for entry in log_history if entry.get(key) is not None and "step" in entry]


def _draw_losses(axes: Axes, train: list[tuple[float, float]], evaluation: list[tuple[float, float]]) -> None:
    if train:
        axes.plot(*zip(*train, strict=True), color=BLUE, linewidth=1.4, label="train", **_marker(train))
    if evaluation:
        axes.plot(*zip(*evaluation, strict=True), color=ORANGE, label="evaluation", **_DOTS)
    # Label smoothing and augmentation keep losses off zero, yet the axis must not exaggerate a small fall.
    axes.set_ylim(bottom=0)
    axes.set_title("Loss", pad=18)
    axes.legend(loc="best")


def _draw_accuracy(axes: Axes, accuracy: list[tuple[float, float]]) -> None:
    steps, values = zip(*accuracy, strict=True)
    axes.plot(steps, values, color=GREEN, **_DOTS)
    axes.annotate(
        f"{values[-1]:.3f}", (steps[-1], values[-1]), xytext=(0, -12), textcoords="offset points", ha="right"
    )
    axes.set_title("Evaluation accuracy", pad=18)


def _marker(series: list[tuple[float, float]]) -> dict[str, Any]:
    """Marks for few points only: a line of one point would be invisible, many marks hide the line."""
    return {"marker": ".", "clip_on": False} if len(series) <= 30 else {}


def _mark_phases(axes: Axes, phases: Sequence[PhaseSpan]) -> None:
    if not phases:
        return
    first, last = phases[0].start_step, phases[-1].end_step
    axes.set_xlim(first, max(last, first + 1))
    for index, phase in enumerate(phases):
        if index:
            axes.axvline(phase.start_step, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        room = int(_NAME_ROOM * (phase.end_step - phase.start_step) / max(1, last - first))
        axes.annotate(
            shortened(phase.name, max(1, room)),
            (phase.start_step, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, 4),
            textcoords="offset points",
            fontsize=8,
            color="#555555",
        )


def confusion_matrix(report: EvaluationReport, path: Path) -> Path:
    """Draw the confusion matrix: colour is the share of a row, numbers (up to 20 classes) are images.

    Args:
        report: Any number of classes; tick labels are thinned out, rows without images are grey.
        path: The PNG file to write.
    """
    from matplotlib.colors import Normalize, PowerNorm

    counts = np.array(report.confusion)
    classes = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.ma.masked_array(counts / np.maximum(totals, 1), mask=np.broadcast_to(totals == 0, counts.shape))
    few = classes <= _ANNOTATED_CLASSES
    side = min(10.0, 3.4 + classes * (0.3 if few else 0.075))
    with new_figure(path, side + 0.8, side) as figure:
        axes = figure.subplots()
        # With many classes single mistakes would be too faint on a linear scale.
        norm = Normalize(0, 1) if few else PowerNorm(0.5, 0, 1)
        image = axes.imshow(shares, cmap=colour_map("Blues", bad=EMPTY), norm=norm, interpolation="nearest")
        bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02)
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
        _class_ticks(axes, report.label_names, side)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(shortened(f"Confusions, {report.split}, {report.n:,} images", int(side * 9)))
        axes.spines[:].set_visible(False)
        if few:
            for true, predicted in zip(*np.nonzero(counts), strict=True):
                colour = "white" if shares[true, predicted] > 0.55 else INK
                text = f"{counts[true, predicted]:,}"
                axes.text(predicted, true, text, ha="center", va="center", color=colour, fontsize=8)
    return path


def _class_ticks(axes: Axes, names: Sequence[str], side: float) -> None:
    step = math.ceil(len(names) / min(_TICKS, side * 6))
    shown = range(0, len(names), step)
    labels = [shortened(names[i], 18) for i in shown]
    axes.set_xticks(shown, labels, rotation=90)
    axes.set_yticks(shown, labels)
    axes.tick_params(length=0 if step == 1 else 2, labelsize=8 if step == 1 and len(names) <= 30 else 7)


def layer_plan(groups: Sequence[Mapping[str, Any]], phases: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Draw which layer groups train in which phase: colour and number are the learning rate, grey hatch is frozen.

    Args:
        groups: From input to output: "name", "parameters" and "phases", which holds "trained_parameters" and
            "learning_rate" for each phase. Where only a part of a group trains its share is added.
        phases: "name", and if known "start_step" and "end_step".
        path: The PNG file to write.

    Returns:
        The path, or None without groups or phases.
    """
    if not groups or not phases:
        return None
    row = min(0.27, 12 / len(groups))
    height = 1.5 + row * len(groups)
    with new_figure(path, 3.6 + 1.5 * len(phases), height) as figure:
        axes = figure.subplots()
        rates = _learning_rates(groups, len(phases))
        image = _draw_rates(axes, rates, _solved(groups, len(phases)))
        if row >= 0.18:
            _write_rates(axes, groups, rates, image)
            axes.set_xlabel("learning rate (and the share of the group that trains, if not all of it)")
        elif np.isfinite(rates).any():
            bar = figure.colorbar(image, ax=axes, orientation="horizontal", format="%.0e", aspect=40, pad=0.01)
            bar.set_label("learning rate; hatched: frozen")
        step = math.ceil(0.15 / row)
        shown = [*range(0, len(groups) - step, step), len(groups) - 1]
        size = 8 if step == 1 else 7
        axes.set_yticks(shown, [shortened(str(groups[i]["name"]), 32) for i in shown], fontsize=size)
        axes.set_xticks(range(len(phases)), [_phase_title(phase) for phase in phases])
        axes.tick_params(length=0 if step == 1 else 2, labeltop=True, labelbottom=False, top=False, bottom=False)
        axes.set_ylabel("output  \N{LEFTWARDS ARROW}  input")
        right = axes.secondary_yaxis("right")
        right.set_yticks(shown, [_compact(int(groups[i]["parameters"])) for i in shown], fontsize=size)
        right.tick_params(length=0)
        right.set_ylabel("parameters")
        for edge in (*axes.spines.values(), *right.spines.values()):
            edge.set_visible(False)
    return path


def _learning_rates(groups: Sequence[Mapping[str, Any]], phases: int) -> FloatArray:
    """Learning rates `(groups, phases)`, NaN where nothing of the group trains."""
    rates = np.full((len(groups), phases), np.nan)
    for index, group in enumerate(groups):
        for phase, part in enumerate(group["phases"]):
            if part["trained_parameters"] and part["learning_rate"]:
                rates[index, phase] = part["learning_rate"]
    return rates


def _solved(groups: Sequence[Mapping[str, Any]], phases: int) -> npt.NDArray[np.bool_]:
    """Where a group was solved and not trained in steps, `(groups, phases)`."""
    cells = [[bool(part.get("solved")) for part in group["phases"]] for group in groups]
    return np.array(cells, bool).reshape(len(groups), phases)


def _draw_rates(axes: Axes, rates: FloatArray, solved: npt.NDArray[np.bool_]) -> AxesImage:
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    for group, phase in np.argwhere(np.isnan(rates) & ~solved):
        frozen = Rectangle((phase - 0.5, group - 0.5), 1, 1, facecolor=EMPTY, edgecolor="#bdbdbd", hatch="////", lw=0)
        axes.add_patch(frozen)
    trained = rates[np.isfinite(rates)]
    low, high = (trained.min(), trained.max()) if len(trained) else (1.0, 1.0)
    # At least two decades, so that small differences do not look like large ones.
    widened = max(1.0, 10 / math.sqrt(high / low))
    norm = LogNorm(low / widened, high * widened)
    colours = colour_map("viridis", bad="none")
    image = axes.imshow(rates, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    axes.set_xticks(np.arange(1, rates.shape[1]) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, rates.shape[0]) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5 if len(rates) <= 60 else 0.4)
    axes.tick_params(which="minor", length=0)
    return image


def _write_rates(axes: Axes, groups: Sequence[Mapping[str, Any]], rates: FloatArray, image: AxesImage) -> None:
    for index, group in enumerate(groups):
        for phase, part in enumerate(group["phases"]):
            rate = rates[index, phase]
            if np.isnan(rate):
                text, colour = "solved" if part.get("solved") else "frozen", "#666666"
            else:
                share = part["trained_parameters"] / max(1, group["parameters"])
                text = f"{rate:.1e}" if share >= 1 else f"{rate:.1e}  ({_percent(share)})"
                red, green, blue, _ = image.cmap(image.norm(rate))
                # Relative luminance: at 0.18 black and white text have the same contrast.
                colour = "black" if 0.21 * red**2.2 + 0.72 * green**2.2 + 0.07 * blue**2.2 > 0.18 else "white"
            axes.text(phase, index, text, ha="center", va="center", fontsize=7.5, color=colour)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def _phase_title(phase: Mapping[str, Any]) -> str:
    name = shortened(str(phase["name"]), 20)
    if phase.get("head_solver"):
        return f"{name}\nno steps"
    if phase.get("start_step") is None or phase.get("end_step") is None:
        return name
    if phase.get("planned_steps") and phase["start_step"] == phase["end_step"]:
        return f"{name}\nnot reached"
    return f"{name}\nsteps {phase['start_step']:,} to {phase['end_step']:,}"


def _compact(count: int) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return str(count)


def worst_mistakes(images: Sequence[Image.Image], rows: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Draw the most confident errors, at most twelve, most confident first.

    Args:
        images: One for each row; of any size and mode.
        rows: "name", "label", "prediction" (both as label names) and "confidence" (0 to 1); right ones are left out.
        path: The PNG file to write.

    Returns:
        The path, or None if nothing is wrong.
    """
    if len(images) != len(rows):
        raise ArgumentError(f"Expected one image for each of {len(rows)} rows, found {len(images)}.")
    wrong = [pair for pair in zip(images, rows, strict=True) if pair[1]["label"] != pair[1]["prediction"]]
    wrong.sort(key=lambda pair: -pair[1]["confidence"])
    if not wrong:
        return None
    shown = wrong[:_MISTAKES]
    columns = min(4, len(shown))
    lines = math.ceil(len(shown) / columns)
    with new_figure(path, 2.0 * columns, 2.55 * lines + 0.3) as figure:
        figure.suptitle("Most confident mistakes", fontsize=10, fontweight="bold", x=0.01, ha="left")
        cells = figure.subplots(lines, columns, squeeze=False).flat
        for axes in cells:
            axes.set_axis_off()
        for axes, (image, row) in zip(figure.axes, shown, strict=False):
            _draw_mistake(axes, image, row)
    return path


def _draw_mistake(axes: Axes, image: Image.Image, row: Mapping[str, Any]) -> None:
    small = image.convert("RGB")
    small.thumbnail((288, 288))
    axes.imshow(np.asarray(small), interpolation="nearest" if max(small.size) < 64 else "antialiased")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_box_aspect(1)
    title = (
        f"{shortened(str(row['prediction']), 20)}  {row['confidence']:.0%}\ntrue: {shortened(str(row['label']), 20)}"
    )
    axes.set_title(title, fontsize=8.5, fontweight="normal", color=INK)
    axes.text(
        0,
        -0.03,
        shortened(str(row["name"]), 28, keep_end=True),
        transform=axes.transAxes,
        va="top",
        fontsize=6.5,
        color="#666666",
    )
