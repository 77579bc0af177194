"""hf_transfer.losses: which models scale their loss by num_items_in_batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_transfer.losses import uses_num_items_in_batch
from tests import tiny


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
