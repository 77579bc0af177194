"""hf_transfer.resuming: a run goes on from a checkpoint exactly, or is told why not."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn

import hf_transfer as ht
from hf_transfer.errors import PlanError
from hf_transfer.resuming import RunState, data_fingerprint, differences, load_optimizer_state
from tests import tiny
from tests.training import RandomImages, arguments, logged

PLAN = ht.recipes.lp_ft(probe_epochs=1)
STATE = RunState(PLAN.to_dict(), "vit", {"w": [2, 3], "b": [3]}, {"length": 8}, 16, 1e-3)


def _trainer(
    folder: Path, plan: ht.TransferPlan = PLAN, model: nn.Module | None = None, data: int = 32, **options: Any
) -> ht.TransferTrainer:
    if model is None:
        torch.manual_seed(0)
        model = tiny.vit()
    args = arguments(folder, **{"save_strategy": "steps", "save_steps": 2} | options)
    return ht.TransferTrainer(model, args, train_dataset=RandomImages(data), plan=plan)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two phases of 4 steps with a checkpoint at each second step."""
    folder = tmp_path_factory.mktemp("run")
    _trainer(folder).train()
    return folder


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        (ht.recipes.fine_tune(), {}, r"another plan.*phases were linear probe, fine-tune, are fine-tune"),
        (
            ht.recipes.lp_ft(probe_epochs=1, layer_decay=0.5),
            {},
            r"layer_decay of phase 'fine-tune' was 1.0, is 0.5.*--allow_plan_change",
        ),
        (replace(PLAN, schedule="run"), {}, "schedule was 'phase', is 'run'"),
        (PLAN, {"data": 40}, "set of training data.*length was 32, is 40"),
        (PLAN, {"per_device_train_batch_size": 4}, "images per step were 8, are 4"),
        (PLAN, {"model": tiny.vit(num_labels=5)}, r"another model.*classifier.weight was \[3, 16\], is \[5, 16\]"),
        (PLAN, {"model": tiny.resnet()}, "(?i)the model was .*vit.*, is .*resnet"),
    ],
)
def test_another_run_is_refused(plan: ht.TransferPlan, options: dict[str, Any], message: str, run: Path) -> None:
    """Another plan, model, data or batch is refused before the first step, and the difference is shown."""
    trainer = _trainer(run, plan, save_strategy="no", **options) if "model" not in options else None
    if trainer is None:
        trainer = _trainer(run, plan, options["model"], save_strategy="no")
    with pytest.raises(PlanError, match=message):
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))


def test_a_path_is_checked_as_text_is(run: Path) -> None:
    """A checkpoint may be given as a Path; another plan is refused all the same."""
    trainer = _trainer(run, replace(PLAN, schedule="run"), save_strategy="no")
    with pytest.raises(PlanError, match="schedule was"):
        trainer.train(resume_from_checkpoint=run / "checkpoint-6")


def test_without_a_complete_checkpoint_there_is_none_to_resume(tmp_path: Path) -> None:
    """A folder that a killed process left half-written is not picked up, also where it is the only one."""
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(PlanError, match="no complete checkpoint"):
        _trainer(tmp_path).train(resume_from_checkpoint=True)


def test_allowed_change_starts_the_next_phase_fresh(run: Path, tmp_path: Path) -> None:
    """With allow_plan_change the shared finished phase is kept; the other one starts at the checkpoint's step."""
    changed = ht.recipes.lp_ft(probe_epochs=1, epochs=0.75, layer_decay=0.5)
    trainer = _trainer(tmp_path, changed, allow_plan_change=True)
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))
    assert [(p.start, p.end) for p in trainer.resolved_plan.phases] == [(0, 6), (6, 9)]
    assert trainer.state.global_step == 9
    # Adam's step counts tell that its state began with the phase.
    assert {int(s["step"]) for s in trainer.optimizer.state.values()} == {3}
    # The changed run is resumed exactly, in turn.
    again = _trainer(tmp_path, changed, save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    expected = trainer.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.model.state_dict().items())


def test_a_changed_learning_rate_is_honoured(run: Path, tmp_path: Path, caplog: Any) -> None:
    """The resumed run follows its own learning rate from the checkpoint's step on, and says so."""
    trainer = _trainer(tmp_path, learning_rate=5e-3, save_strategy="no")
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))
    rates = logged(trainer, "learning_rate/head")
    assert rates[:6] == pytest.approx([0.2, 0.15, 0.1, 0.05, 0.02, 0.015])
    assert rates[6:] == pytest.approx([0.005, 0.0025])
    assert "learning rate was 0.01 and is 0.005" in caplog.text


def test_a_changed_learning_rate_is_refused_where_the_schedule_cannot_follow(tmp_path: Path) -> None:
    """reduce_lr_on_plateau goes on from its own rates."""
    options = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch", "num_train_epochs": 2}

    def make(rate: float) -> ht.TransferTrainer:
        args = arguments(tmp_path, save_strategy="epoch", learning_rate=rate, **options)
        data = RandomImages(8)
        plan = ht.recipes.linear_probe()
        return ht.TransferTrainer(tiny.vit(), args, train_dataset=data, eval_dataset=data, plan=plan)

    make(1e-2).train()
    with pytest.raises(PlanError, match=r"was 0.01 and is 0.02.*ReduceLROnPlateau"):
        make(2e-2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    make(1e-2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_more_epochs_lengthen_the_present_phase(run: Path, tmp_path: Path) -> None:
    """num_train_epochs may be raised on resume; finished phases stay where they were."""
    trainer = _trainer(tmp_path, num_train_epochs=2, save_strategy="no")
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))
    assert [(p.start, p.end) for p in trainer.resolved_plan.phases] == [(0, 4), (4, 12)]


