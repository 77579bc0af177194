"""The report of the grid: no case has a part in its own choice, and errors are those of the same images."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "grid_report.py"


@pytest.fixture(scope="module")
def grid_report() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("grid_report", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["grid_report"] = module
    spec.loader.exec_module(module)
    return module


def _row(family: str, candidate: str, right: int, seed: int = 0) -> dict[str, Any]:
    """A run in which the first of 16 images are right."""
    bits = "1" * right + "0" * (16 - right)
    metrics = {"balanced_accuracy": right / 16, "log_loss": 1.0, "right": f"{int(bits, 2):04x}"}
    row = {"data_set": family, "family": family, "per_class": 10, "network": "lite0", "test_images": 16, "seed": seed}
    way = {} if candidate == "probe_last" else {"by_epoch": {"2": metrics, "10": metrics, "7": metrics}}
    return row | {"candidate": candidate, "test": metrics, "mean": metrics, "cpu_seconds": 1.0, **way}


def _rows(**right: dict[str, int]) -> list[dict[str, Any]]:
    return [_row(family, name, count) for family, found in right.items() for name, count in found.items()]


def test_a_case_has_no_part_in_its_own_choice(grid_report: ModuleType) -> None:
    """Where all others gain by a candidate, it is chosen for the one case in which it loses."""
    others = {"probe_last": 8, "half_1e-3": 12, "all_1e-3": 9}
    rows = _rows(a=others, b=others, c={"probe_last": 8, "half_1e-3": 1, "all_1e-3": 15})
    points, families = grid_report.means(rows), {grid_report.case_of(row): row["family"] for row in rows}
    assert grid_report.choose(points, families, ("c", 10, "lite0")) == "half_1e-3"


def test_nothing_is_chosen_by_one_family_alone(grid_report: ModuleType) -> None:
    """One other family of data sets is no evidence."""
    rows = _rows(a={"probe_last": 8, "half_1e-3": 12}, b={"probe_last": 8, "half_1e-3": 12})
    points, families = grid_report.means(rows), {grid_report.case_of(row): row["family"] for row in rows}
    assert grid_report.choose(points, families, ("b", 10, "lite0")) is None


def test_the_error_is_that_of_the_same_images(grid_report: ModuleType) -> None:
    """Of two candidates that differ in 4 of 16 images the error is that of the differences; of equals it is 0."""
    rows = [_row("a", "probe_last", 8), _row("a", "half_1e-3", 12)]
    case = grid_report.case_of(rows[0])
    expected = 100 * math.sqrt((4 / 16 - (4 / 16) ** 2) / 16)
    assert grid_report.paired_error(rows, case, "probe_last", "half_1e-3") == pytest.approx(expected)
    assert grid_report.paired_error(rows, case, "probe_last", "probe_last") == 0


def test_the_report_tells_what_is_behind(grid_report: ModuleType) -> None:
    """A choice more than a point behind is listed with its distance, and the way of a training is in its order."""
    others = {"probe_last": 8, "half_1e-3": 12, "all_1e-3": 9}
    text = grid_report.report(_rows(a=others, b=others, c={"probe_last": 8, "half_1e-3": 7, "all_1e-3": 15}))
    assert "- c 10 lite0: half_1e-3, 50.0 ± 12.5 points behind all_1e-3; -6.2 over the probe." in text
    assert "| half_1e-3 | 3 | +0.0, ×1.00 |" in text
