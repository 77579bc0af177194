"""A plan's first phase solved: no steps, the solver's head, the same body, and the same again after resuming."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hf_transfer as ht
from hf_transfer.data import collate, eval_transform, train_transform
from hf_transfer.linear_probe.solving import solve_head
from hf_transfer.plans.plan import HEAD_SOLVERS
from hf_transfer.reporting.card import render_card
from hf_transfer.solvers import SOLVERS
from hf_transfer.trainer.record import bare_record, training_facts
from tests.helpers import tiny
from tests.helpers.card_records import section, tables_in
from tests.helpers.labelled_images import labelled_images, processor
from tests.helpers.training import RandomImages, arguments, logged


def _model() -> nn.Module:
    torch.manual_seed(0)
    return tiny.vit()


def _trainer(folder: Path, model: nn.Module | None = None, **options: Any) -> ht.TransferTrainer:
    plan = options.pop("plan", None) or ht.recipes.lp_ft()
    data = options.pop("train_dataset", None) or RandomImages()
    processing_class = options.pop("processing_class", None)
    args = arguments(folder, **options)
    return ht.TransferTrainer(
        model or _model(), args, collate, train_dataset=data, processing_class=processing_class, plan=plan
    )


class _FirstHead(nn.Module):
    """Keeps the head's weight of the first forward pass in training mode."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.weight: torch.Tensor | None = None
        model.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, model: Any, args: Any, kwargs: Any) -> None:
        if model.training and self.weight is None:
            self.weight = model.classifier.weight.detach().clone()


def test_the_phase_takes_no_steps_and_leaves_the_solvers_head(tmp_path: Path) -> None:
    """The second phase starts at step 0 from exactly the head that solve_head finds; plan and record say so."""
    expected: Any = _model()
    solution = solve_head(expected, RandomImages(), seed=42, progress=False)
    model = _model()
    seen = _FirstHead(model)
    trainer = _trainer(tmp_path, model)
    trainer.train()
    assert seen.weight is not None and torch.equal(seen.weight, expected.classifier.weight)
    assert trainer.state.global_step == 4 and logged(trainer, "phase") == [2.0] * 4
    facts = training_facts(trainer)
    probe, tune = facts["plan"]["phases"]
    assert (probe["start_step"], probe["end_step"], probe["head_solver"]) == (0, 0, "logistic")
    assert (tune["start_step"], tune["end_step"]) == (0, 4) and "head_solver" not in tune
    head, stem = facts["plan"]["groups"][-1]["phases"][0], facts["plan"]["groups"][0]["phases"][0]
    assert head["solved"] and head["learning_rate"] is None and not stem["solved"]
    assert facts["solved_phase"]["accuracy"] == solution.solved.accuracy
    assert ht.TransferPlan.from_dict(json.loads(json.dumps(facts["plan"]))).phases[0].head_solver == "logistic"


def test_resumed_runs_do_not_solve_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a checkpoint of the second phase a run ends in the weights of a whole one, and knows how it was solved."""
    whole = _trainer(tmp_path, save_strategy="steps", save_steps=2)
    whole.train()
    monkeypatch.setattr("hf_transfer.trainer.solved_phase.solve_head", None)
    resumed = _trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    assert training_facts(resumed)["solved_phase"] == training_facts(whole)["solved_phase"]
    assert [p.end for p in resumed.resolved_plan.phases] == [0, 4]


def test_a_changed_second_phase_begins_anew_behind_the_solved_one(tmp_path: Path) -> None:
    """With allow_plan_change the solved phase stays where it was, and is not solved again; a changed one is."""
    _trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    plans = (ht.recipes.lp_ft(layer_decay=0.5), ht.recipes.lp_ft(probe_solver="ridge"))
    for number, (plan, first) in enumerate(zip(plans, (0, 2), strict=True)):
        folder = shutil.copytree(tmp_path / "checkpoint-2", tmp_path / str(number) / "checkpoint-2")
        options: dict[str, Any] = {"plan": plan, "save_strategy": "steps", "save_steps": 2}
        changed = _trainer(folder.parent, allow_plan_change=True, **options)
        changed.train(resume_from_checkpoint=str(folder))
        expected = [(first, first, True), (2, 6, False)]
        assert [(p.start, p.end, p.solved) for p in changed.resolved_plan.phases] == expected
        solution = training_facts(changed)["solved_phase"]
        assert solution["solver"] == plan.phases[0].head_solver
        again = _trainer(folder.parent, **options)
        again.train(resume_from_checkpoint=str(folder.parent / "checkpoint-4"))
        assert [(p.start, p.end, p.solved) for p in again.resolved_plan.phases] == expected
        assert training_facts(again)["solved_phase"] == solution


def test_a_plan_without_a_solved_phase_does_not_inherit_one(tmp_path: Path) -> None:
    """With allow_plan_change a plan that only fine-tunes says nothing of a solved head."""
    _trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    other = _trainer(tmp_path, plan=ht.recipes.fine_tune(), allow_plan_change=True)
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert other.solved_phase is None and training_facts(other).get("solved_phase") is None


def test_solving_sees_images_without_augmentation(tmp_path: Path) -> None:
    """Under random augmentation of this package the head is that of the plain images."""
    images, data = processor(), labelled_images(30)
    expected: Any = _model()
    solve_head(expected, data.with_transform(eval_transform(images)), images, seed=42, progress=False)
    model = _model()
    seen = _FirstHead(model)
    augmented = data.with_transform(train_transform(images, "light"))
    trainer = _trainer(tmp_path, model, train_dataset=augmented, processing_class=images, cache_features="off")
    trainer.train()
    assert seen.weight is not None and torch.allclose(seen.weight, expected.classifier.weight, atol=1e-5)


class _Noisy(RandomImages):
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = super().__getitem__(index)
        return row | {"pixel_values": row["pixel_values"] + torch.randn(1)}


def _with_hidden_layer() -> nn.Module:
    model: Any = _model()
    model.classifier = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 3))
    return model


class _OwnLoss(ht.TransferTrainer):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


def test_what_would_take_too_long_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a number of images and classes the head is trained by steps, unless the solver streams them."""
    monkeypatch.setattr("hf_transfer.trainer.solved_phase._LARGEST_FIT", 32 * 16 * 3 - 1)
    for solver, steps in (("logistic", 4), ("ridge", 0)):
        plan = ht.TransferPlan((ht.Phase("probe", "head", epochs=1, head_solver=solver), ht.Phase("all", "all")))
        trainer = _trainer(tmp_path, plan=plan)
        trainer.train()
        assert trainer.resolved_plan.phases[0].steps == steps


