"""hf_transfer.trainer.base: a loss that is not finite stops the run before it hurts."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import hf_transfer as ht
from hf_transfer.errors import NonFiniteLossError
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments, logged


def test_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    """NaN stops before the optimizer step, names step and phase, and leaves earlier checkpoints."""
    data = RandomImages()
    data.pixels[:] = torch.nan
    model = tiny.vit()
    start = copy.deepcopy(model.state_dict())
    trainer = ht.TransferTrainer(model, arguments(tmp_path), train_dataset=data, plan=ht.recipes.linear_probe())
    with pytest.raises(NonFiniteLossError, match=r"loss became nan at step 1 .*'linear probe'.*No good checkpoint"):
        trainer.train()
    assert all(torch.equal(v, start[k]) for k, v in model.state_dict().items())


def test_checkpoint_of_the_hurt_weights_is_not_called_good(tmp_path: Path) -> None:
    """When step 2 hurts the weights, the last good checkpoint is that of step 1, not that of step 2."""

    class Hurt(transformers.TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 1:
                model.classifier.weight.data.fill_(torch.nan)

    args = arguments(tmp_path, save_strategy="steps", save_steps=1)
    trainer = ht.TransferTrainer(
        tiny.vit(), args, train_dataset=RandomImages(), callbacks=[Hurt()], plan=ht.recipes.linear_probe()
    )
    with pytest.raises(NonFiniteLossError, match=r"at step 3 .*last good checkpoint is checkpoint-1 "):
        trainer.train()
    assert (tmp_path / "checkpoint-1" / "model.safetensors").is_file()


def test_evaluation_loss_that_is_not_finite_stops_before_the_save(tmp_path: Path) -> None:
    """With one checkpoint kept, weights that give a NaN evaluation loss do not replace it."""

    class Hurt(transformers.TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 7:
                model.classifier.weight.data.fill_(torch.nan)

    every = {"save_strategy": "epoch", "eval_strategy": "epoch", "save_total_limit": 1, "num_train_epochs": 3}
    trainer = ht.TransferTrainer(
        tiny.vit(),
        arguments(tmp_path, **every),
        train_dataset=RandomImages(),
        eval_dataset=RandomImages(),
        callbacks=[Hurt()],
        plan=ht.recipes.linear_probe(),
    )
    with pytest.raises(NonFiniteLossError, match=r"eval_loss became nan at step 8 .*checkpoint-4 "):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]


def test_metrics_of_the_user_may_be_anything(tmp_path: Path) -> None:
    """Lists and infinities that the user's own metrics return stop nothing, although their names end in loss."""
    trainer = ht.TransferTrainer(
        tiny.vit(),
        arguments(tmp_path, eval_strategy="epoch"),
        train_dataset=RandomImages(8),
        eval_dataset=RandomImages(8),
        compute_metrics=lambda _: {"class_loss": [1.0, 2.0], "log_loss": math.inf},
    )
    trainer.train()
    assert logged(trainer, "eval_log_loss") == [math.inf]


def test_a_run_forgets_how_an_earlier_one_ended(tmp_path: Path) -> None:
    """A broken loss that another exception kept from being reported does not stop the next training."""
    trainer = ht.TransferTrainer(tiny.vit(), arguments(tmp_path), train_dataset=RandomImages(8))
    trainer._broken_loss = math.nan
    trainer.train()
    assert trainer.state.global_step == 1
