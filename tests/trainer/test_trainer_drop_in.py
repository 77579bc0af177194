"""hf_transfer.trainer.trainer: what users of Trainer do in their scripts and subclasses works, or says what does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import Trainer, TrainingArguments

import hf_transfer as ht
from hf_transfer.errors import NonFiniteLossError, PlanError
from hf_transfer.trainer.args import TransferOptions
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments, logged


def _vit() -> nn.Module:
    torch.manual_seed(0)
    return tiny.vit(hidden_dropout_prob=0.0)


@pytest.mark.parametrize("recipe", [None, "lp_ft"])
def test_hyperparameter_search_runs_all_trials(recipe: str | None, tmp_path: Path) -> None:
    """Each trial of a search trains a model of its own, with a plan too, at the rate that was suggested for it."""
    plan = None if recipe is None else ht.recipes.get(recipe, probe_epochs=1, layer_decay=0.75)
    used: list[float] = []

    class Watched(ht.TransferTrainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            result = super().train(*args, **kwargs)
            used.append(max(logged(self, "learning_rate")))
            return result

    trainer = Watched(
        args=arguments(tmp_path, num_train_epochs=1, lr_scheduler_type="constant"),
        train_dataset=RandomImages(16),
        eval_dataset=RandomImages(8),
        model_init=_vit,
        plan=plan,
    )
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-3, 2e-3])},
        backend="optuna",
        n_trials=3,
        direction="minimize",
    )
    ratio = 1.0 if plan is None else max(phase.head_lr_ratio for phase in plan.phases)
    assert len(used) == 3 and best.objective > 0
    assert all(any(rate == pytest.approx(given * ratio) for given in (1e-3, 2e-3)) for rate in used)


class DividesByItems(ht.TransferTrainer):
    """A script's own loss, normalised as transformers' guide has it."""

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(pixel_values=inputs["pixel_values"])
        loss = functional.cross_entropy(outputs.logits, inputs["labels"], reduction="sum") / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


class PassesItemsOn(ht.TransferTrainer):
    """A script that only watches the loss."""

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch=num_items_in_batch)


@pytest.mark.parametrize("trainer_class", [DividesByItems, PassesItemsOn])
def test_a_loss_of_a_subclass_is_scaled_once(trainer_class: type[ht.TransferTrainer], tmp_path: Path) -> None:
    """Four micro-batches give the loss of the whole batch, whether a subclass divides by the items or leaves that."""
    losses = []
    for size, steps in ((16, 1), (4, 4)):
        args = arguments(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
        trainer = trainer_class(_vit(), args, train_dataset=RandomImages(16))
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_an_optimizer_without_the_groups_of_the_plan_is_refused(tmp_path: Path) -> None:
    """A subclass's own create_optimizer cannot follow a plan; the message says what to override instead."""

    class Own(ht.TransferTrainer):
        def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
            return self.optimizer

    Own(_vit(), arguments(tmp_path), train_dataset=RandomImages(8)).train()
    trainer = Own(_vit(), arguments(tmp_path), train_dataset=RandomImages(8), plan=ht.recipes.fine_tune())
    with pytest.raises(PlanError, match="Own does not have .* override get_optimizer_cls_and_kwargs"):
        trainer.train()


def test_an_optimizer_that_chooses_groups_is_named_as_the_user_did(tmp_path: Path) -> None:
    """The refusal has the name that `--optim` takes."""
    args = arguments(tmp_path, optim="lomo")
    trainer = ht.TransferTrainer(_vit(), args, train_dataset=RandomImages(8), plan=ht.recipes.fine_tune())
    trainer.optimizer_cls_and_kwargs = (torch.optim.SGD, {"lr": 0.1, "model": trainer.model})
    with pytest.raises(PlanError, match="The optimizer lomo chooses"):
        trainer.train()


def test_nothing_to_resume_from_is_said_in_the_words_of_trainer(tmp_path: Path) -> None:
    """Without a plan `resume_from_checkpoint=True` ends as in Trainer, with a plan in our own words."""
    said = []
    for trainer_class in (Trainer, ht.TransferTrainer):
        with pytest.raises(ValueError, match="No valid checkpoint") as error:
            trainer_class(_vit(), arguments(tmp_path), train_dataset=RandomImages(8)).train(
                resume_from_checkpoint=True
            )
        said.append(str(error.value))
    assert said[0] == said[1]
    planned = ht.TransferTrainer(_vit(), arguments(tmp_path), train_dataset=RandomImages(8), plan=ht.recipes.lp_ft())
    with pytest.raises(PlanError, match="Leave resume_from_checkpoint out"):
        planned.train(resume_from_checkpoint=True)


class Infinite(ht.TransferTrainer):
    """A loss that breaks at once."""

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(model, inputs, *args, **kwargs) * torch.inf


@pytest.mark.parametrize("plan", [None, ht.recipes.fine_tune()])
def test_the_stop_at_a_broken_loss_can_be_switched_off(plan: ht.TransferPlan | None, tmp_path: Path) -> None:
    """`stop_on_non_finite_loss=False` trains on as Trainer does; by default the run stops."""
    with pytest.raises(NonFiniteLossError, match="stop_on_non_finite_loss=False"):
        Infinite(_vit(), arguments(tmp_path), train_dataset=RandomImages(16), plan=plan).train()
    args = arguments(tmp_path, stop_on_non_finite_loss=False)
    trainer = Infinite(_vit(), args, train_dataset=RandomImages(16), plan=plan)
    trainer.train()
    assert trainer.state.global_step == 2


def test_plain_arguments_mean_the_defaults(tmp_path: Path) -> None:
    """`TrainingArguments` and `TransferArguments` without a word of ours are the same settings."""
    plain = TrainingArguments(output_dir=str(tmp_path))
    assert TransferOptions.of(plain) == TransferOptions.of(ht.TransferArguments(output_dir=str(tmp_path)))
    stated = ht.TransferArguments(output_dir=str(tmp_path), cache_features="off", memory_format="default")
    assert TransferOptions.of(stated).cache_features == "off"
