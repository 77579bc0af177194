"""The mean of the weights over a phase: what it is, who sees it, and that an interrupted run goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification, EarlyStoppingCallback, TrainerCallback

import hf_transfer as ht
from hf_transfer.errors import PlanError
from hf_transfer.phases.weight_averaging import WeightAverage
from hf_transfer.reporting.card_training import phase_table
from hf_transfer.run_files import AVERAGE_FILE
from tests.helpers import tiny
from tests.helpers.fast import slow_but
from tests.helpers.training import RandomImages, arguments, logged

# Epochs of 4 steps; the mean is of the last 6 of 8 steps, and then of all 4.
PLAN = ht.TransferPlan(
    (
        ht.Phase("last", "blocks:1", epochs=2, average_from=0.25),
        ht.Phase("all", "all", max_steps=4, average_from=0.0),
    )
)


class Recorder(TrainerCallback):
    """Keeps the weights after each optimizer step; it runs before the phase ends."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        self.weights[state.global_step] = {n: p.detach().clone() for n, p in model.named_parameters()}

    def mean(self, first: int, last: int) -> dict[str, torch.Tensor]:
        steps = [self.weights[step] for step in range(first, last + 1)]
        return {name: torch.stack([step[name] for step in steps]).double().mean(0).float() for name in steps[0]}


def make(folder: Path, plan: ht.TransferPlan = PLAN, **options: Any) -> tuple[ht.TransferTrainer, Recorder]:
    torch.manual_seed(0)
    recorder = Recorder()
    given = {"learning_rate": 3e-2, "save_strategy": "steps", "save_steps": 1, "cache_features": "off"} | options
    trainer = ht.TransferTrainer(
        tiny.vit(),
        arguments(folder, **given),
        train_dataset=RandomImages(),
        eval_dataset=RandomImages(16),
        plan=plan,
        callbacks=[recorder],
    )
    return trainer, recorder


def close(model: torch.nn.Module, expected: dict[str, torch.Tensor]) -> None:
    found = dict(model.named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(found[name].detach(), value, rtol=1e-5, atol=1e-7)


def test_a_phase_leaves_the_mean_of_its_steps(tmp_path: Path) -> None:
    """The next phase starts from it, what was frozen is the same bit for bit, and the plan's facts tell of it."""
    trainer, recorder = make(tmp_path)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    close(trainer.model, recorder.mean(9, 12))
    frozen = [name for name in before if torch.equal(recorder.weights[7][name], before[name])]
    assert len(frozen) > 5
    first = AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-8")
    close(first, recorder.mean(3, 8))
    assert all(torch.equal(dict(first.named_parameters())[name], before[name]) for name in frozen)
    assert trainer.resolved_plan is not None
    told = trainer.resolved_plan.to_dict()["phases"]
    assert [phase["averaged_after_step"] for phase in told] == [2, 8]
    assert "| mean over the steps from 3 on |" in phase_table(told) and "from 9 on" in phase_table(told)


def test_what_is_evaluated_and_saved_is_the_mean_so_far(tmp_path: Path) -> None:
    """Amid a phase, too: the checkpoint's own weights give the loss that was logged for them."""
    trainer, recorder = make(tmp_path, eval_strategy="steps", eval_steps=1)
    trainer.train()
    for step, first in ((2, 2), (5, 3), (8, 3), (10, 9)):
        saved = AutoModelForImageClassification.from_pretrained(tmp_path / f"checkpoint-{step}")
        close(saved, recorder.mean(first, step))
        alone = ht.TransferTrainer(saved, arguments(tmp_path / "alone"), eval_dataset=RandomImages(16))
        loss = next(
            entry["eval_loss"]
            for entry in trainer.state.log_history
            if entry.get("step") == step and "eval_loss" in entry
        )
        assert alone.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-5), step
        assert (tmp_path / f"checkpoint-{step}" / AVERAGE_FILE).is_file() == (step in (5, 10))


def test_the_best_checkpoint_is_one_of_means(tmp_path: Path) -> None:
    """What load_best_model_at_end puts back has the metric that it was chosen by."""
    trainer, _ = make(
        tmp_path, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, metric_for_best_model="loss"
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(logged(trainer, "eval_loss")), rel=1e-5)


@pytest.mark.parametrize("step", slow_but((5,), (1, 2, 5, 8, 10)))
def test_a_resumed_run_ends_with_the_same_mean(step: int, tmp_path: Path) -> None:
    """Before averaging begins, amid it, and between two phases: bit for bit."""
    whole, _ = make(tmp_path / "whole")
    whole.train()
    again, _ = make(tmp_path / "again", save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert logged(again, "loss") == logged(whole, "loss")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_a_phase_that_stops_early_leaves_the_mean(tmp_path: Path) -> None:
    """Both where another phase follows and where the run ends; a phase that stops before averaging tells of none."""
    trainer, recorder = make(
        tmp_path,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=False,
        metric_for_best_model="loss",
    )
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=1e9))
    trainer.train()
    assert trainer.resolved_plan is not None
    first = trainer.resolved_plan.to_dict()["phases"][0]
    assert (first["end_step"], first["averaged_after_step"]) == (3, 2)  # no improvement is ever enough
    assert trainer.state.global_step == 6
    close(trainer.model, recorder.mean(4, 6))


