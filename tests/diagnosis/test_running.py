"""`diagnose`: measuring, deciding, and trials where these are not enough and there is time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import hf_transfer as ht
from hf_transfer.diagnosis import running
from hf_transfer.diagnosis.candidates import EVERYTHING, HEAD, Candidate
from hf_transfer.diagnosis.decide import decide
from hf_transfer.diagnosis.holding_out import HeldOutRows, hold_out
from hf_transfer.diagnosis.measurements import Measurements
from hf_transfer.diagnosis.trial_runs import TrialRuns, shorter_plan
from hf_transfer.errors import ArgumentError
from hf_transfer.phases.kept_weights import Member, choose_member
from tests.helpers import tiny
from tests.helpers.diagnosed import measured
from tests.helpers.training import RandomImages

UNCLEAR = {"gain": (0.0, -0.1, 0.1)}


def measuring(monkeypatch: pytest.MonkeyPatch, evidence: Measurements) -> None:
    monkeypatch.setattr(running, "measure", lambda *_args, **_options: evidence)


GOOD, HALF = np.arange(100) < 98, np.arange(100) < 50
ROWS = HeldOutRows(((np.arange(50), np.arange(50)), (np.arange(50), np.arange(50))), np.zeros(100, np.int64))


def _logits(right: np.ndarray) -> np.ndarray:
    return 3.0 * np.stack([right, ~right], axis=1)


class Fake:
    """In the place of `TrialRuns`: half is right, and nearly all for the candidates named, at a training's end."""

    good: tuple[str, ...] = ("LP-FT of all layers",)
    broken: tuple[str, ...] = ()

    def __init__(self, *_args: Any, **_options: Any) -> None:
        self.kept: dict[tuple[str, float], Any] = {}
        self.runs: list[tuple[str, float]] = []

    def __call__(self, candidate: Candidate, share: float) -> Any:
        self.runs.append((candidate.name, share))
        logits = _logits(GOOD if candidate.name in self.good else HALF)
        if candidate.trained != HEAD:
            members = [Member(0.0), Member(1.0)]
            self.kept[candidate.name, share] = choose_member(members, [_logits(HALF), logits], ROWS.labels, "accuracy")
        return logits

    def broke_down(self, name: str) -> bool:
        return name in self.broken


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trials without training, on two folds of 50 images."""
    monkeypatch.setattr(running, "TrialRuns", Fake)
    monkeypatch.setattr(running, "hold_out", lambda *_: ROWS)
    monkeypatch.setattr(running, "labels_and_names", lambda *_: (ROWS.labels, None))
    monkeypatch.setattr(Fake, "good", ("LP-FT of all layers",))
    monkeypatch.setattr(Fake, "broken", ())
    return Fake


@pytest.mark.parametrize(("budget", "tried"), [(None, False), (1e6, True)])
def test_all_are_tried_if_there_is_time(budget: Any, tried: bool, monkeypatch: pytest.MonkeyPatch, fake: Any) -> None:
    """Without a budget the assumption stands; with one the winner of the trials is chosen, with its own accuracy."""
    evidence = measured(**UNCLEAR)
    measuring(monkeypatch, evidence)
    found = ht.diagnose(tiny.vit(), None, None, budget)
    assert (found.trials is not None) is tried
    if found.trials is None:
        assert found.decision == decide(evidence)
        return
    assert found.decision.chosen.name == found.trials.winner == "LP-FT of all layers"
    assert found.decision.chosen.accuracy == 0.98 and found.decision.chosen.measured
    assert found.plan == ht.recipes.get("lp_ft", **found.decision.options)
    assert "LP-FT of all layers is chosen; accuracy 0.980" in found.reasons[-1]
    assert {each.name for each in found.trials.trials} >= {"training of all layers", "linear probe on the last layer"}
    assert found.evidence == evidence
    assert found.trials.follow == Member(1.0), "on folds the weights to keep are found out as well"


def test_of_few_images_the_choice_is_verified_on_folds(monkeypatch: pytest.MonkeyPatch, fake: Any) -> None:
    """The chosen training is run in full on each fold, and no other while it is sound."""
    evidence = measured()
    measuring(monkeypatch, evidence)
    chosen = decide(evidence).chosen
    monkeypatch.setattr(fake, "good", (chosen.name,))
    found = ht.diagnose(tiny.vit(), None, None, "auto")
    assert found.decision.chosen.name == chosen.name and found.trials is not None
    trained = {each.name for each in found.trials.trials if "LP-FT" in each.name}
    assert trained == {chosen.name} and found.trials.follow == Member(1.0)


def test_a_training_that_is_of_no_use_ends_at_the_solved_head(monkeypatch: pytest.MonkeyPatch, fake: Any) -> None:
    """Where nothing of it is better on the folds, a lower rate is tried, and then the solved head is the result."""
    measuring(monkeypatch, measured())
    monkeypatch.setattr(fake, "good", ())
    found = ht.diagnose(tiny.vit(), None, None, "auto")
    assert found.trials is not None and found.decision.recipe == "linear_probe"
    assert any("lower rate" in each.name for each in found.trials.trials)


def test_a_training_that_broke_down_gives_way_to_a_lower_rate(monkeypatch: pytest.MonkeyPatch, fake: Any) -> None:
    """One that had to go back to its start on a fold is compared with the lower rate."""
    evidence = measured()
    measuring(monkeypatch, evidence)
    chosen = decide(evidence).chosen
    lower = next(each for each in decide(evidence).candidates if "lower rate" in each.name)
    monkeypatch.setattr(fake, "broken", (chosen.name,))
    monkeypatch.setattr(fake, "good", (lower.name,))
    assert ht.diagnose(tiny.vit(), None, None, "auto").decision.chosen.name == lower.name


def test_of_many_images_the_training_verifies_itself(monkeypatch: pytest.MonkeyPatch, fake: Any) -> None:
    """Only solved heads are tried beforehand; the choice of the measurements stands, and a sentence says why."""
    evidence = measured()
    measuring(monkeypatch, evidence)
    monkeypatch.setattr(running, "hold_out", lambda *_: HeldOutRows(ROWS.folds[:1] * 1, ROWS.labels))
    found = ht.diagnose(tiny.vit(), None, None, "auto")
    assert found.decision.chosen == decide(evidence).chosen and found.trials is not None
    assert all("linear probe" in each.name for each in found.trials.trials)
    assert "is looked at on them while it runs" in found.reasons[-1]


def test_a_budget_of_nothing_chooses_among_solved_heads(monkeypatch: pytest.MonkeyPatch, fake: Any) -> None:
    """0 seconds train no layer; what is no number is refused before anything is computed."""
    measuring(monkeypatch, measured())
    assert ht.diagnose(tiny.vit(), None, None, 0).decision.recipe == "linear_probe"
    for wrong in (-1, "much", True):
        with pytest.raises(ArgumentError, match="number of seconds"):
            ht.diagnose(tiny.vit(), None, None, wrong)


def test_scratch_is_tried_only_where_similarity_is_open() -> None:
    """Similar data need no control; probes that no checkpoint can hold need to be allowed."""
    similar, unclear = measured(joined=0.1), measured(joined=0.1, **UNCLEAR)
    names = [each.recipe for each in running.candidates_to_try(similar, decide(similar), 60)]
    assert "from_scratch" not in names
    tried = running.candidates_to_try(unclear, decide(unclear), 60)
    assert "from_scratch" in [each.recipe for each in tried] and "all" not in [each.layer for each in tried]
    allowed = running.candidates_to_try(unclear, decide(unclear, allow_probe_file=True), 60)
    assert "all" in [each.layer for each in allowed]
    assert [each.trained for each in allowed] == sorted(each.trained for each in allowed)


def test_plans_are_shortened_phase_by_phase() -> None:
    """Epochs and steps are scaled, at least one step is left, and what has no length keeps none."""
    phases = (ht.Phase("a", "head", epochs=4), ht.Phase("b", "all", max_steps=1), ht.Phase("c", "all"))
    found = shorter_plan(ht.TransferPlan(phases), 0.25)
    assert [(each.epochs, each.max_steps) for each in found.phases] == [(1.0, None), (None, 1), (None, None)]


@pytest.mark.slow
def test_real_trials_judge_on_what_was_not_trained_on() -> None:
    """A probe and a training of a tiny network learn brightness, answer for each image, and leave the model alone."""
    torch.manual_seed(0)
    model = tiny.vit()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = hold_out(RandomImages(60), RandomImages(60).labels.numpy())
    runs = TrialRuns(model, RandomImages(60), None, rows)
    probe = Candidate("probe", "linear_probe", trained=HEAD)
    options = {"epochs": 4, "learning_rate": 1e-2}
    tuned = Candidate(
        "tuned", "fine_tune", options, {"train_batch_size": 8, "augmentation": "none"}, trained=EVERYTHING
    )
    for candidate in (probe, tuned):
        logits = runs(candidate, 1.0)
        assert logits.shape == (60, 3) and (logits.argmax(1) == rows.labels).mean() > 0.6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
