"""Optimizer groups and learning rates of a run: those of the plan, phase by phase."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch.optim.lr_scheduler import LambdaLR

import hf_transfer as ht
from hf_transfer.errors import PlanError
from hf_transfer.phases.schedules import FUNCTIONS_OF_THE_STEP
from hf_transfer.plans.plan import group_learning_rates
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments, logged, trained


def test_optimizer_follows_the_plan(tmp_path: Path) -> None:
    """Live optimizer groups have the plan's names and rates, and all follow the schedule to zero."""
    model = tiny.vit()
    plan = ht.recipes.fine_tune(layer_decay=0.5)
    trainer = trained(model, tmp_path, plan, lr_scheduler_type="linear", weight_decay=0.1)
    layers = ht.wrap(model).layer_groups
    rates = dict(zip((g.name for g in layers), group_learning_rates(layers, plan.phases[0], 1e-2), strict=True))
    groups = trainer.optimizer.param_groups
    assert groups[0]["name"].startswith("head")
    assert {g["name"].removesuffix("/no_decay"): g["initial_lr"] for g in groups} == pytest.approx(rates)
    assert all(g["lr"] == 0 for g in groups)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_logs_carry_one_rate_per_group(tmp_path: Path) -> None:
    """Each log line has the rate of every layer group; `learning_rate` is the head's."""
    model = tiny.vit()
    trainer = trained(model, tmp_path, ht.recipes.lp_ft(probe_epochs=1))
    for name in (g.name for g in ht.wrap(model).layer_groups):
        assert len(logged(trainer, f"learning_rate/{name}")) == 8
    assert logged(trainer, "learning_rate/head") == logged(trainer, "learning_rate")
    assert logged(trainer, "learning_rate/stem")[:4] == [0.0] * 4
    assert logged(trainer, "phase")[3:5] == [1, 2]


def test_phases_have_their_own_schedule(tmp_path: Path) -> None:
    """In two phases of 4 steps with linear decay the head's rate starts at each phase's peak and decays in each."""
    trainer = trained(tiny.vit(), tmp_path, ht.recipes.lp_ft(probe_epochs=1), lr_scheduler_type="linear")
    shape = [1.0, 0.75, 0.5, 0.25]
    expected = [20e-2 * s for s in shape] + [2e-2 * s for s in shape]
    assert logged(trainer, "learning_rate/head") == pytest.approx(expected)
    assert trainer.state.global_step == 8


def test_rate_of_a_partly_trained_group_is_that_of_its_trained_part(tmp_path: Path) -> None:
    """While only biases train, the logged rate of their layer group is theirs, not the 0 of the frozen weights."""
    phases = (ht.Phase("biases", "bias", epochs=1), ht.Phase("all", "all", epochs=1))
    trainer = trained(tiny.vit(), tmp_path, ht.TransferPlan(phases), lr_scheduler_type="constant")
    assert logged(trainer, "learning_rate/vit.layers.0") == [1e-2] * 8


def test_least_rate_counts_against_the_phase(tmp_path: Path) -> None:
    """cosine_with_min_lr ends each phase at the least rate that was asked for."""
    options = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 5e-3}}
    phases = (ht.Phase("a", "head", epochs=1), ht.Phase("b", "all", epochs=1))
    for plan in (ht.TransferPlan(phases), ht.TransferPlan(phases[:1])):
        trainer = trained(tiny.vit(), tmp_path, plan, **options)
        assert min(logged(trainer, "learning_rate/head")) > 5e-3
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(5e-3)


def test_frozen_parameters_hold_no_optimizer_state(tmp_path: Path) -> None:
    """Adam holds state for trained parameters only."""
    trainer = trained(tiny.vit(), tmp_path, ht.recipes.linear_probe())
    held = {id(p) for p in trainer.optimizer.state}
    assert held == {id(p) for p in trainer.model.classifier.parameters()}


def test_optimizers_with_their_own_groups_are_refused(tmp_path: Path) -> None:
    """An optimizer that is given its own groups cannot follow a plan."""
    model = tiny.vit()
    given = (torch.optim.SGD, {"params": list(model.parameters()), "lr": 0.1})
    trainer = ht.TransferTrainer(
        model,
        arguments(tmp_path),
        train_dataset=RandomImages(),
        optimizer_cls_and_kwargs=given,
        plan=ht.recipes.linear_probe(),
    )
    with pytest.raises(PlanError, match="chooses its own parameter groups"):
        trainer.train()


def test_own_optimizer_class_gets_the_groups(tmp_path: Path) -> None:
    """optimizer_cls_and_kwargs of the user is used with the plan's groups."""
    trainer = ht.TransferTrainer(
        tiny.vit(),
        arguments(tmp_path),
        train_dataset=RandomImages(),
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        plan=ht.recipes.linear_probe(),
    )
    trainer.train()
    inner = trainer.optimizer.optimizer
    assert isinstance(inner, torch.optim.SGD)
    assert [g["name"] for g in inner.param_groups] == ["head", "head/no_decay"]


def test_plateau_schedule_works_in_one_phase_only(tmp_path: Path) -> None:
    """reduce_lr_on_plateau drives a plan of one phase, and is refused for two."""
    options = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}
    for plan in (ht.recipes.linear_probe(), ht.recipes.lp_ft(probe_epochs=1)):
        trainer = ht.TransferTrainer(
            tiny.vit(),
            arguments(tmp_path, **options),
            train_dataset=RandomImages(),
            eval_dataset=RandomImages(),
            plan=plan,
        )
        if len(plan.phases) == 1:
            trainer.train()
        else:
            with pytest.raises(PlanError, match="plans of one phase"):
                trainer.train()


@pytest.mark.parametrize("kind", list(transformers.SchedulerType), ids=lambda kind: kind.value)
def test_the_schedules_that_a_refusal_lists_work(kind: transformers.SchedulerType) -> None:
    """FUNCTIONS_OF_THE_STEP names exactly the schedules of transformers that are a function of the step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    options = {
        "cosine_with_min_lr": {"min_lr": 0.1},
        "cosine_warmup_with_min_lr": {"min_lr": 0.1},
        "warmup_stable_decay": {"num_decay_steps": 5},
    }.get(kind.value)
    made = transformers.get_scheduler(kind, optimizer, 2, 20, options)
    assert isinstance(made, LambdaLR) == (kind.value in FUNCTIONS_OF_THE_STEP)
