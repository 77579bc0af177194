"""hf_transfer.checkpoints.resuming: a run goes on from a checkpoint exactly, or is told why not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

import hf_transfer as ht
from hf_transfer.checkpoints.resuming import load_optimizer_state
from hf_transfer.errors import PlanError
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments, logged

PLAN = ht.recipes.lp_ft(probe_epochs=1)


def _trainer(
    folder: Path, plan: ht.TransferPlan = PLAN, model: nn.Module | None = None, data: int = 32, **options: Any
) -> ht.TransferTrainer:
    if model is None:
        torch.manual_seed(0)
        model = tiny.vit()
    images = RandomImages(data)
    if options.pop("augment", False):
        images.transform = v2.RandomHorizontalFlip()
    args = arguments(folder, **{"save_strategy": "steps", "save_steps": 2} | options)
    return ht.TransferTrainer(model, args, train_dataset=images, plan=plan)


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
        (PLAN, {"optim": "sgd"}, r"another optimizer.*class was AdamW, is SGD.*--allow_plan_change"),
        (PLAN, {"adam_beta2": 0.9}, r"betas was \[0.9, 0.999\], is \[0.9, 0.9\]"),
        (PLAN, {"seed": 5}, "seed was 42, is 5"),
        (PLAN, {"data_seed": 5}, "data_seed was None, is 5"),
        (PLAN, {"augment": True}, "transform and collator were"),
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


def test_a_changed_optimizer_starts_the_next_phase_fresh(run: Path, tmp_path: Path) -> None:
    """With allow_plan_change another optimizer begins the phase anew, with a state of its own."""
    trainer = _trainer(tmp_path, optim="sgd", optim_args="momentum=0.9", allow_plan_change=True, save_strategy="no")
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))
    assert [(p.start, p.end) for p in trainer.resolved_plan.phases] == [(0, 6), (6, 10)]
    assert all(set(state) == {"momentum_buffer"} for state in trainer.optimizer.state.values())


def test_a_finished_phase_is_not_trained_again(run: Path, tmp_path: Path, caplog: Any) -> None:
    """A plan that goes on from a finished run trains what was added alone; with nothing added it says so."""
    longer = ht.TransferPlan((*PLAN.phases, ht.Phase("more", "head", max_steps=2)), recipe=PLAN.recipe)
    trainer = _trainer(tmp_path, longer, allow_plan_change=True, save_strategy="no")
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-8"))
    assert [(p.start, p.end) for p in trainer.resolved_plan.phases] == [(0, 4), (4, 8), (8, 10)]
    assert len(logged(trainer, "loss")) == 10
    again = _trainer(tmp_path, data=40, allow_plan_change=True, save_strategy="no")
    with pytest.raises(PlanError, match="All phases of the plan are finished at step 8"):
        again.train(resume_from_checkpoint=str(run / "checkpoint-8"))


def test_the_batch_may_be_divided_otherwise(run: Path, tmp_path: Path, caplog: Any) -> None:
    """The same images per step in more micro-batches are followed, and the change is told."""
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = _trainer(tmp_path, save_strategy="no", **options)
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))
    assert trainer.state.global_step == 8
    assert "gradient_accumulation_steps was 1, is 2 from here on" in caplog.text


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
    _as_measured(tmp_path / "checkpoint-1")
    with pytest.raises(PlanError, match=r"was auto and is 0.01.*ReduceLROnPlateau"):
        make(1e-2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_number_in_place_of_measured_rates_is_told(run: Path, tmp_path: Path, caplog: Any) -> None:
    """The number is followed, also where it is the rate that a measurement would have fallen back on."""
    checkpoint = Path(shutil.copytree(run / "checkpoint-6", tmp_path / "checkpoint-6"))
    _as_measured(checkpoint)
    _trainer(tmp_path, save_strategy="no").train(resume_from_checkpoint=str(checkpoint))
    assert "learning rate was auto and is 0.01 from here on" in caplog.text


def _as_measured(checkpoint: Path) -> None:
    """Let a checkpoint be of a run whose learning rates were measured."""
    path = checkpoint / "transfer_state.json"
    state = json.loads(path.read_text())
    state["followed"]["learning_rate"] = "auto"
    path.write_text(json.dumps(state))


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
