"""Facts of the card against the live objects: 20 random plans are trained for a few steps, and every learning rate,
weight decay, frozen group, phase, optimizer and count that the card prints is compared with what was there."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

import hf_transfer as ht
from hf_transfer.card import render_card
from hf_transfer.training_facts import bare_record
from tests import tiny
from tests.card_records import section, tables_in
from tests.labelled_images import labelled_images, processor
from tests.training import RandomImages, arguments

MODELS = {
    "vit": tiny.vit,
    "resnet": tiny.resnet,
    "convnext": tiny.convnext,
    "timm": lambda: tiny.timm_wrapper("resnet18"),
}
KINDS = ("cached probe", "SGD with groups", "from scratch", "free", "free")
SELECTORS = ("head", "all", "last:1", "last:2", "norm", "bias", ("last:1", "norm"))


class Witness(TrainerCallback):
    """Notes, at the steps of each phase, what the live optimizer and the model say."""

    def __init__(self) -> None:
        self.rates: dict[str, dict[int, float]] = {}
        self.decay: dict[str, dict[int, float]] = {}
        self.trained: dict[str, set[int]] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = kwargs.get("trainer") or self.trainer
        phase = trainer.resolved_plan.phases[self._number(trainer, state.global_step)].phase.name
        for group in kwargs["optimizer"].param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad and parameter.grad is not None:
                    self.trained.setdefault(phase, set()).add(id(parameter))
                    rates = self.rates.setdefault(phase, {})
                    rates[id(parameter)] = max(rates.get(id(parameter), 0.0), group["lr"])
                    self.decay.setdefault(phase, {})[id(parameter)] = group["weight_decay"]

    @staticmethod
    def _number(trainer: Any, step: int) -> int:
        return next(i for i, p in enumerate(trainer.resolved_plan.phases) if step < p.end)


def random_plan(rng: random.Random, kind: str) -> ht.TransferPlan:
    """One to three phases of two steps at constant rates, which the optimizer then has from the first step on."""
    phases = [
        ht.Phase(
            name=f"phase {number}",
            train=rng.choice(SELECTORS),
            max_steps=2,
            learning_rate=rng.choice((1e-3, 3.125e-4, 7e-5)),
            head_lr_ratio=rng.choice((1, 10)),
            layer_decay=rng.choice((1.0, 0.75)),
            weight_decay=rng.choice((0.0, 0.05)),
            warmup=0,
            lr_scheduler_type="constant",
        )
        for number in range(rng.randint(1, 3))
    ]
    if kind == "cached probe":
        phases[0] = replace(phases[0], train="head")
    if kind == "SGD with groups":
        phases[-1] = replace(phases[-1], train="all", head_lr_ratio=10, layer_decay=0.75)
    return ht.TransferPlan(tuple(phases), init="random" if kind == "from scratch" else "pretrained")


@pytest.mark.parametrize("seed", range(20))
def test_card_is_what_was_trained(seed: int, tmp_path: Path) -> None:
    """Group by group and phase by phase, the card's cells are those of the live optimizer."""
    rng, kind = random.Random(seed), KINDS[seed // len(MODELS)]
    plan = random_plan(rng, kind)
    optimizer = "sgd" if kind == "SGD with groups" else rng.choice(("adamw_torch", "sgd"))
    model: nn.Module = MODELS[sorted(MODELS)[seed % len(MODELS)]]()
    witness = Witness()
    trainer = ht.TransferTrainer(
        model=model,
        args=arguments(
            tmp_path,
            optim=optimizer,
            weight_decay=0.1,
            logging_steps=100,
            cache_features="on" if kind == "cached probe" else "off",
        ),
        train_dataset=RandomImages(16),
        callbacks=[witness],
        plan=plan,
    )
    witness.trainer = trainer  # type: ignore[attr-defined]
    trainer.train()
    assert any(decision.used for decision in trainer.cache_decisions) == (kind == "cached probe")
    card = render_card(bare_record(trainer).to_dict())
    found = section(card, "What was trained")
    groups, phases, settings = tables_in(found)[:3]
    parameters = dict(model.named_parameters())
    names = [phase.name for phase in plan.phases]
    assert groups[0][4:] == names
    for row, group in zip(groups[1:-1], ht.wrap(model).layer_groups, strict=True):
        own = [parameters[name] for name in group.parameter_names]
        assert (row[1], row[3]) == (f"`{group.name}`", f"{sum(p.numel() for p in own):,}")
        for cell, name in zip(row[4:], names, strict=True):
            trained = [p for p in own if id(p) in witness.trained[name]]
            assert (cell == "frozen") == (not trained), (group.name, name)
            if trained:
                rates = [witness.rates[name][id(p)] for p in trained]
                assert [float(cell.split(",")[0])] * len(rates) == pytest.approx(rates, rel=5e-3)
                decay = max(witness.decay[name][id(p)] for p in trained)
                assert (f"decay {decay:.3g}" in cell) == (decay > 0), (cell, decay)
                assert ("tensors" in cell) == (len(trained) < len(own)), (cell, len(trained), len(own))
    counts = [sum(p.numel() for p in parameters.values() if id(p) in witness.trained[name]) for name in names]
    assert groups[-1][4:] == [f"{count:,} trained" for count in counts]
    assert [row[0] for row in phases[1:]] == names and [row[2] for row in phases[1:]] == ["constant"] * len(names)
    assert dict(settings[1:])["Optimizer"].startswith({"adamw_torch": "AdamW", "sgd": "SGD"}[optimizer])
    assert dict(settings[1:])["Optimizer steps"] == str(trainer.state.global_step)
    assert ("All weights were drawn at random" in card) == (plan.init == "random")
    rates = {rate for found in witness.rates.values() for rate in found.values()}
    assert kind != "SGD with groups" or (len(rates) > 2 and type(trainer.optimizer.optimizer).__name__ == "SGD")


@pytest.mark.parametrize("solver", ["logistic", "svm", "ridge", "sgd"])
def test_card_of_a_solved_head(solver: str, tmp_path: Path) -> None:
    """A head that was solved on cached features: what the card calls frozen is as it was, bit for bit, what it calls
    solved is not, and counts, solver and chosen value are those of the solution; no step is told."""
    model = tiny.resnet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = ht.LinearProbeTrainer(
        model, arguments(tmp_path), train_dataset=labelled_images(48), processing_class=processor(), solver=solver
    )
    trainer.train()
    card = render_card(bare_record(trainer).to_dict())
    groups, head = tables_in(section(card, "What was trained"))[:2]
    after = trainer.model.state_dict()
    for row, group in zip(groups[1:-1], ht.wrap(trainer.model).layer_groups, strict=True):
        same = [torch.equal(before[name], after[name]) for name in group.parameter_names]
        assert row[4] == ("frozen" if all(same) else "solved"), group.name
        assert row[3] == f"{sum(after[name].numel() for name in group.parameter_names):,}"
    buffers = {name for name, _ in model.named_buffers()}
    assert all(torch.equal(before[name], after[name]) for name in buffers)
    solved = trainer.solution.solved
    told = dict(head[1:])
    assert told["Solver"] == solver == solved.solver
    assert float(told[f"Chosen {solved.parameter.replace('_', ' ')}"]) == pytest.approx(solved.value, rel=5e-3)
    assert "Optimizer steps" not in card and ("earning rate" not in card or solver == "sgd")  # its grid's choice