@pytest.mark.parametrize(
    ("kind", "model", "data", "reason"),
    [
        (ht.TransferTrainer, _model, _Noisy, "transform is random"),
        (ht.TransferTrainer, _with_hidden_layer, RandomImages, "cannot hold an exact solution"),
        (_OwnLoss, _model, RandomImages, "loss of its own"),
        (ht.TransferTrainer, lambda: _model().bfloat16(), RandomImages, "not in float32"),
    ],
)
def test_what_cannot_be_solved_is_trained(
    kind: Any, model: Any, data: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The phase then takes its epochs by steps, and the log says why."""
    made = model()
    plan = ht.TransferPlan((ht.Phase("probe", "head", epochs=1, head_solver="ridge"), ht.Phase("all", "all")))
    trainer = kind(made, arguments(tmp_path), train_dataset=data(), plan=plan)
    if made.dtype == torch.bfloat16:
        trainer.data_collator = lambda rows: {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]).bfloat16(),
            "labels": torch.stack([row["labels"] for row in rows]),
        }
    with caplog.at_level(logging.WARNING, "hf_transfer"):
        trainer.train()
    assert logged(trainer, "phase") == [1.0] * 4 + [2.0] * 4
    assert reason in caplog.text
    assert "solved_phase" not in training_facts(trainer)


def test_a_head_that_fails_its_check_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A solution that the model does not reproduce leaves the head as it was before the phase."""
    from hf_transfer.errors import ModelError
    from hf_transfer.linear_probe import solving as head_solving

    def fail(*_arguments: Any) -> float:
        raise ModelError("not affine")

    monkeypatch.setattr(head_solving, "check_head", fail)
    model: Any = _model()
    before = copy.deepcopy(model.classifier.weight.detach())
    seen = _FirstHead(model)
    _trainer(tmp_path, model).train()
    assert seen.weight is not None and torch.equal(seen.weight, before)


def test_the_solvers_of_plans_are_those_there_are() -> None:
    """plan.py must not import the solvers, so it names them."""
    assert tuple(SOLVERS) == HEAD_SOLVERS


def test_card_and_table_tell_of_the_solution(tmp_path: Path) -> None:
    """describe() and the card say that the head was solved and by what, in place of a rate; steps are none."""
    model = _model()
    table = ht.recipes.lp_ft().describe(model, 1e-3)
    head = next(line for line in table.splitlines() if "  head " in line)
    assert head.split("  ")[-2].strip() == "solved (logistic)" and "0.002" in head
    trainer = _trainer(tmp_path, model)
    trainer.train()
    card = render_card(bare_record(trainer).to_dict())
    tables = tables_in(section(card, "What was trained"))
    assert tables[0][-2][4] == "solved" and tables[0][1][4] == "frozen" and tables[0][-2][5] != "solved"
    probe = dict(zip(tables[1][0], tables[1][1], strict=True))
    assert (probe["Solved by"], probe["Schedule"], probe["Steps"], probe.get("Epochs", "")) == (
        "logistic",
        "none",
        "0",
        "",
    )
    assert "In phase `linear probe` the head was solved exactly" in card and "| Solver | logistic |" in card


def test_the_card_tells_what_the_cache_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases with a cut, and their stored views of augmented images, are in the record and on the card."""
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    images = processor()
    data = labelled_images(24).with_transform(train_transform(images, "light"))
    plan = ht.TransferPlan((ht.Phase("last", "blocks:1", epochs=3), ht.Phase("all", "all", epochs=1)))
    options = {"cache_features": "on", "cache_views": 2}
    trainer = _trainer(tmp_path / "run", plan=plan, train_dataset=data, processing_class=images, **options)
    trainer.train()
    record = bare_record(trainer).to_dict()
    used = record["training"]["cache_decisions"]
    assert [(d["phase"], d["used"], d["views"]) for d in used] == [("last", True, 2), ("all", False, 0)]
    card = " ".join(render_card(record).split())
    assert "In phase `last` what comes before `vit.layers.2` was computed once for 24 images, in 2 views of" in card
    assert "one of the stored views, in turn" in card and "In phase `all`" not in card
