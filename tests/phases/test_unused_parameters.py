"""phases.unused_parameters: parameters that the loss does not depend on are found without changing the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hf_transfer.phases.unused_parameters import find_unused_parameters
from tests.helpers import tiny


class Net(nn.Module):
    """A used layer, one that only feeds an output beside the logits, and one that is never run."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.used = nn.Linear(2, 2)
        self.beside = nn.Linear(2, 2)
        self.idle = nn.Linear(2, 2)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.reentrant is None:
            hidden = self.used(x)
        else:
            hidden = checkpoint(self.used, x.requires_grad_(), use_reentrant=self.reentrant)
        return {"beside": self.beside(hidden), "logits": hidden}


IDLE = ("beside.weight", "beside.bias", "idle.weight", "idle.bias")


def test_what_the_logits_do_not_need_is_unused() -> None:
    """A layer that is never run, and one whose result is not part of the loss, are named; flags and modes stay."""
    net = Net()
    net.used.weight.requires_grad_(False)
    net.idle.eval()
    assert find_unused_parameters(net, torch.ones(2, 2)) == IDLE
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert [m.training for m in net.modules()] == [True, True, True, False]
    assert all(p.grad is None for p in net.parameters())


def test_it_works_under_no_grad() -> None:
    """Gradients are switched on for the one pass, whatever surrounds it."""
    with torch.no_grad():
        assert find_unused_parameters(Net(), torch.ones(2, 2)) == IDLE


def test_reentrant_checkpointing_gives_no_wrong_answer(caplog: pytest.LogCaptureFixture) -> None:
    """It hides parameters from the graph: nothing is reported as unused then; the other kind hides nothing."""
    assert find_unused_parameters(Net(reentrant=True), torch.ones(2, 2)) == ()
    assert "reentrant" in caplog.text
    assert find_unused_parameters(Net(reentrant=False), torch.ones(2, 2)) == IDLE


def test_flags_are_restored_after_a_failure() -> None:
    """A batch that does not fit raises, and leaves the model as it was."""
    net = Net()
    net.used.weight.requires_grad_(False)
    with pytest.raises(RuntimeError):
        find_unused_parameters(net, torch.ones(2, 3))
    assert not net.used.weight.requires_grad and net.idle.weight.requires_grad and net.training


def test_a_batch_with_labels() -> None:
    """The loss of a transformers model is followed; labels are left out where a model does not take them."""
    labels = torch.tensor([0, 1])
    images = torch.randn(2, 3, 32, 32)
    assert find_unused_parameters(tiny.dinov2(), {"pixel_values": images, "labels": labels}) == (
        "dinov2.embeddings.mask_token",
    )
    assert find_unused_parameters(Net(), {"x": torch.ones(2, 2), "labels": labels}) == IDLE
