"""The figure of the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_transfer.figures.style import EMPTY, INK, colour_map, new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hf_transfer.evaluation import EvaluationReport


_ANNOTATED_CLASSES = 20
_TICKS = 50


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
