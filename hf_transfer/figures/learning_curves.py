"""The figure of losses and accuracies over the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hf_transfer.errors import ArgumentError
from hf_transfer.figures.style import BLUE, GREEN, INK, ORANGE, new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_DOTS: Mapping[str, Any] = MappingProxyType({"linewidth": 1.4, "marker": "o", "markersize": 4, "clip_on": False})
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
