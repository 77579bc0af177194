"""The figure of the worst mistakes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.errors import ArgumentError
from hf_transfer.figures.style import INK, new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image


_MISTAKES = 12


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
