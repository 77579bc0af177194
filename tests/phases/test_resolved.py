"""hf_transfer.phases.resolved, schedules, early_stopping and phase_callback: what happens at the borders of phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, PartialState
from torch import nn

import hf_transfer as ht
from hf_transfer.errors import PlanError
from hf_transfer.phases.resolved import PhaseSteps, ResolvedPlan
from hf_transfer.trainer.checks import check_model, check_processes, warn_of_missing_fsdp
from tests.helpers import tiny
from tests.helpers.fast import slow_but
from tests.helpers.training import RandomImages, arguments, logged

TWO = ht.TransferPlan((ht.Phase("a", "head", epochs=4), ht.Phase("b", "all", epochs=2)))
METRIC = {"eval_strategy": "epoch", "save_strategy": "epoch", "metric_for_best_model": "score"}


def _resolved(*lengths: int) -> ResolvedPlan:
    plan = ht.TransferPlan(tuple(ht.Phase(f"p{i}", "head", max_steps=n) for i, n in enumerate(lengths)))
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    phases = zip(plan.phases, [0, *ends], ends, strict=False)
    steps = tuple(PhaseSteps(phase, start, end, "linear", 0, 1e-3) for phase, start, end in phases)
    return ResolvedPlan(plan, "none", (), (), {}, steps)


def test_later_phases_move_with_one_that_begins_early() -> None:
    """A phase that begins 3 steps early ends 3 steps early, and so do those behind it; the one before ends there."""
    moved = _resolved(5, 4, 2).begin_at(1, 2)
    assert [(p.start, p.end, p.shift) for p in moved.phases] == [(0, 2, 0), (2, 6, 3), (6, 8, 3)]
    assert [moved.phase_at(step) for step in range(8)] == [0, 0, 1, 1, 1, 1, 2, 2]
    assert moved.begin_at(1, 2) == moved
    late = _resolved(5, 4).begin_at(1, 7)
    assert [(p.start, p.end) for p in late.phases] == [(0, 7), (7, 11)]


def _stopping(folder: Path, scores: Any, plan: ht.TransferPlan = TWO, **options: Any) -> ht.TransferTrainer:
    torch.manual_seed(0)
    data = RandomImages(16)
    args = arguments(folder, **METRIC, **options)
    return ht.TransferTrainer(
        tiny.vit(),
        args,
        None,
        data,
        data,
        compute_metrics=lambda _: {"score": next(scores)},
        callbacks=[transformers.EarlyStoppingCallback(2)],
        plan=plan,
    )


# The first phase stops after epoch 3, far above the second, which has 2 epochs and improves: it is not stopped.
SCORES = (0.9, 0.8, 0.7, 0.1, 0.2)


def test_early_stopping_moves_on_to_the_next_phase(tmp_path: Path) -> None:
    """After two evaluations without gain the next phase begins, judged by itself and with its own rates."""
    trainer = _stopping(tmp_path, iter(SCORES), lr_scheduler_type="linear")
    trainer.train()
    assert [(p.start, p.end) for p in trainer.resolved_plan.phases] == [(0, 6), (6, 10)]
    assert trainer.state.global_step == trainer.state.max_steps == 10
    assert logged(trainer, "phase") == [1] * 6 + [2] * 4
    assert logged(trainer, "learning_rate/head")[6:] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == list(range(1, 11))
    assert trainer.state.best_metric == 0.9  # of the whole run


def test_the_last_phase_stops_the_run(tmp_path: Path) -> None:
    """In the last phase early stopping ends the training, as in Trainer."""
    plan = ht.TransferPlan((ht.Phase("a", "head", epochs=1), ht.Phase("b", "all", epochs=9)))
    trainer = _stopping(tmp_path, iter([0.1, 0.9, 0.8, 0.7, 0.6]), plan)
    trainer.train()
    assert trainer.state.epoch == 4


@pytest.mark.parametrize("step", slow_but((6,), (4, 6, 8)))
def test_early_stopping_is_resumed_exactly(step: int, tmp_path: Path) -> None:
    """Resumed before, at and after the early end of a phase, borders and weights are those of the whole run."""
    whole = _stopping(tmp_path, iter(SCORES))
    whole.train()
    resumed = _stopping(tmp_path / "resumed", iter(SCORES[step // 2 :]))
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert [(p.start, p.end) for p in resumed.resolved_plan.phases] == [(0, 6), (6, 10)]
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())


def test_one_schedule_over_the_run(tmp_path: Path) -> None:
    """schedule="run": one decay over both phases, each at its own peak; warm-up in a phase is refused."""
    phases = (ht.Phase("a", "head", epochs=1, learning_rate=2.0), ht.Phase("b", "all", epochs=1, learning_rate=1.0))
    plan = ht.TransferPlan(phases, schedule="run")
    args = arguments(tmp_path, lr_scheduler_type="linear", warmup_steps=2)
    trainer = ht.TransferTrainer(tiny.vit(), args, train_dataset=RandomImages(16), plan=plan)
    trainer.train()
    assert logged(trainer, "learning_rate/head") == pytest.approx([0.0, 1.0, 1.0, 0.5])
    assert logged(trainer, "learning_rate/stem") == pytest.approx([0.0, 0.0, 1.0, 0.5])
    assert ht.TransferPlan.from_dict(plan.to_dict()) == plan
    with pytest.raises(PlanError, match="take warmup and lr_scheduler_type out of the phases a"):
        ht.TransferPlan((ht.Phase("a", "head", warmup=0.1),), schedule="run")


@pytest.mark.parametrize("reset", [False, True])
def test_moments_are_carried_over_or_reset(reset: bool, tmp_path: Path) -> None:
    """Adam's step count of the head goes on over the border, or begins anew; the frozen hold no state."""
    phases = (ht.Phase("a", "all", epochs=1), ht.Phase("b", "head", epochs=1, reset_optimizer=reset))
    held: list[int] = []

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
            held.append(len(optimizer.state))

    model = tiny.vit()
    args, data = arguments(tmp_path), RandomImages(16)
    trainer = ht.TransferTrainer(model, args, train_dataset=data, callbacks=[Watch()], plan=ht.TransferPlan(phases))
    trainer.train()
    assert int(trainer.optimizer.state[model.classifier.weight]["step"]) == (2 if reset else 4)
    assert held == [len(list(model.parameters()))] * 2 + [2] * 2


