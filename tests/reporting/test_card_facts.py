"""Facts of the card against the live objects: random plans are trained for a few steps, and every learning rate,
weight decay, frozen group, phase, schedule, step, optimizer and count that the card prints is compared with what was
there."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

import hf_transfer as ht
from hf_transfer.phases.learning_rate_range import Reading
from hf_transfer.reporting.card import render_card
from hf_transfer.trainer import range_test as range_test_trainer
from hf_transfer.trainer.record import bare_record
from tests.helpers import tiny
from tests.helpers.card_records import section, tables_in
from tests.helpers.fast import slow_but
from tests.helpers.labelled_images import labelled_images, processor
from tests.helpers.training import RandomImages, arguments

MODELS = {
    "vit": tiny.vit,
    "resnet": tiny.resnet,
    "convnext": tiny.convnext,
    "timm": lambda: tiny.timm_wrapper("resnet18"),
}
KINDS = ("cached probe", "SGD with groups", "from scratch", "free", "one schedule", "solved head", "measured rates")
SELECTORS = ("head", "all", "last:1", "last:2", "norm", "bias", ("last:1", "norm"))
SCHEDULES = ("constant", "linear", "cosine")
LEAST = 0.25
MEASURED = (4e-3, 6e-4, 9e-5)


class Witness(TrainerCallback):
    """Notes, at the steps of each phase, what the live optimizer and the model say; may end the run."""

    def __init__(self, stop_at: int | None) -> None:
        self.stop_at = stop_at
        self.rates: dict[str, dict[int, list[float]]] = {}
        self.decay: dict[str, dict[int, float]] = {}
        self.trained: dict[str, set[int]] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = kwargs.get("trainer") or self.trainer
        phase = trainer.resolved_plan.phases[self._number(trainer, state.global_step)].phase.name
        for group in kwargs["optimizer"].param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad and parameter.grad is not None:
                    self.trained.setdefault(phase, set()).add(id(parameter))
                    self.rates.setdefault(phase, {}).setdefault(id(parameter), []).append(group["lr"])
                    self.decay.setdefault(phase, {})[id(parameter)] = group["weight_decay"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= state.global_step == self.stop_at

    @staticmethod
    def _number(trainer: Any, step: int) -> int:
        return next(i for i, p in enumerate(trainer.resolved_plan.phases) if step < p.end)


@dataclass(frozen=True)
class Draw:
    """A random run.

    Attributes:
        kind: Of `KINDS`.
        plan: One to three phases of three steps.
        optimizer: Its name.
        schedule: That of the arguments.
        least: The least share of its rate to which a cosine falls, if it does not fall to zero.
        stop_at: A step at which the run is ended early; None lets it finish.
    """

    kind: str
    plan: ht.TransferPlan
    optimizer: str
    schedule: str
    least: float | None
    stop_at: int | None


def drawn(seed: int) -> Draw:
    """The run of a seed."""
    rng, kind = random.Random(seed), KINDS[seed // len(MODELS)]
    # A least rate is an option of all phases at once, which not all schedules take.
    least = LEAST if rng.random() < 0.3 else None
    schedules = ("cosine_with_min_lr", "constant") if least else SCHEDULES
    phases = [
        ht.Phase(
            name=f"phase {number}",
            train=rng.choice(SELECTORS),
            max_steps=3,
            learning_rate=None if kind == "measured rates" else rng.choice((1e-3, 3.125e-4, 7e-5)),
            head_lr_ratio=rng.choice((1, 10)),
            layer_decay=rng.choice((1.0, 0.75)),
            weight_decay=rng.choice((0.0, 0.05)),
            warmup=None if kind == "one schedule" else rng.choice((0, 1)),
            lr_scheduler_type=None if kind == "one schedule" else rng.choice((None, *schedules)),
            average_from=0.4 if (seed + number) % 2 else None,  # after the first of three steps
        )
        for number in range(rng.randint(2 if kind == "solved head" else 1, 3))
    ]
    if kind == "cached probe":
        phases[0] = replace(phases[0], train="head")
    if kind == "solved head":
        phases[0] = ht.Phase("phase 0", "head", learning_rate=1e-3, head_solver=rng.choice(("logistic", "ridge")))
    if kind == "SGD with groups":
        phases[-1] = replace(phases[-1], train="all", head_lr_ratio=10, layer_decay=0.75)
    plan = ht.TransferPlan(
        tuple(phases),
        init="random" if kind == "from scratch" else "pretrained",
        schedule="run" if kind == "one schedule" else "phase",
    )
    optimizer = "sgd" if kind == "SGD with groups" else rng.choice(("adamw_torch", "sgd"))
    steps = 3 * sum(phase.head_solver is None for phase in phases)
    stop_at = rng.randint(1, steps - 1) if seed % 3 == 0 else None
    return Draw(kind, plan, optimizer, rng.choice(schedules), least, stop_at)


SEEDS = range(len(KINDS) * len(MODELS))
ONE_OF_EACH_KIND = [len(MODELS) * kind + kind % len(MODELS) for kind in range(len(KINDS))]


def test_the_draws_hold_what_is_to_be_compared() -> None:
    """All schedules, a solved phase, measured rates, and runs that stop early, also before a phase, are among them."""
    runs = [drawn(seed) for seed in SEEDS]
    followed = {phase.lr_scheduler_type or run.schedule for run in runs for phase in run.plan.phases}
    assert followed == {*SCHEDULES, "cosine_with_min_lr"}
    assert {run.kind for run in runs} == set(KINDS)
    stopped = [run for run in runs if run.stop_at is not None]
    assert {run.kind for run in stopped} == set(KINDS)
    assert any(run.stop_at <= 3 < 3 * len(run.plan.phases) for run in stopped if run.stop_at is not None)


def train(draw: Draw, model: nn.Module, folder: Path) -> tuple[ht.TransferTrainer, Witness]:
    """Make the run of a draw."""
    witness = Witness(draw.stop_at)
    trainer = ht.TransferTrainer(
        model=model,
        args=arguments(
            folder,
            optim=draw.optimizer,
            weight_decay=0.1,
            logging_steps=100,
            cache_features="on" if draw.kind == "cached probe" else "off",
            lr_scheduler_type=draw.schedule,
            lr_scheduler_kwargs=None if draw.least is None else {"min_lr_rate": draw.least},
            warmup_steps=2,
            learning_rate="auto" if draw.kind == "measured rates" else 5e-4,
        ),
        train_dataset=RandomImages(32 if draw.kind == "solved head" else 16),
        callbacks=[witness],
        plan=draw.plan,
    )
    witness.trainer = trainer  # type: ignore[attr-defined]
    trainer.train()
    return trainer, witness


@pytest.fixture
def quick_range_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Range tests of three steps, of which it is known what each chooses."""
    chosen = iter(MEASURED)
    monkeypatch.setattr(range_test_trainer, "read_off", lambda *_: Reading(next(chosen), "given by the test"))
    monkeypatch.setattr(range_test_trainer, "geometric_rates", lambda ratio: (1e-4 / ratio, 1e-3 / ratio))


