"""hf_transfer.trainer.record: what the record says of a training is what the live trainer did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback, get_scheduler

import hf_transfer as ht
from hf_transfer.reporting.card import render_card
from hf_transfer.reporting.html_report import write_report
from hf_transfer.trainer.record import bare_record, training_facts
from tests.helpers import tiny
from tests.helpers.card_records import section, tables_in
from tests.helpers.training import RandomImages, arguments


class Rates(TrainerCallback):
    """Notes the rates of the live optimizer at each step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append([group["lr"] for group in kwargs["optimizer"].param_groups])


class StopAt(TrainerCallback):
    """Ends the run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def settings(trainer: Any) -> dict[str, str]:
    """The settings that the card of a run without a plan shows."""
    return dict(tables_in(section(render_card(bare_record(trainer).to_dict()), "What was trained"))[0][1:])


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_run_without_a_plan_tells_its_rates(kind: str, tmp_path: Path) -> None:
    """Learning rate, weight decay, schedule and warm-up of a plain run, with what each counts for."""
    model, rates = tiny.vit(), Rates()
    options = {"learning_rate": 3e-3, "weight_decay": 0.125, "lr_scheduler_type": kind, "optim": "adamw_torch"}
    options |= {"max_steps": 4, "warmup_steps": 2 * (kind == "linear")}
    trainer = ht.TransferTrainer(
        model,
        arguments(tmp_path, **options),
        train_dataset=RandomImages(16),
        callbacks=[rates],
    )
    trainer.train()
    shown = settings(trainer)
    assert max(max(step) for step in rates.seen) == pytest.approx(3e-3)
    decayed, plain = (sum(p.numel() for p in group["params"]) for group in trainer.optimizer.param_groups)
    assert shown["Learning rate, before the schedule"] == "0.003"
    assert shown["Weight decay"] == f"0.125 ({decayed:,} parameters); 0 ({plain:,} parameters)"
    assert shown["Schedule"] == kind
    assert shown.get("Warm-up steps") == ("2" if kind == "linear" else None)


def test_given_optimizer_and_schedule_are_told_and_not_the_arguments(tmp_path: Path) -> None:
    """An optimizer of the user's own: its groups' rates; of a schedule made outside only the class is known."""
    model = tiny.vit()
    head = list(model.classifier.parameters())
    body = list(model.vit.parameters())
    optimizer = torch.optim.SGD(
        [{"params": body, "lr": 1e-3}, {"params": head, "lr": 0.05, "weight_decay": 0.2}], lr=7
    )
    schedule = get_scheduler("cosine", optimizer, 1, 3)
    trainer = ht.TransferTrainer(
        model,
        arguments(tmp_path, max_steps=3, learning_rate=0.9, lr_scheduler_type="linear"),
        train_dataset=RandomImages(16),
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    shown = settings(trainer)
    counts = [sum(p.numel() for p in part) for part in (body, head)]
    told = shown["Learning rate, before the schedule"]
    assert told == f"0.001 ({counts[0]:,} parameters); 0.05 ({counts[1]:,} parameters)"
    assert shown["Weight decay"] == f"0 ({counts[0]:,} parameters); 0.2 ({counts[1]:,} parameters)"
    assert shown["Schedule"] == "LambdaLR" and "Warm-up steps" not in shown
    assert "0.9" not in [value for key, value in shown.items() if "rate" in key]


def test_sharding_is_a_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What divides the model over the processes is recorded, and nothing where each has a whole one."""
    trainer = ht.TransferTrainer(
        tiny.vit(), arguments(tmp_path, max_steps=1), train_dataset=RandomImages(8), plan=ht.recipes.fine_tune()
    )
    trainer.train()
    assert "sharded_by" not in training_facts(trainer)
    for attribute, name in (("is_fsdp_enabled", "FSDP"), ("is_deepspeed_enabled", "DeepSpeed")):
        with monkeypatch.context() as patch:
            patch.setattr(trainer, attribute, True)
            assert training_facts(trainer)["sharded_by"] == name


def phases_of(*steps: int) -> ht.TransferPlan:
    """Phases of so many steps, the first of the head alone."""
    trains = ("head", "last:1", "all")
    return ht.TransferPlan(tuple(ht.Phase(f"p{i}", trains[i], max_steps=n) for i, n in enumerate(steps)))


@pytest.mark.parametrize(
    ("stop", "cells", "trained"),
    [
        (9, ["4 (1 to 4)", "6 (5 to 10)"], [True, True]),
        (6, ["4 (1 to 4)", "2 of 6 planned, stopped early (5 to 6)"], [True, True]),
        (3, ["3 of 4 planned, stopped early (1 to 3)", "0 of 6 planned, not reached"], [True, False]),
    ],
)
def test_steps_are_those_that_were_made(stop: int, cells: list[str], trained: list[bool], tmp_path: Path) -> None:
    """A run that a callback ends shows the steps that it made, and nothing as trained in a phase that never came."""
    trainer = ht.TransferTrainer(
        tiny.vit(),
        arguments(tmp_path),
        train_dataset=RandomImages(16),
        plan=phases_of(4, 6),
        callbacks=[StopAt(stop + (stop == 9))],
    )
    trainer.train()
    made = bare_record(trainer).to_dict()
    assert made["training"]["steps"] == made["training"]["plan"]["phases"][-1]["end_step"]
    groups, phases = tables_in(section(render_card(made), "What was trained"))[:2]
    assert [row[phases[0].index("Steps")] for row in phases[1:]] == cells
    assert groups[0][4:] == [
        name if reached else f"{name} (not reached)" for name, reached in zip(("p0", "p1"), trained, strict=True)
    ]
    assert [cell != "0 trained" for cell in groups[-1][4:]] == trained
    write_report(tmp_path / "report.html", made, {}, [])
    report = (tmp_path / "report.html").read_text()
    assert ("stopped early" in report) == (stop == 6 or stop == 3)
    assert ("not reached (6 steps planned)" in report) == (stop == 3)


def test_phase_that_early_stopping_ended(tmp_path: Path) -> None:
    """A phase that stopped early within the run tells its steps and those planned; the next one follows it whole."""
    trainer = ht.TransferTrainer(
        tiny.vit(),
        arguments(
            tmp_path,
            eval_strategy="steps",
            eval_steps=2,
            metric_for_best_model="loss",
            learning_rate=1e-4,
            save_strategy="no",
        ),
        train_dataset=RandomImages(16),
        eval_dataset=RandomImages(8),
        plan=ht.TransferPlan((ht.Phase("p0", "head", epochs=5), ht.Phase("p1", "all", max_steps=3))),
        callbacks=[EarlyStoppingCallback(1, early_stopping_threshold=9.0)],
    )
    trainer.train()
    phases = tables_in(section(render_card(bare_record(trainer).to_dict()), "What was trained"))[1]
    steps, epochs = (phases[0].index(name) for name in ("Steps", "Epochs"))
    assert phases[1][steps] == "4 of 10 planned, stopped early (1 to 4)" and phases[1][epochs] == "5 planned"
    assert phases[2][steps] == "3 (5 to 7)" and trainer.state.global_step == 7
