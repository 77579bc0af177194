"""trainer.losses: which models scale their loss by num_items_in_batch, and the loss of those that have none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_transfer.trainer.loss import LogitsLoss, uses_num_items_in_batch
from tests.helpers import tiny


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