@pytest.mark.parametrize("seed", slow_but(ONE_OF_EACH_KIND, SEEDS))
def test_card_is_what_was_trained(seed: int, tmp_path: Path, quick_range_tests: None) -> None:
    """Group by group, phase by phase and step by step, the card's cells are those of the live optimizer."""
    draw = drawn(seed)
    model: nn.Module = MODELS[sorted(MODELS)[seed % len(MODELS)]]()
    trainer, witness = train(draw, model, tmp_path)
    assert any(decision.used for decision in trainer.cache_decisions) == (draw.kind == "cached probe")
    card = render_card(bare_record(trainer).to_dict())
    found = tables_in(section(card, "What was trained"))
    groups, phases = found[0], rows_of(found[1])
    settings = dict(next(table[1:] for table in found if table[0][0] == "Setting"))
    names = [phase.name for phase in draw.plan.phases]
    reached = [name for name in names if name in witness.trained]
    solved = names[:1] if draw.kind == "solved head" else []
    assert groups[0][4:] == [n if n in (*solved, *reached) else f"{n} (not reached)" for n in names]
    check_groups(groups, names, model, witness, solved)
    check_phases(phases, names, trainer, witness, draw)
    check_rates(groups, phases, settings, model, witness, run="One schedule runs over all phases" in card)
    assert settings["Optimizer"].startswith({"adamw_torch": "AdamW", "sgd": "SGD"}[draw.optimizer])
    assert settings["Optimizer steps"] == str(trainer.state.global_step)
    assert ("All weights were drawn at random" in card) == (draw.plan.init == "random")
    rates = {rate for each in witness.rates.values() for found in each.values() for rate in found}
    assert draw.kind != "SGD with groups" or (len(rates) > 2 and type(trainer.optimizer.optimizer).__name__ == "SGD")


def rows_of(table: list[list[str]]) -> dict[str, dict[str, str]]:
    """A table's rows by their first cell."""
    return {row[0]: dict(zip(table[0], row, strict=True)) for row in table[1:]}


