"""Figures of a run as PNG files: learning curves, confusion matrix, layer plan, worst mistakes.

Every function takes plain data and a path, and returns the path, or None where there is nothing to draw. Matplotlib's
object interface is used throughout: no window, no global figure, and its settings are restored afterwards. A figure
that cannot be written is an OutputError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.figures.style import EMPTY, colour_map, new_figure, shortened

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from hf_transfer.evaluation.scores import FloatArray


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