def test_checkpoints_without_what_is_needed_are_refused(run: Path, tmp_path: Path) -> None:
    """Without our state file, without optimizer state, or incomplete: each says what is missing."""
    for missing, message in (
        ("transfer_state.json", "transfer_state.json is missing"),
        ("optimizer.pt", "no optimizer state"),
        ("trainer_state.json", "no complete checkpoint"),
    ):
        copied = tmp_path / missing / "checkpoint-6"
        shutil.copytree(run / "checkpoint-6", copied)
        (copied / missing).unlink()
        with pytest.raises(PlanError, match=message):
            _trainer(tmp_path).train(resume_from_checkpoint=str(copied))


def test_incomplete_folders_are_passed_over(run: Path, tmp_path: Path) -> None:
    """resume_from_checkpoint=True takes the last checkpoint with a trainer state, not a half-copied later one."""
    shutil.copytree(run / "checkpoint-6", tmp_path / "checkpoint-6")
    (tmp_path / "checkpoint-8").mkdir()
    (tmp_path / "checkpoint-8" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".unfinished" / "checkpoint-10").mkdir(parents=True)
    trainer = _trainer(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    assert logged(trainer, "loss") and trainer.state.global_step == 8
    assert not (tmp_path / ".unfinished").exists()
    assert (tmp_path / "checkpoint-8" / "trainer_state.json").is_file()


def test_best_checkpoint_is_named_by_its_final_place(tmp_path: Path) -> None:
    """The best checkpoint survives save_total_limit, is loaded, and no file names the folder it was written in."""
    scores = iter([0.1, 0.9, 0.2, 0.3])
    args = arguments(
        tmp_path,
        save_strategy="epoch",
        eval_strategy="epoch",
        num_train_epochs=4,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    data = RandomImages(16)
    plan = ht.recipes.linear_probe()
    trainer = ht.TransferTrainer(
        tiny.vit(), args, None, data, data, compute_metrics=lambda _: {"score": next(scores)}, plan=plan
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-4"]
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-4")


# --- pure parts --------------------------------------------------------------------------------------------------


def test_equal_states_do_not_differ_and_files_round_trip(tmp_path: Path) -> None:
    """Learning rate and starts may differ; a state file reads back as it was."""
    assert differences(STATE, replace(STATE, learning_rate=2.0, starts=(0, 4))) == ([], [])
    full = replace(STATE, starts=(0, 4), best_of_phase=0.5, patience=(2,))
    full.save(tmp_path)
    assert RunState.load(tmp_path) == full


def test_plans_of_before_a_field_existed_are_equal() -> None:
    """A checkpoint whose plan lacks a newer field is taken to have its default."""
    old = copy.deepcopy(STATE.plan)
    del old["schedule"], old["phases"][0]["reset_optimizer"]
    assert differences(replace(STATE, plan=old), STATE) == ([], [])


def test_data_fingerprint_tells_data_apart_and_not_their_place() -> None:
    """Length, labels and content count; folder, transform and process do not."""

    def data(folder: str, labels: list[int], names: str = "ab") -> Any:
        images = [{"bytes": None, "path": f"{folder}/{name}.png"} for name in names]
        return Dataset.from_dict({"image": images, "label": labels})

    first = data_fingerprint(data("/here", [0, 1]))
    moved = data("/there", [0, 1]).with_transform(lambda rows: rows)
    assert data_fingerprint(moved) == first
    assert data_fingerprint(data("/here", [1, 0])) != first
    assert data_fingerprint(data("/here", [0, 1], "ac")) != first
    assert data_fingerprint(RandomImages(8)) == {"type": "RandomImages", "length": 8}


def test_optimizer_state_is_matched_by_name() -> None:
    """Two weights of one shape that change places keep their own moments; another shape is refused."""

    def make(*names: str, rows: int = 2) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
        made = {name: nn.Parameter(torch.ones(rows, 2)) for name in names}
        groups = [{"params": [p], "param_names": [n], "name": n, "lr": 0.1} for n, p in made.items()]
        return made, torch.optim.Adam(groups)

    first, adam = make("a", "b")
    (first["a"].sum() * 3 + first["b"].sum() * 5).backward()
    adam.step()
    second, other = make("b", "c", "a")
    load_optimizer_state(other, adam.state_dict(), "checkpoint-1")
    for name in ("a", "b"):
        assert torch.equal(other.state[second[name]]["exp_avg"], adam.state[first[name]]["exp_avg"])
    assert second["c"] not in other.state
    with pytest.raises(
        PlanError, match=r"exp_avg of a in checkpoint-1 has the shape \[2, 2\], the parameter \[3, 2\]"
    ):
        load_optimizer_state(make("a", rows=3)[1], adam.state_dict(), "checkpoint-1")
