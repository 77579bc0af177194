"""The figure of a diagnosis: accuracy by depth, with pretrained and with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_transfer.evaluation.tables import METRIC_TITLES
from hf_transfer.figures.style import BLUE, GREEN, INK, ORANGE, new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ALL = "all"  # the row of all layers joined
_BAND = 1.96


def accuracy_by_depth(measurements: Mapping[str, Any], path: Path, chosen: str | None = None) -> Path:
    """Draw the held-out accuracy of a linear classifier on each layer, from input to output.

    Args:
        measurements: What was measured, as plain data: "layers", "pretrained", "sample", "classes", and where known
            "metric" and "data".
        path: The PNG file to write.
        chosen: The layer that the chosen recipe's head reads; it is marked. None marks nothing.

    Raises:
        OutputError: The file cannot be written.
    """
    layers = [each for each in measurements["layers"] if each["layer"] != _ALL]
    joined = next((each for each in measurements["layers"] if each["layer"] == _ALL), None)
    sample = measurements["sample"]
    with new_figure(path, max(5.0, 1.8 + 0.5 * len(layers)), 4.0) as figure:
        axes = figure.subplots()
        trained = "pretrained" if measurements["pretrained"] else "random weights"
        _draw(axes, [each["accuracy"] for each in layers], [each["standard_error"] for each in layers], BLUE, trained)
        known = [
            (at, each["random_accuracy"]) for at, each in enumerate(layers) if each["random_accuracy"] is not None
        ]
        if known and measurements["pretrained"]:
            places, values = zip(*known, strict=True)
            # The same images, so the error is about that of an accuracy of this size.
            errors = [(value * (1 - value) / max(sample, 1)) ** 0.5 for value in values]
            _draw(axes, values, errors, ORANGE, "random weights", places)
        if joined is not None:
            axes.axhline(
                joined["accuracy"], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="all layers joined"
            )
        _mark(axes, layers, chosen)
        axes.axhline(_chance(measurements), color="#aaaaaa", linewidth=0.9, linestyle=(0, (1, 2)), label="chance")
        names = [shortened(name, 22, keep_end=True) for name in short_names([each["layer"] for each in layers])]
        turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(layers) > 5 else {}
        axes.set_xticks(range(len(layers)), names, **turned)
        axes.set_xlabel("layer, from input to output")
        axes.set_ylim(0, 1)
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)
        title = METRIC_TITLES.get(measurements.get("metric", "accuracy"), "Accuracy")
        axes.set_title(f"{title} by depth, {sample:,} images held out in turn (bands: 95 %)")
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return path


def _chance(measurements: Mapping[str, Any]) -> float:
    """What a classifier has that always names the largest class."""
    counts = list((measurements.get("data") or {}).get("class_counts", {}).values())
    if not counts or measurements.get("metric", "accuracy") != "accuracy":
        return 1 / float(measurements["classes"])
    return float(max(counts) / sum(counts))


def short_names(layers: Sequence[str]) -> list[str]:
    """Names of layers without the first part, where that is the same for all that have several."""
    parts = [name.split(".") for name in layers]
    several = [each for each in parts if len(each) > 1]
    if len({each[0] for each in several}) != 1 or min(map(len, several)) < 3:
        return list(layers)
    return [".".join(each[1:]) if len(each) > 1 else each[0] for each in parts]


def _draw(
    axes: Axes,
    values: Sequence[float],
    errors: Sequence[float],
    colour: str,
    label: str,
    places: Sequence[int] | None = None,
) -> None:
    at = list(range(len(values))) if places is None else list(places)
    low = [max(value - _BAND * error, 0.0) for value, error in zip(values, errors, strict=True)]
    high = [min(value + _BAND * error, 1.0) for value, error in zip(values, errors, strict=True)]
    axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(at, values, color=colour, linewidth=1.4, marker="o", markersize=4, label=label)


def _mark(axes: Axes, layers: Sequence[Mapping[str, Any]], chosen: str | None) -> None:
    found = [(at, each) for at, each in enumerate(layers) if each["layer"] == chosen]
    for at, layer in found:
        axes.plot(
            [at], [layer["accuracy"]], "o", markersize=11, fillstyle="none", color=GREEN, markeredgewidth=1.8,
            label="read by the chosen head", zorder=3,
        )  # fmt: skip
        axes.annotate(
            f"{layer['accuracy']:.3f}", (at, layer["accuracy"]), xytext=(0, 9), textcoords="offset points", ha="center"
        )
