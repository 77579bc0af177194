"""Measurements are checked on construction and survive a round trip through JSON."""

from __future__ import annotations

import json

import pytest

from hf_transfer.diagnosis.measurements import (
    CurvePoint,
    DataFindings,
    LayerMeasurement,
    MeasuredInterval,
    Measurements,
    PassCosts,
)
from hf_transfer.errors import ArgumentError


def measurements(images: int = 200, classes: int = 2) -> Measurements:
    """A complete set of measurements."""
    return Measurements(
        images=images,
        sample=100,
        classes=classes,
        smallest_class=40,
        estimate="leave-one-out",
        layers=(
            LayerMeasurement("block.0", 8, 0.7, 0.04, 0.8, 0.05, 0.02, 0.6),
            LayerMeasurement("last", 16, 0.75, 0.04, 0.9, 0.0, 0.0, 0.5, native=True),
        ),
        gain_over_random=MeasuredInterval(0.4, 0.2, 0.6),
        gain_of_earlier=MeasuredInterval(-0.05, -0.1, 0.0),
        curve=(CurvePoint(50, 0.7, 0.05), CurvePoint(100, 0.75, 0.04)),
        slope=MeasuredInterval(0.16, 0.0, 0.3),
        gap=0.15,
        data=DataFindings({"a": 100, "b": 100}, ((3, "b"),), ((1, 2),), 50, 1.0, 0.5),
        costs=PassCosts(0.01, 0.03, {"linear_probe": 2.0}),
    )


def test_round_trip_through_json() -> None:
    """What was measured is read back equal."""
    original = measurements()
    assert Measurements.from_dict(json.loads(json.dumps(original.to_dict()))) == original


@pytest.mark.parametrize(("images", "classes"), [(99, 2), (200, 1), (200, 101)])
def test_impossible_counts_are_refused(images: int, classes: int) -> None:
    """A sample larger than the data, one class, or more classes than images raise."""
    with pytest.raises(ArgumentError, match="Measurements need"):
        measurements(images, classes)


@pytest.mark.parametrize("change", [{"layers": []}, {"unknown": 1}, {"curve": [{"n": 1}]}, {"slope": {"value": 1}}])
def test_broken_data_are_refused(change: dict[str, object]) -> None:
    """Missing layers, unknown fields and broken parts raise our error."""
    with pytest.raises(ArgumentError):
        Measurements.from_dict(measurements().to_dict() | change)


def test_an_interval_holds_its_value() -> None:
    """Bounds on the wrong side, and values that are not finite, raise."""
    for broken in ((1.0, 2.0, 3.0), (float("nan"), 0.0, 1.0)):
        with pytest.raises(ArgumentError, match="interval"):
            MeasuredInterval(*broken)


def test_an_unknown_layer_is_refused_with_those_measured() -> None:
    """Asking for a layer that was not measured names the ones that were."""
    with pytest.raises(ArgumentError, match="block.0, last"):
        measurements().layer("block.7")
