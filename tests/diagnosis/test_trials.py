"""Successive halving with a fake runner and a fake clock: what goes on, what wins, and what a budget stops."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from hf_transfer.diagnosis.candidates import EVERYTHING, HEAD, PART, Candidate
from hf_transfer.diagnosis.trials import Logits, Trials, halve, winner_of
from hf_transfer.errors import ArgumentError
from hf_transfer.phases.kept_weights import Member

IMAGES = 1000
LABELS = np.zeros(IMAGES, np.int64)
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

    def __call__(self, candidate: Candidate, share: float) -> Logits:
        self.now += (candidate.seconds or 0.0) * share
        self.runs.append((candidate.name, share))
        accuracy = self.accuracies[candidate.name] - (0.0 if candidate.trained == HEAD else 0.05 * (1 - share))
        # Solved heads are wrong on other images than trained models.
        places = np.arange(IMAGES)[::-1] if candidate.trained == HEAD else np.arange(IMAGES)
        return _logits(places < round(accuracy * IMAGES))


def _logits(right: np.ndarray, sure: float = 2.0) -> Logits:
    """Of two classes, the first where a prediction is right."""
    return sure * np.stack([right, ~right], axis=1).astype(float)


def test_halving_drops_the_worse_half_and_ends_in_full() -> None:
    """Three trainings become two and one; the linear classifier runs once; the best wins when it is clearly better."""
    run = Fake({"probe": 0.7, "part": 0.8, "all": 0.85, "scratch": 0.5})
    found = halve(FOUND, run, LABELS, 1e6, run.clock)
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


def test_preference_decides_among_near_equals() -> None:
    """Of 1,000 images 310 to 330 are right for one of two alone: a standard error of 1.8 points."""
    near = Fake({"probe": 0.84, "part": 0.6, "all": 0.85, "scratch": 0.5})
    assert halve(FOUND, near, LABELS, 1e6, near.clock, prefer="fast").winner == "probe"
    assert halve(FOUND, near, LABELS, 1e6, near.clock, prefer="best").winner == "all"
    far = Fake({"probe": 0.80, "part": 0.6, "all": 0.85, "scratch": 0.5})
    assert halve(FOUND, far, LABELS, 1e6, far.clock, prefer="fast").winner == "all"


def test_the_lowest_log_loss_wins_within_one_error() -> None:
    """Of two that are right equally often the one that is unsure where it is wrong is chosen."""
    right = np.arange(IMAGES) < 800
    blunt = _logits(right)
    sharp = blunt * np.where(right, 1.0, 0.2)[:, None]
    assert winner_of([blunt, sharp], LABELS, "accuracy", "balanced") == 1
    assert winner_of([blunt, sharp], LABELS, "accuracy", "fast") == 0


def test_no_budget_for_training_tries_solved_heads_alone() -> None:
    """With 0 seconds nothing is trained; without a limit all rounds are run."""
    run = Fake({"probe": 0.7, "part": 0.8, "all": 0.85, "scratch": 0.5})
    assert halve(FOUND, run, LABELS, 0, run.clock).winner == "probe" and run.runs == [("probe", 1.0)]
    assert halve(FOUND, run, LABELS, None, run.clock).winner == "all"


def test_a_budget_stops_before_what_would_not_end_in_time() -> None:
    """Nothing begins that would end after the budget; what was reached is judged, and said to be incomplete."""
    run = Fake({"probe": 0.7, "part": 0.8, "all": 0.85, "scratch": 0.5})
    found = halve(FOUND, run, LABELS, 35.0, run.clock)
    assert run.runs == [("probe", 1.0), ("part", 0.25), ("all", 0.25)]
    assert (found.winner, found.complete) == ("all", False)
    assert found.seconds <= 35.0
    assert "did not suffice" in found.sentence()


def test_the_first_trial_is_always_run() -> None:
    """A budget below everything still gives a winner."""
    run = Fake(dict.fromkeys(("probe", "part", "all", "scratch"), 0.5))
    assert halve(FOUND, run, LABELS, 0.1, run.clock).winner == "probe"


def test_json_round_trip_and_bad_input() -> None:
    """Trials are read back equal, with the weights to follow; no candidates, no time and broken data raise."""
    run = Fake({"probe": 0.7, "part": 0.8, "all": 0.85, "scratch": 0.5})
    found = replace(halve(FOUND, run, LABELS, 1e6, run.clock), follow=Member(0.5), temperature=1.5)
    assert Trials.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert "part" in found.table()
    for candidates, budget in (((), 1.0), (FOUND, -1.0)):
        with pytest.raises(ArgumentError, match="Trials need"):
            halve(candidates, run, LABELS, budget, run.clock)
    with pytest.raises(ArgumentError, match="no trials"):
        Trials.from_dict({"trials": [{}]})
