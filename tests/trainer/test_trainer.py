"""hf_transfer.trainer.trainer: a drop-in for Trainer that follows a plan exactly."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

import hf_transfer as ht
from hf_transfer.errors import ArgumentError, FrozenChangedError, PlanError
from hf_transfer.trainer.checks import check_processes
from tests.helpers import tiny
from tests.helpers.fast import slow_but
from tests.helpers.training import RandomImages, arguments, logged, trained


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_without_plan_the_trajectory_is_trainers(name: str, tmp_path: Path) -> None:
    """plan=None gives Trainer's losses, gradient norms and final weights, bit for bit (dropout on)."""
    torch.manual_seed(1)
    model = tiny.TRANSFORMERS_MODELS[name]()
    twin = copy.deepcopy(model)
    options = {"num_train_epochs": 2, "weight_decay": 0.1, "warmup_steps": 2}
    ours = trained(model, tmp_path, **options)
    stock_args = transformers.TrainingArguments(
        **{k: v for k, v in arguments(tmp_path, **options).to_dict().items() if k in ("output_dir", "learning_rate")},
        per_device_train_batch_size=8,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    stock = transformers.Trainer(twin, stock_args, train_dataset=RandomImages())
    stock.train()
    assert len(logged(ours, "loss")) == 8
    for key in ("loss", "grad_norm", "learning_rate"):
        assert logged(ours, key) == logged(stock, key)
    theirs = twin.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", slow_but(("vit", "resnet"), sorted(tiny.TRANSFORMERS_MODELS)))
def test_frozen_is_bit_identical_and_trained_moves(name: str, tmp_path: Path) -> None:
    """After training the last block, all other parameters and buffers are unchanged, and each trained group moved."""
    model = tiny.TRANSFORMERS_MODELS[name]()
    before = copy.deepcopy(model.state_dict())
    plan = ht.recipes.last_blocks(1)
    trained(model, tmp_path, plan)
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    moved = ht.select(model, plan.phases[0].train)
    assert changed <= {key for group in moved for key in group.parameter_names}
    assert all(changed.intersection(group.parameter_names) for group in moved)


def test_model_is_given_back_after_training(tmp_path: Path) -> None:
    """requires_grad and train() are as before the training."""
    model = tiny.resnet()
    trained(model, tmp_path, ht.recipes.linear_probe())
    assert all(p.requires_grad for p in model.parameters())
    model.train()
    assert all(module.training for module in model.modules())


def test_foreign_write_to_a_frozen_tensor_is_found(tmp_path: Path) -> None:
    """A callback that changes a frozen weight makes the run fail with the name of the weight."""

    class Meddler(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            model.resnet.embedder.embedder.convolution.weight.data.add_(1e-3)

    args = arguments(tmp_path)
    trainer = ht.TransferTrainer(
        tiny.resnet(), args, train_dataset=RandomImages(), callbacks=[Meddler()], plan=ht.recipes.linear_probe()
    )
    with pytest.raises(FrozenChangedError, match=r"embedder\.convolution\.weight"):
        trainer.train()


@pytest.mark.parametrize("name", slow_but(("vit",), sorted(tiny.TRANSFORMERS_MODELS)))
def test_resumed_run_equals_uninterrupted_run(name: str, tmp_path: Path) -> None:
    """Two phases, stopped in each and resumed from fresh weights, end in the same weights as one run."""
    torch.manual_seed(0)
    model = tiny.TRANSFORMERS_MODELS[name]()
    start = copy.deepcopy(model)
    plan = ht.recipes.lp_ft(probe_epochs=1)
    whole = trained(model, tmp_path / "whole", plan, save_strategy="steps", save_steps=3)
    for checkpoint in ("checkpoint-3", "checkpoint-6"):
        other = copy.deepcopy(start)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1.0)  # nothing but the checkpoint may decide
        resumed = ht.TransferTrainer(
            other,
            arguments(tmp_path / "whole", save_strategy="no"),
            train_dataset=RandomImages(),
            plan=plan,
        )
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / checkpoint))
        assert resumed.state.global_step == whole.state.global_step == 8
        expected = model.state_dict()
        assert all(torch.equal(v, expected[k]) for k, v in resumed.model.state_dict().items())