@pytest.mark.slow
def test_compiled_once_for_each_phase(tmp_path: Path) -> None:
    """torch.compile makes one graph per phase, and the weights are those of the run that is not compiled."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    phases = tuple(ht.Phase(name, train, max_steps=2) for name, train in (("a", "head"), ("b", "all"), ("c", "head")))
    weights = []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        AcceleratorState._reset_state(True)
        torch.manual_seed(0)
        model = tiny.vit(hidden_dropout_prob=0.0)
        args = arguments(tmp_path, **options)
        trainer = ht.TransferTrainer(model, args, train_dataset=RandomImages(16), plan=ht.TransferPlan(phases))
        trainer.train()
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
    AcceleratorState._reset_state(True)
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= len(phases)
    assert all(torch.allclose(value, weights[1][name], atol=1e-6) for name, value in weights[0].items())


@pytest.mark.parametrize("options", [{"bf16": True}, {"activation_checkpointing": True}])
def test_two_phases_with_mixed_precision_or_checkpointing(options: dict[str, Any], tmp_path: Path) -> None:
    """Every group moves in its phase, and checkpointing changes no weight."""
    weights = []
    for changes in ({}, options):
        torch.manual_seed(0)
        model = tiny.vit(hidden_dropout_prob=0.0)
        args = arguments(tmp_path, use_cpu=True, learning_rate=1e-3, **changes)
        plan = ht.recipes.lp_ft(probe_epochs=1, probe_lr_ratio=1.0)
        ht.TransferTrainer(model, args, train_dataset=RandomImages(16), plan=plan).train()
        weights.append(model.state_dict())
        PartialState._reset_state()
        AcceleratorState._reset_state(True)
    difference = max(float((weights[0][name] - value).abs().max()) for name, value in weights[1].items())
    assert difference < (1e-6 if "activation_checkpointing" in options else 1e-2)


# --- what cannot be followed is refused ---------------------------------------------------------------------------


def test_deepspeed_is_refused_for_plans_that_unfreeze(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Several phases under DeepSpeed are refused with the reason, before anything is made; one phase is not."""
    args = arguments(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(PlanError, match="DeepSpeed divides the trained parameters once.*linear probe, fine-tune"):
        check_processes(ht.recipes.lp_ft(), args)
    check_processes(ht.recipes.fine_tune(), args)


def test_reentrant_checkpointing_is_refused(tmp_path: Path) -> None:
    """Asked for in the arguments or switched on in the model before."""
    args = arguments(tmp_path, activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(PlanError, match="Reentrant"):
        check_processes(ht.recipes.fine_tune(), args)
    model: Any = tiny.vit()
    check_model(model)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(PlanError, match="Reentrant"):
        check_model(model)


def test_flattening_fsdp_is_refused(tmp_path: Path) -> None:
    """FSDP1 without use_orig_params cannot hold frozen and trained parameters together."""
    args: Any = arguments(tmp_path)
    args.fsdp, args.fsdp_plugin_args = True, {"fsdp_version": 1, "use_orig_params": False}
    with pytest.raises(PlanError, match="use_orig_params to true"):
        check_processes(ht.recipes.fine_tune(), args)


def test_fsdp_that_is_none_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any) -> None:
    """An accelerator without FSDP is reported where FSDP was asked for, and only there."""

    class Accelerator:
        distributed_type = "MULTI_CPU"

    warn_of_missing_fsdp(Accelerator(), arguments(tmp_path))
    assert not caplog.text
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    warn_of_missing_fsdp(Accelerator(), arguments(tmp_path))
    assert "accelerate runs MULTI_CPU" in caplog.text


def test_names_of_wrapped_parts_are_plain() -> None:
    """What FSDP1, torch's checkpointing and torch.compile add to names is taken out."""
    from hf_transfer.utils.modules import named_parameters

    model = nn.Module()
    model.part = nn.Module()
    model.part._fsdp_wrapped_module = nn.Module()
    model.part._fsdp_wrapped_module._checkpoint_wrapped_module = nn.Linear(1, 1)
    assert [name for name, _ in named_parameters(model)] == ["part.weight", "part.bias"]
