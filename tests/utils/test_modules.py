"""hf_transfer.utils.modules: a model is evaluated, and every module is then in the mode that it had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hf_transfer.models.truncation import truncate
from hf_transfer.reporting.verification_samples import _logits
from hf_transfer.utils.modules import eval_mode
from tests.helpers import tiny
from tests.helpers.training import trained


def _mixed() -> nn.Module:
    """A model in training, with a part that somebody froze by hand."""
    model = tiny.resnet().train()
    model.resnet.embedder.eval()
    return model


def _modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_eval_mode_is_undone_module_by_module() -> None:
    """Parts that were in eval mode stay in it, also after an exception; a replaced `train` is not called."""
    model = _mixed()
    before = _modes(model)
    model.resnet.embedder.train = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="stop"), eval_mode(model):
        assert not any(_modes(model))
        raise ValueError("stop")
    assert _modes(model) == before and len(set(before)) == 2


def test_samples_and_truncation_leave_the_modes_alone(tmp_path: Path) -> None:
    """What runs the model once for its own purposes flattens no modes of parts."""
    trainer = trained(_mixed(), tmp_path, max_steps=1)
    trainer.model.train()
    trainer.model.resnet.embedder.eval()
    before = _modes(trainer.model)
    _logits(trainer, {"pixel_values": torch.zeros(1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)})
    assert _modes(trainer.model) == before
    vit = tiny.vit().train()
    vit.vit.embeddings.eval()
    before = _modes(vit)
    truncate(vit, after="vit.layers.0")
    assert _modes(vit) == before
