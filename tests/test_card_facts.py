"""Facts of the card against the live objects: 20 random plans are trained for a few steps, and every learning rate,
weight decay, frozen group, phase, optimizer and count that the card prints is compared with what was there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import TrainerCallback

import hf_transfer as ht
from hf_transfer.card import render_card
from hf_transfer.training_facts import bare_record
from tests import tiny
from tests.test_card import section, tables_in
from tests.training import RandomImages, arguments

MODELS = {
    "vit": tiny.vit,
    "resnet": tiny.resnet,
    "convnext": tiny.convnext,
    "timm": lambda: tiny.timm_wrapper("resnet18"),
}
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


def random_plan(rng: random.Random) -> ht.TransferPlan:
    """One to three phases of two steps at constant rates, which the optimizer then has from the first step on."""
    phases = tuple(
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
    )
    return ht.TransferPlan(phases, init=rng.choice(("pretrained", "pretrained", "random")))


@pytest.mark.parametrize("seed", range(20))
def test_card_is_what_was_trained(seed: int, tmp_path: Path) -> None:
    """Group by group and phase by phase, the card's cells are those of the live optimizer."""
    rng = random.Random(seed)
    plan, optimizer = random_plan(rng), rng.choice(("adamw_torch", "sgd"))
    model: nn.Module = MODELS[sorted(MODELS)[seed % len(MODELS)]]()
    witness = Witness()
    trainer = ht.TransferTrainer(
        model=model,
        args=arguments(tmp_path, optim=optimizer, weight_decay=0.1, logging_steps=100),
        train_dataset=RandomImages(16),
        callbacks=[witness],
        plan=plan,
    )
    witness.trainer = trainer  # type: ignore[attr-defined]
    trainer.train()
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