def test_resuming_under_another_plan_is_refused(tmp_path: Path) -> None:
    """The checkpoint of a linear probe cannot be resumed as fine-tuning; the message says which plan to use."""
    trained(tiny.vit(), tmp_path, ht.recipes.linear_probe(), save_strategy="steps", save_steps=2)
    trainer = ht.TransferTrainer(
        tiny.vit(), arguments(tmp_path), train_dataset=RandomImages(), plan=ht.recipes.fine_tune()
    )
    with pytest.raises(PlanError, match=r"checkpoint-2 was saved under another plan.*were linear probe, are fine"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_best_model_is_loaded_whole(name: str, tmp_path: Path) -> None:
    """load_best_model_at_end restores every tensor of the best checkpoint, also where stored names are older ones."""
    scores = iter([0.9, 0.1])
    kept: dict[str, torch.Tensor] = {}

    class Keep(transformers.TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            kept.update(copy.deepcopy(model.state_dict()) if not kept else {})

    options = {"num_train_epochs": 2, "save_strategy": "epoch", "eval_strategy": "epoch"}
    trainer = ht.TransferTrainer(
        tiny.TRANSFORMERS_MODELS[name](),
        arguments(tmp_path, **options, load_best_model_at_end=True, metric_for_best_model="score"),
        train_dataset=RandomImages(),
        eval_dataset=RandomImages(),
        compute_metrics=lambda _: {"score": next(scores)},
        callbacks=[Keep()],
        plan=ht.recipes.fine_tune(),
    )
    trainer.train()
    assert all(torch.equal(value, kept[key]) for key, value in trainer.model.state_dict().items())


def test_second_train_trains_again(tmp_path: Path) -> None:
    """train() called twice starts the plan anew from the present weights, with a fresh optimizer."""
    model = tiny.vit()
    trainer = trained(model, tmp_path, ht.recipes.lp_ft(probe_epochs=1))
    before = copy.deepcopy(model.state_dict())
    first = trainer.optimizer
    trainer.train()
    assert trainer.optimizer is not first
    assert not torch.equal(before["vit.layers.0.mlp.fc1.weight"], model.vit.layers[0].mlp.fc1.weight)


def test_from_scratch_draws_new_weights(tmp_path: Path) -> None:
    """The recipe from_scratch does not start from the model's weights."""
    model = tiny.resnet()
    with torch.no_grad():
        model.resnet.embedder.embedder.convolution.weight.fill_(7.0)
    trained(model, tmp_path, ht.recipes.from_scratch(), learning_rate=1e-6)
    assert model.resnet.embedder.embedder.convolution.weight.abs().max() < 3


def test_resuming_from_scratch_keeps_the_checkpoint(tmp_path: Path) -> None:
    """Weights are drawn anew when the run starts, not when it is resumed."""
    plan = ht.recipes.from_scratch()
    whole = trained(tiny.resnet(), tmp_path, plan, save_strategy="steps", save_steps=2)
    resumed = ht.TransferTrainer(tiny.resnet(), arguments(tmp_path), train_dataset=RandomImages(), plan=plan)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected = whole.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in resumed.model.state_dict().items())


@pytest.mark.slow
def test_smaller_batch_after_lack_of_memory_starts_the_plan_anew(tmp_path: Path) -> None:
    """auto_find_batch_size retries with half the batch: steps, optimizer and freezing are those of the new try."""
    model = tiny.resnet()
    before = copy.deepcopy(model.state_dict())
    args = arguments(tmp_path, auto_find_batch_size=True)
    trainer = ht.TransferTrainer(model, args, train_dataset=RandomImages(), plan=ht.recipes.linear_probe())
    original, calls = trainer.training_step, []

    def scarce(*step_args: Any) -> torch.Tensor:
        calls.append(len(step_args[1]["labels"]))
        if calls[-1] == 8:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return original(*step_args)

    trainer.training_step = scarce
    trainer.train()
    assert set(calls[1:]) < {1, 2, 3, 4, 5, 6, 7}
    assert trainer.state.global_step == trainer.resolved_plan.phases[-1].end
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"classifier.1.weight", "classifier.1.bias"}
    assert all(p.requires_grad for p in model.parameters())


def test_early_stopping_and_best_model(tmp_path: Path) -> None:
    """Evaluation, early stopping and loading of the best checkpoint work over phases, and frozen parts are checked."""
    args = arguments(
        tmp_path,
        num_train_epochs=5,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        learning_rate=1e-12,
    )
    trainer = ht.TransferTrainer(
        tiny.resnet(),
        args,
        train_dataset=RandomImages(),
        eval_dataset=RandomImages(),
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
        callbacks=[transformers.EarlyStoppingCallback(1)],
        plan=ht.recipes.lp_ft(probe_epochs=1),
    )
    trainer.train()
    # The first evaluation of the second phase is its first best; the second is no better.
    assert trainer.state.epoch == 3
    assert trainer.state.best_model_checkpoint is not None


