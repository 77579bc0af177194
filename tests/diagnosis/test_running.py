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
from hf_transfer.diagnosis.measurements import Measurements
from hf_transfer.diagnosis.trial_runs import ENOUGH, TrialRuns, folds_of, shorter_plan
from hf_transfer.errors import ArgumentError, DataError
from tests.helpers import tiny
from tests.helpers.diagnosed import measured
from tests.helpers.training import RandomImages

UNCLEAR = {"gain": (0.0, -0.1, 0.1)}


def measuring(monkeypatch: pytest.MonkeyPatch, evidence: Measurements) -> None:
    monkeypatch.setattr(running, "measure", lambda *_args, **_options: evidence)


class Fake:
    """In the place of `TrialRuns`: everything is right half of the time, fine-tuning of all layers always."""

    made = 0

    def __init__(self, *_args: Any, **_options: Any) -> None:
        Fake.made += 1

    def __call__(self, candidate: Candidate, share: float) -> Any:
        return np.full(100, candidate.name == "LP-FT of all layers") | (np.arange(100) < 50)


@pytest.mark.parametrize(("budget", "tried"), [(None, False), (1e6, True)])
def test_undecided_is_tried_if_there_is_time(budget: Any, tried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a budget the assumption stands; with one the winner of the trials is chosen, with its own accuracy."""
    evidence = measured(**UNCLEAR)
    measuring(monkeypatch, evidence)
    monkeypatch.setattr(running, "TrialRuns", Fake)
    found = ht.diagnose(tiny.vit(), None, None, budget)
    assert (found.trials is not None) is tried
    if found.trials is None:
        assert found.decision == decide(evidence)
        return
    assert found.decision.chosen.name == found.trials.winner == "LP-FT of all layers"
    assert found.decision.chosen.accuracy == 1.0 and found.decision.chosen.measured
    assert found.plan == ht.recipes.get("lp_ft", **found.decision.options)
    assert "Trials: LP-FT of all layers has 1.000" in found.reasons[-1]
    assert {each.name for each in found.trials.trials} >= {"training of all layers", "linear probe on the last layer"}
    assert found.evidence == evidence


def test_what_is_settled_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is left to gain a budget is not touched."""
    evidence = measured(per_class=5, last=1.0, earlier=(-0.5, 0.001))
    assert decide(evidence).settled
    measuring(monkeypatch, evidence)
    monkeypatch.setattr(running, "TrialRuns", Fake)
    before = Fake.made
    assert ht.diagnose(tiny.vit(), None, None, 1e6).trials is None
    assert Fake.made == before


def test_scratch_is_tried_only_where_similarity_is_open() -> None:
    """Similar data need no control; probes that no checkpoint can hold need to be allowed."""
    similar, unclear = measured(joined=0.1), measured(joined=0.1, **UNCLEAR)
    names = [each.recipe for each in running.candidates_to_try(similar, decide(similar))]
    assert "from_scratch" not in names
    tried = running.candidates_to_try(unclear, decide(unclear))
    assert "from_scratch" in [each.recipe for each in tried] and "all" not in [each.layer for each in tried]
    allowed = running.candidates_to_try(unclear, decide(unclear, allow_probe_file=True))
    assert "all" in [each.layer for each in allowed]
    assert [each.trained for each in allowed] == sorted(each.trained for each in allowed)


def test_a_budget_of_nothing_is_refused() -> None:
    """The message says what a budget is, before anything is computed."""
    with pytest.raises(ArgumentError, match="number of seconds above 0"):
        ht.diagnose(tiny.vit(), None, None, 0)


def test_folds() -> None:
    """Few images are all held out once, many a fifth of them; classes keep their shares; no pair, no trial."""
    few = folds_of(np.arange(30) % 3, 0)
    assert len(few) == 5 and sorted(np.concatenate([held for _, held in few])) == list(range(30))
    many = folds_of(np.arange(ENOUGH) % 4, 0)
    assert len(many) == 1 and list(np.bincount(np.arange(ENOUGH)[many[0][1]] % 4)) == [50, 50, 50, 50]
    assert len(folds_of(np.array([0, 0, 0, 1, 2]), 0)) == 3
    with pytest.raises(DataError, match="two images"):
        folds_of(np.arange(3), 0)


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
    runs = TrialRuns(model, RandomImages(60), seed=0)
    probe = Candidate("probe", "linear_probe", trained=HEAD)
    options = {"epochs": 4, "learning_rate": 1e-2}
    tuned = Candidate(
        "tuned", "fine_tune", options, {"train_batch_size": 8, "augmentation": "none"}, trained=EVERYTHING
    )
    for candidate in (probe, tuned):
        hits = runs(candidate, 1.0)
        assert hits.shape == (60,) and hits.dtype == bool and hits.mean() > 0.6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
