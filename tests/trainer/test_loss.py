"""hf_transfer.trainer.loss: which models scale their loss by num_items_in_batch, the loss of those that have none, and
that the loss of accumulated batches is that of the whole batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BeitConfig, BeitForImageClassification, MobileViTConfig, MobileViTForImageClassification

import hf_transfer as ht
from hf_transfer.trainer.loss import LogitsLoss, uses_num_items_in_batch
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments, logged, trained


def _beit() -> nn.Module:
    config = BeitConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    config.num_labels = 3
    config.drop_path_rate = 0.0
    return BeitForImageClassification(config)


def _mobilevit() -> nn.Module:
    config = MobileViTConfig(
        image_size=32, hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32], num_attention_heads=2
    )
    config.num_labels = 3
    return MobileViTForImageClassification(config)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny.vit(hidden_dropout_prob=0.0),
        tiny.resnet,
        *(
            pytest.param(make, marks=pytest.mark.slow)
            for make in (tiny.convnext, tiny.swin, _beit, _mobilevit, tiny.efficientnet)
        ),
    ],
    ids=["vit", "resnet", "convnext", "swin", "beit", "mobilevit", "efficientnet"],
)
def test_gradient_accumulation_gives_the_same_loss_and_gradient(make: Any, tmp_path: Path) -> None:
    """One batch of 16 and 4 of 4 give the same loss and gradient norm (batch norm in eval, no randomness)."""
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if "Drop" in type(module).__name__:
            module.forward = lambda hidden, *_, **__: hidden
    plan = ht.recipes.fine_tune(head_lr_ratio=1.0, norm="eval")
    values = []
    for size, steps in ((16, 1), (4, 4)):
        trainer = trained(
            copy.deepcopy(model),
            tmp_path,
            plan,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_grad_norm=1e9,
            learning_rate=1e-4,
        )
        values.append((logged(trainer, "loss")[0], logged(trainer, "grad_norm")[0]))
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def test_micro_batches_of_different_size_are_weighted(tmp_path: Path) -> None:
    """14 images as one batch and as 8 + 6 give the same loss and gradient norm."""
    torch.manual_seed(0)
    model = tiny.resnet()
    values = []
    for size, steps in ((14, 1), (8, 2)):
        args = arguments(
            tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_grad_norm=1e9
        )
        trainer = ht.TransferTrainer(
            copy.deepcopy(model), args, train_dataset=RandomImages(14), plan=ht.recipes.fine_tune()
        )
        trainer.train()
        values.append((logged(trainer, "loss")[0], logged(trainer, "grad_norm")[0]))
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def test_accumulation_is_right_for_several_labels_per_image(tmp_path: Path) -> None:
    """A ViT with multi-label targets gives the same loss and gradient norm for one batch of 16 and 4 of 4."""

    class ManyLabels(RandomImages):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            item = super().__getitem__(index)
            return item | {"labels": torch.nn.functional.one_hot(item["labels"], 3).float()}

    model = tiny.vit(hidden_dropout_prob=0.0)
    values = []
    for size, steps in ((16, 1), (4, 4)):
        args = arguments(
            tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_grad_norm=1e9
        )
        trainer = ht.TransferTrainer(copy.deepcopy(model), args, train_dataset=ManyLabels(16))
        trainer.train()
        values.append((logged(trainer, "loss")[0], logged(trainer, "grad_norm")[0]))
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def test_ignored_labels_do_not_count(tmp_path: Path) -> None:
    """With labels of -100 in one micro-batch the loss is still that of the whole batch."""
    torch.manual_seed(0)
    model = tiny.resnet()
    data = RandomImages(16)
    data.labels[torch.tensor([0, 1, 2, 5, 7])] = -100
    values = []
    for size, steps in ((16, 1), (8, 2)):
        args = arguments(
            tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_grad_norm=1e9
        )
        trainer = ht.TransferTrainer(copy.deepcopy(model), args, train_dataset=data, plan=ht.recipes.fine_tune())
        trainer.train()
        values.append((logged(trainer, "loss")[0], logged(trainer, "grad_norm")[0]))
    assert values[1] == pytest.approx(values[0], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "answer"),
    [("vit", True), ("dinov2", True), ("swin", True), ("resnet", False), ("efficientnet", False)],
)
def test_source_agrees_with_behaviour(name: str, answer: bool) -> None:
    """The answer from the source is what the model does: halving or not when twice the items are told."""
    model = tiny.TRANSFORMERS_MODELS[name]().eval()
    assert uses_num_items_in_batch(model) is answer
    batch = {"pixel_values": torch.randn(4, 3, 32, 32), "labels": torch.tensor([0, 1, 2, 0])}
    with torch.no_grad():
        alone, told = model(**batch).loss, model(**batch, num_items_in_batch=torch.tensor(8)).loss
    assert float(told / alone) == pytest.approx(0.5 if answer else 1.0)


def test_classes_of_others_are_left_to_trainers_rule() -> None:
    """A class that is not transformers' own, or that declares what it does, keeps Trainer's answer."""

    class Own(nn.Module):
        def forward(self, pixel_values: torch.Tensor, **kwargs: object) -> torch.Tensor:
            return pixel_values

    assert uses_num_items_in_batch(Own())
    assert uses_num_items_in_batch(tiny.timm_wrapper("resnet18"))


def test_micro_batches_of_several_labels_add_up_to_the_mean() -> None:
    """Two halves, each with the number of all labels, give the loss of the whole; Trainer divides no further."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator)
    labels = torch.randint(0, 2, (4, 3), generator=generator).float()
    whole = LogitsLoss()({"logits": logits}, labels)
    items = labels.ne(-100).sum()  # as Trainer counts
    halves = [LogitsLoss()({"logits": logits[rows]}, labels[rows], items) for rows in (slice(2), slice(2, 4))]
    torch.testing.assert_close(sum(halves), whole)