class StopAt(TrainerCallback):
    """Ends the run at a step, as a limit of time does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_training_stop or state.global_step == 5


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path: Path) -> None:
    """What ends at a step that evaluates and saves leaves the mean, and a checkpoint to go on from."""
    options = {"eval_strategy": "steps", "eval_steps": 1}
    whole, _ = make(tmp_path / "whole", **options)
    whole.train()
    stopped, recorder = make(tmp_path / "stopped", **options)
    stopped.add_callback(StopAt())
    stopped.train()
    close(stopped.model, recorder.mean(3, 5))
    again, _ = make(tmp_path / "stopped", **options)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 12
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_a_changed_plan_begins_with_the_mean(tmp_path: Path) -> None:
    """The weights that were evaluated, whatever became of the file of the mean."""
    trainer, recorder = make(tmp_path)
    trainer.train()
    (tmp_path / "checkpoint-5" / AVERAGE_FILE).unlink()
    other = ht.TransferPlan((PLAN.phases[0], ht.Phase("all", "all", max_steps=2)))
    again, _ = make(tmp_path / "again", other, allow_plan_change=True, save_strategy="no")
    seen: dict[str, torch.Tensor] = {}

    class Begin(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.update({name: p.detach().clone() for name, p in kwargs["model"].named_parameters()})

    again.add_callback(Begin())
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    for name, value in recorder.mean(3, 5).items():
        torch.testing.assert_close(seen[name], value, rtol=1e-5, atol=1e-7)


def test_a_changed_or_damaged_mean_is_refused(tmp_path: Path) -> None:
    """A run that would go on without averaging differs from the checkpoint's, and a broken file is named."""
    trainer, _ = make(tmp_path)
    trainer.train()
    other = ht.TransferPlan((ht.Phase("last", "blocks:1", epochs=2), PLAN.phases[1]))
    with pytest.raises(PlanError, match="average_from of phase 'last' was 0.25, is None"):
        make(tmp_path / "other", other)[0].train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    (tmp_path / "checkpoint-5" / AVERAGE_FILE).write_bytes(b"no safetensors")
    again, _ = make(tmp_path / "again")
    with pytest.raises(PlanError, match="weight_average.safetensors in checkpoint-5 is missing, damaged, or of"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    (tmp_path / "checkpoint-5" / AVERAGE_FILE).unlink()
    with pytest.raises(PlanError, match="is missing, damaged"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_mean_of_tensors(tmp_path: Path) -> None:
    """In float32 also of bfloat16; put in place of the weights for a while, or for good; saved with both."""
    values = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 8.0]), torch.tensor([5.0, 2.0])]
    weights = {"a": torch.zeros(2), "half": torch.zeros(2, dtype=torch.bfloat16)}
    average = WeightAverage()
    with average.in_place_of(weights):
        assert not weights["a"].any()  # there is no mean yet
    for value in values:
        weights["a"].copy_(value)
        weights["half"].copy_(value)
        average.update(weights)
    assert average.mean["half"].dtype == torch.float32
    with average.in_place_of(weights), average.in_place_of(weights):
        assert weights["a"].tolist() == [3.0, 4.0] and weights["half"].tolist() == [3.0, 4.0]
        average.save(tmp_path, weights)
    assert weights["a"].tolist() == [5.0, 2.0]
    blank = {"a": torch.zeros(2), "half": torch.zeros(2, dtype=torch.bfloat16)}
    again = WeightAverage.resumed(tmp_path, blank, steps=3)
    assert again.count == 3
    assert blank["a"].tolist() == [5.0, 2.0] and again.mean["a"].tolist() == [3.0, 4.0]
    with again.in_place_of(blank):
        again.finish(blank)
    assert blank["half"].tolist() == [3.0, 4.0]
    with pytest.raises(PlanError, match="the mean of 3 steps, expected 4"):
        WeightAverage.resumed(tmp_path, blank, steps=4)


def test_what_cannot_be_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Statistics of other weights and a head that takes no steps are refused; divided weights are left as they are."""
    with pytest.raises(PlanError, match="average_from is a share"):
        ht.Phase("p", "all", average_from=1.0)
    with pytest.raises(PlanError, match='only with norm="eval"'):
        ht.Phase("p", "all", average_from=0.5, norm="train")
    with pytest.raises(PlanError, match="without head_solver"):
        ht.Phase("p", "head", average_from=0.5, head_solver="ridge")
    monkeypatch.setattr(ht.TransferTrainer, "is_sharded", True)
    trainer, _ = make(tmp_path)
    assert trainer.plan is not None
    assert [phase.average_from for phase in trainer.plan.phases] == [None, None]
    assert "not taken of a model that is divided over processes: last, all leave" in caplog.text
