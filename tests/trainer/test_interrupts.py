"""hf_transfer.trainer.interrupts: a signal ends the run after its step, with a checkpoint to go on from."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import hf_transfer as ht
from hf_transfer.errors import InterruptedTrainingError
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments, logged


class Signal(transformers.TrainerCallback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def _trainer(folder: Path, *callbacks: transformers.TrainerCallback) -> ht.TransferTrainer:
    torch.manual_seed(0)
    data = RandomImages()
    args = arguments(folder, eval_strategy="epoch", save_strategy="epoch")
    plan = ht.recipes.lp_ft(probe_epochs=1)
    return ht.TransferTrainer(tiny.vit(), args, None, data, data, callbacks=list(callbacks), plan=plan)


@pytest.mark.parametrize(
    ("number", "sent", "saved", "code"),
    [
        pytest.param(signal.SIGTERM, 1, 2, 143, marks=pytest.mark.slow),
        (signal.SIGINT, 3, 4, 130),
        pytest.param(signal.SIGTERM, 5, 6, 143, marks=pytest.mark.slow),
    ],
    ids=["in the first phase", "at the border, which ends an epoch", "in the second phase"],
)
def test_interrupted_and_resumed_as_if_nothing_had_been(
    number: int, sent: int, saved: int, code: int, tmp_path: Path
) -> None:
    """The step is finished and saved; the resumed run has the evaluations and the weights of a whole one."""
    trainer = _trainer(tmp_path / "cut", Signal(sent, number))
    with pytest.raises(InterruptedTrainingError, match=rf"step {saved}; checkpoint-{saved} .*resume_from") as caught:
        trainer.train()
    assert caught.value.exit_code == code
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert all(p.requires_grad for p in trainer.model.parameters())
    resumed = _trainer(tmp_path / "cut")
    resumed.train(resume_from_checkpoint=True)
    whole = _trainer(tmp_path / "whole")  # made now: a trainer sets the seed when it is made
    whole.train()
    assert logged(resumed, "eval_loss") == logged(whole, "eval_loss")
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())


def test_an_interrupted_run_saves_also_where_only_the_best_is_saved(tmp_path: Path) -> None:
    """With save_strategy="best", the last step of an epoch that brings no new best metric is saved all the same."""
    data, options = RandomImages(), {"eval_strategy": "epoch", "metric_for_best_model": "accuracy"}
    trainer = ht.TransferTrainer(
        tiny.vit(),
        arguments(tmp_path, save_strategy="best", **options),
        None,
        data,
        data,
        compute_metrics=lambda prediction: {"accuracy": 0.5},
        callbacks=[Signal(3, signal.SIGTERM)],
        plan=ht.recipes.lp_ft(probe_epochs=1),
    )
    with pytest.raises(InterruptedTrainingError, match="step 4; checkpoint-4"):
        trainer.train()
    assert (tmp_path / "checkpoint-4" / "trainer_state.json").is_file()


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    """SIGINT twice is the usual KeyboardInterrupt."""
    trainer = _trainer(tmp_path, Signal(1, signal.SIGINT), Signal(1, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.train()
    assert not isinstance(caught.value, InterruptedTrainingError)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_handlers_of_the_program_stay(tmp_path: Path) -> None:
    """A program that handles SIGTERM itself goes on doing so."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        trainer = _trainer(tmp_path, Signal(1, signal.SIGTERM))
        trainer.train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    assert trainer.state.global_step == 8


def test_without_a_plan_signals_are_trainers(tmp_path: Path) -> None:
    """The drop-in leaves SIGINT alone."""
    args = arguments(tmp_path)
    trainer = ht.TransferTrainer(tiny.vit(), args, train_dataset=RandomImages(), callbacks=[Signal(1, signal.SIGINT)])
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.train()
    assert not isinstance(caught.value, InterruptedTrainingError)
