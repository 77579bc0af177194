"""Successive halving with a fake runner and a fake clock: what goes on, what wins, and what a budget stops."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest

from hf_transfer.diagnosis.candidates import EVERYTHING, HEAD, PART, Candidate
from hf_transfer.diagnosis.trials import Hits, Trials, halve
from hf_transfer.errors import ArgumentError

IMAGES = 1000
FOUND = (
    Candidate("probe", "linear_probe", seconds=1.0),
    Candidate("part", "lp_ft", trained=PART, seconds=40.0),
    Candidate("all", "lp_ft", trained=EVERYTHING, seconds=80.0),
    Candidate("scratch", "from_scratch", trained=EVERYTHING, seconds=80.0),
)


class Fake:
    """Runs candidates of known accuracy, which rises with the length, and counts what was run."""

    def __init__(self, accuracies: Mapping[str, float]) -> None:
        self.accuracies = accuracies
        self.now = 100.0
        self.runs: list[tuple[str, float]] = []

    def clock(self) -> float:
        return self.now

    def __call__(self, candidate: Candidate, share: float) -> Hits:
        self.now += (candidate.seconds or 0.0) * share
        self.runs.append((candidate.name, share))
        accuracy = self.accuracies[candidate.name] - (0.0 if candidate.trained == HEAD else 0.05 * (1 - share))
        # Solved heads are wrong on other images than trained models.
        places = np.arange(IMAGES)[::-1] if candidate.trained == HEAD else np.arange(IMAGES)
        return places < round(accuracy * IMAGES)


def test_halving_drops_the_worse_half_and_ends_in_full() -> None:
    """Three trainings become two and one; the linear classifier runs once; the best wins when it is clearly better."""
    run = Fake({"probe": 0.7, "part": 0.8, "all": 0.85, "scratch": 0.5})
    found = halve(FOUND, run, 1e6, run.clock)
    assert run.runs == [
        ("probe", 1.0),
        ("part", 0.25),
        ("all", 0.25),
        ("scratch", 0.25),
        ("part", 0.5),
        ("all", 0.5),
        ("all", 1.0),
    ]
    assert (found.winner, found.complete, found.images) == ("all", True, IMAGES)
    assert found.best.accuracy == 0.85
    assert found.seconds == pytest.approx(1 + 10 + 20 + 20 + 20 + 40 + 80)


def test_the_cheapest_within_one_standard_error_wins() -> None:
    """Of 1,000 images 310 to 330 are right for one of two alone: a standard error of 1.8 points."""
    near = Fake({"probe": 0.84, "part": 0.6, "all": 0.85, "scratch": 0.5})
    assert halve(FOUND, near, 1e6, near.clock).winner == "probe"
    far = Fake({"probe": 0.82, "part": 0.6, "all": 0.85, "scratch": 0.5})
    assert halve(FOUND, far, 1e6, far.clock).winner == "all"


def test_a_budget_stops_before_what_would_not_end_in_time() -> None:
    """Nothing begins that would end after the budget; what was reached is judged, and said to be incomplete."""
    run = Fake({"probe": 0.7, "part": 0.8, "all": 0.85, "scratch": 0.5})
    found = halve(FOUND, run, 35.0, run.clock)
    assert run.runs == [("probe", 1.0), ("part", 0.25), ("all", 0.25)]
    assert (found.winner, found.complete) == ("all", False)
    assert found.seconds <= 35.0
    assert "did not suffice" in found.sentence()


def test_the_first_trial_is_always_run() -> None:
    """A budget below everything still gives a winner."""
    run = Fake(dict.fromkeys(("probe", "part", "all", "scratch"), 0.5))
    assert halve(FOUND, run, 0.1, run.clock).winner == "probe"


def test_json_round_trip_and_bad_input() -> None:
    """Trials are read back equal; no candidates, no time and broken data raise."""
    run = Fake({"probe": 0.7, "part": 0.8, "all": 0.85, "scratch": 0.5})
    found = halve(FOUND, run, 1e6, run.clock)
    assert Trials.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert "part" in found.table()
    for candidates, budget in (((), 1.0), (FOUND, 0.0)):
        with pytest.raises(ArgumentError, match="Trials need"):
            halve(candidates, run, budget, run.clock)
    with pytest.raises(ArgumentError, match="no trials"):
        Trials.from_dict({"trials": [{}]})