def test_model_init_and_iterable_data(tmp_path: Path) -> None:
    """model_init is called by train(), and data without a length train for the plan's steps."""

    class Stream(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
        def __iter__(self) -> Any:
            images = RandomImages()
            return (images[i] for i in range(len(images)))

    plan = ht.TransferPlan((ht.Phase("a", "head", max_steps=3), ht.Phase("b", "all", max_steps=2)))
    trainer = ht.TransferTrainer(
        model_init=lambda: tiny.resnet(), args=arguments(tmp_path), train_dataset=Stream(), plan=plan
    )
    trainer.train()
    assert trainer.state.global_step == 5
    assert logged(trainer, "phase") == [1] * 3 + [2] * 2


def test_fractional_epochs_end_where_the_phases_end(tmp_path: Path) -> None:
    """Phases of 0.5 and 0.75 epochs (of 4 steps) take 2 and 3 steps."""
    plan = ht.TransferPlan((ht.Phase("a", "head", epochs=0.5), ht.Phase("b", "all", epochs=0.75)))
    trainer = trained(tiny.resnet(), tmp_path, plan)
    assert logged(trainer, "phase") == [1] * 2 + [2] * 3


def test_recipe_of_the_arguments_makes_the_plan(tmp_path: Path) -> None:
    """TransferArguments(recipe=...) is enough."""
    args = arguments(tmp_path, recipe="last_blocks", recipe_options='{"k": 1}')
    trainer = ht.TransferTrainer(tiny.vit(), args, train_dataset=RandomImages())
    assert trainer.plan == ht.recipes.last_blocks(1)


def test_plain_training_arguments_are_taken(tmp_path: Path) -> None:
    """transformers.TrainingArguments work, with and without a plan."""
    args = transformers.TrainingArguments(
        str(tmp_path), report_to="none", max_steps=1, save_strategy="no", dataloader_pin_memory=False
    )
    trainer = ht.TransferTrainer(tiny.vit(), args, train_dataset=RandomImages(), plan=ht.recipes.linear_probe())
    assert math.isfinite(trainer.train().training_loss)


@pytest.mark.parametrize(
    ("options", "keywords", "error", "message"),
    [
        ({"recipe": "lp_ft"}, {"plan": ht.recipes.lp_ft()}, PlanError, "give one of the two"),
        ({}, {"plan": ht.recipes.lp_ft(), "optimizers": (object(), None)}, PlanError, "either plan or optimizers"),
        ({"max_steps": 5}, {"plan": ht.recipes.lp_ft()}, PlanError, "max_steps=5 contradicts"),
        ({"recipe": "nonsense"}, {}, ArgumentError, "no recipe 'nonsense'.*lp_ft"),
        ({"norm": "train"}, {}, ArgumentError, "norm needs a recipe"),
    ],
)
def test_contradictions_are_refused(
    options: dict[str, Any], keywords: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    """A plan together with what contradicts it is refused when the trainer is made."""
    with pytest.raises(error, match=message):
        ht.TransferTrainer(tiny.vit(), arguments(tmp_path, **options), train_dataset=RandomImages(), **keywords)


@pytest.mark.parametrize(
    ("processes", "devices", "plan", "refused"),
    [
        (2, 1, ht.recipes.lp_ft(), None),
        (1, 2, ht.recipes.fine_tune(), "DataParallel"),
        (1, 1, ht.recipes.lp_ft(), None),
    ],
)
def test_plans_that_ranks_cannot_follow_are_refused(
    processes: int, devices: int, plan: ht.TransferPlan, refused: str | None
) -> None:
    """nn.DataParallel is refused before anything is made; several phases over several processes are not."""
    args: Any = SimpleNamespace(
        world_size=processes,
        n_gpu=devices,
        activation_checkpointing=False,
        activation_checkpointing_kwargs=None,
        deepspeed=None,
        fsdp=None,
    )
    with nullcontext() if refused is None else pytest.raises(PlanError, match=refused):
        check_processes(plan, args)


def test_columns_of_transforms_are_kept(tmp_path: Path) -> None:
    """A transform finds the columns that it reads; what it returns beyond the model's arguments is dropped."""
    from datasets import Dataset

    images = RandomImages(8)
    data = Dataset.from_dict({"index": list(range(8))}).with_transform(
        lambda rows: {
            "pixel_values": images.pixels[rows["index"]],
            "labels": images.labels[rows["index"]],
            "index": torch.tensor(rows["index"]),
        }
    )
    model = tiny.timm_wrapper("resnet18")  # passes what it does not know on to timm, which would fail
    trainer = ht.TransferTrainer(model, arguments(tmp_path), train_dataset=data, plan=ht.recipes.linear_probe())
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(("name", "last"), [("resnet", True), ("vit", False)])
def test_memory_format_follows_the_family(name: str, last: bool, tmp_path: Path) -> None:
    """auto: channels_last for a network with batch norm, default for a ViT; the checkpoint is saved all the same."""
    model = tiny.TRANSFORMERS_MODELS[name]()
    trainer = trained(model, tmp_path, ht.recipes.linear_probe())
    kernel = next(p for p in model.parameters() if p.ndim == 4 and min(p.shape) > 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last) is last
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "model.safetensors").is_file()
