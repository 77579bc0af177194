"""The figure of a learning-rate range test: losses of trial steps over the learning rate, a panel for each phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_transfer.figures.style import BLUE, INK, ORANGE, new_figure, shortened
from hf_transfer.phases.learning_rate_range import smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS_IN_A_ROW = 3
# Losses of the diverging end above this multiple of the first loss would leave no height for the valley.
_HEIGHT = 1.6


def learning_rate_range(tests: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Draw the losses of each range test, smoothed ones over them, and the rate that was chosen.

    Args:
        tests: Results of `RangeTest.to_dict`.
        path: The PNG file to write.

    Returns:
        The path, or None where no step was tried.
    """
    drawn = [test for test in tests if test["losses"]]
    if not drawn:
        return None
    columns = min(_PANELS_IN_A_ROW, len(drawn))
    rows = -(-len(drawn) // columns)
    with new_figure(path, 4.6 * columns, 3.4 * rows) as figure:
        cells = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, test in zip(cells, drawn, strict=False):
            _draw(axes, test)
        for axes in cells[len(drawn) :]:
            axes.set_axis_off()
    return path


def _draw(axes: Axes, test: Mapping[str, Any]) -> None:
    rates, losses, mean = test["rates"], test["losses"], smooth(test["losses"])
    axes.plot(rates, losses, color=BLUE, linestyle="none", marker=".", markersize=4, label="training loss")
    axes.plot(rates, mean, color=ORANGE, linewidth=1.4, label="smoothed")
    axes.set_xscale("log")
    highest = _HEIGHT * max(mean[0], mean.min())
    axes.set_ylim(0, highest if highest > 0 else 1)
    chosen = test["learning_rate"]
    axes.axvline(chosen, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    word = "chosen" if test["chosen"] else "default"
    axes.annotate(
        f"{word} {chosen:.2g}",
        (chosen, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-3, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
    )
    axes.set_xlabel("learning rate of pretrained layers")
    axes.set_title(shortened(f"Loss, {test['phase']}", 44))
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.legend(loc="lower left")
