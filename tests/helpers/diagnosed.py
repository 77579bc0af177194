"""Hand-built measurements for tests of what is decided on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hf_transfer.diagnosis.measurements import (
    ALL,
    LAST,
    CurvePoint,
    DataFindings,
    LayerMeasurement,
    MeasuredInterval,
    Measurements,
    PassCosts,
)

COSTS = PassCosts(forward_seconds=0.01, train_seconds=0.04, recipes={})


def measured(
    per_class: float = 50,
    classes: int = 10,
    *,
    last: float = 0.8,
    earlier: tuple[float, float] = (-0.05, 0.01),
    random: float = 0.5,
    gain: tuple[float, float, float] | None = None,
    slope: tuple[float, float, float] | None = (0.2, 0.15, 0.3),
    gap: float = 0.2,
    native: bool = True,
    joined: float | None = None,
    pretrained: bool = True,
    **changes: Any,
) -> Measurements:
    """Measurements of a network with three blocks, of which the second is the best.

    Args:
        per_class: Training images of each class.
        classes: Number of classes.
        last: Accuracy on the last layer.
        earlier: What the second block gains over it, and its standard error.
        random: Best accuracy with random weights.
        gain: Gain of the last layer over random weights with its bounds; None computes it, with bounds of 0.1.
        slope: Of the learning curve, with its bounds; None for one that was not measured.
        gap: Between training and held-out accuracy.
        native: Whether an ordinary checkpoint can end at the second block.
        joined: What all layers joined gain over the last; None leaves them out.
        pretrained: Whether there are pretrained weights.
        changes: Other fields.
    """
    images = round(per_class * classes)
    difference, error = earlier
    best = max(difference, 0.0)
    behind = {"block.0": 0.3 + best, "block.1": best - difference, "block.2": 0.1 + best, LAST: best}
    errors = {"block.0": 0.02, "block.1": 0.0 if difference > 0 else error, "block.2": 0.02}
    errors[LAST] = error if difference > 0 else 0.0
    layers = [_layer(name, last + best - behind[name], behind[name], errors[name], random) for name in behind]
    layers[1] = replace(layers[1], native=native)
    if joined is not None:
        layers.append(replace(_layer(ALL, last + joined, best - joined, error, None), native=False))
    value = (last - random) / (1 - random) if random < 1 else 0.0
    known = (value, value - 0.1, value + 0.1) if gain is None else gain
    fields: dict[str, Any] = {
        "images": images,
        "sample": min(images, 2000),
        "classes": classes,
        "smallest_class": int(per_class),
        "estimate": "leave-one-out",
        "layers": tuple(layers),
        "gain_over_random": MeasuredInterval(*known) if pretrained else None,
        "gain_of_earlier": MeasuredInterval(difference, difference - 1.96 * error, difference + 1.96 * error),
        "curve": (CurvePoint(max(images // 2, 1), last - 0.05, 0.01), CurvePoint(images, last, 0.01)),
        "slope": None if slope is None else MeasuredInterval(*slope),
        "gap": gap,
        "data": DataFindings({str(index): int(per_class) for index in range(classes)}),
        "costs": COSTS,
        "pretrained": pretrained,
    }
    return Measurements(**(fields | changes))


def _layer(
    name: str, accuracy: float, behind_best: float, behind_best_error: float, random: float | None
) -> LayerMeasurement:
    inside = min(max(accuracy, 0.0), 1.0)
    return LayerMeasurement(name, 16, inside, 0.02, 0.97, behind_best, behind_best_error, random)