def check_groups(
    groups: list[list[str]], names: list[str], model: nn.Module, witness: Witness, solved: list[str]
) -> None:
    """Each cell is frozen, solved, or has the decay and the number of tensors that were seen."""
    parameters = dict(model.named_parameters())
    for row, group in zip(groups[1:-1], ht.wrap(model).layer_groups, strict=True):
        own = [parameters[name] for name in group.parameter_names]
        assert (row[1], row[3]) == (f"`{group.name}`", f"{sum(p.numel() for p in own):,}")
        for cell, name in zip(row[4:], names, strict=True):
            trained = [p for p in own if id(p) in witness.trained.get(name, ())]
            if name in solved:
                assert cell == ("solved" if group.role == "head" else "frozen")
                continue
            assert (cell == "frozen") == (not trained), (group.name, name)
            if trained:
                decay = max(witness.decay[name][id(p)] for p in trained)
                assert (f"decay {decay:.3g}" in cell) == (decay > 0), (cell, decay)
                assert ("tensors" in cell) == (len(trained) < len(own)), (cell, len(trained), len(own))
    seen = [sum(p.numel() for p in parameters.values() if id(p) in witness.trained.get(name, ())) for name in names]
    head = sum(parameters[name].numel() for name in ht.wrap(model).head.parameter_names)
    counts = [head if name in solved else count for name, count in zip(names, seen, strict=True)]
    assert groups[-1][4:] == [f"{count:,} trained" for count in counts]


def check_phases(
    phases: dict[str, dict[str, str]], names: list[str], trainer: ht.TransferTrainer, witness: Witness, draw: Draw
) -> None:
    """Names, schedules, steps made, whether they were fewer than planned, and measured rates."""
    assert list(phases) == names
    done = 0
    for number, (name, phase) in enumerate(zip(names, draw.plan.phases, strict=True)):
        row = phases[name]
        made = max((len(rates) for rates in witness.rates.get(name, {}).values()), default=0)
        if phase.head_solver is not None:
            assert (row["Schedule"], row["Steps"], row["Solved by"]) == ("none", "0", phase.head_solver)
            continue
        assert row["Schedule"] == (phase.lr_scheduler_type or draw.schedule)
        early = {3: "", 0: " of 3 planned, not reached"}.get(made, " of 3 planned, stopped early")
        assert row["Steps"] == f"{made}{early}" + (f" ({done + 1} to {done + made})" if made else "")
        averaged = f"mean over the steps from {done + 2} on" if phase.average_from and made > 1 else ""
        assert row.get("Weights", "") == averaged
        if draw.kind == "measured rates":
            assert float(row["Learning rate by range test"] or 0) == (MEASURED[number] if made else 0)
        done += made
    assert done == trainer.state.global_step == (draw.stop_at or done)


def check_rates(
    groups: list[list[str]],
    phases: dict[str, dict[str, str]],
    settings: dict[str, str],
    model: nn.Module,
    witness: Witness,
    run: bool,
) -> None:
    """Peak rate, schedule, warm-up and planned steps, as they are printed, give the rate of every tensor and step."""
    parameters = dict(model.named_parameters())
    least = float(settings.get("Options of the schedule", "min_lr_rate 0").removeprefix("min_lr_rate "))
    lengths = {name: planned(row["Steps"]) for name, row in phases.items()}
    for column, (name, row) in enumerate(phases.items()):
        warmup = int(phases[next(iter(phases))]["Warm-up steps"] if run else row["Warm-up steps"])
        before = sum(list(lengths.values())[:column]) if run else 0
        length = sum(lengths.values()) if run else lengths[name]
        for cells, group in zip(groups[1:-1], ht.wrap(model).layer_groups, strict=True):
            for rates in (witness.rates.get(name, {}).get(id(parameters[each])) for each in group.parameter_names):
                for step, rate in enumerate(rates or ()):
                    share = factor(row["Schedule"], warmup, length, before + step, least)
                    peak = float(cells[4 + column].split(",")[0])
                    assert rate == pytest.approx(peak * share, rel=5e-3, abs=1e-12), (group.name, name, step)


def planned(steps: str) -> int:
    """How many steps a phase was to have, by its cell."""
    found = re.search(r"of (\d+) planned", steps) or re.match(r"(\d+)", steps)
    assert found is not None
    return int(found.group(1))


def factor(schedule: str, warmup: int, steps: int, step: int, least: float) -> float:
    """What a schedule makes of a peak rate, by its definition."""
    if step < warmup:
        return step / warmup
    share = (step - warmup) / max(1, steps - warmup)
    cosine = (1 + math.cos(math.pi * share)) / 2
    falls = {"linear": 1 - share, "cosine": cosine, "cosine_with_min_lr": least + (1 - least) * cosine}
    return falls.get(schedule, 1.0)


@pytest.mark.parametrize("solver", ["logistic", "svm", "ridge", "sgd"])
def test_card_of_a_solved_head(solver: str, tmp_path: Path) -> None:
    """A head that was solved on cached features: what the card calls frozen is as it was, bit for bit, what it calls
    solved is not, and counts, solver and chosen value are those of the solution; no step is told."""
    torch.manual_seed(0)
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
    chosen = told[f"Chosen {solved.parameter.replace('_', ' ')}"].replace(",", "")
    assert float(chosen) == pytest.approx(solved.value, rel=5e-3)
    assert "Optimizer steps" not in card and ("earning rate" not in card or solver == "sgd")  # its grid's choice
