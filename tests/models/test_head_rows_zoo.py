"""hf_transfer.models.head_rows: rows follow their labels in every class of transformers and in odd heads of timm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from transformers import ViTImageProcessor

from hf_transfer.models.head_rows import name_labels
from hf_transfer.models.loading import check_trainable, load_for_training
from hf_transfer.utils.foreign import logits_of
from tests.helpers.every_transformers_class import REFUSED, batch, make, registered_classes

pytestmark = pytest.mark.slow
STORED, WANTED, KNOWN = ["x", "y", "z"], ["z", "w", "x", "y"], [2, 3, 0]
OTHER_INPUTS = ("ImageGPT", "Perceiver", "Siglip2", "Dinat")
"""Classes that take no tensor of images alone, and one that needs a package of its own."""
CLASSES = [name for name in registered_classes() if name not in REFUSED and not name.startswith(OTHER_INPUTS)]
TIMM = {
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2},  # two heads
    "levit_128s": {},  # a norm within the head
    "mobilenetv3_small_050": {},  # a layer of the head before the labels
    "resnet18": {"channels": (8, 16, 24, 32), "stem_width": 8},
}


def _shake(model: nn.Module) -> nn.Module:
    """Give norms and biases values of their own, which new weights would not have."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05 if parameter.ndim == 1 else 0)
    return model.eval()


def _check(folder: Path, model: nn.Module, images: torch.Tensor) -> None:
    """The scores of each known label are those of the checkpoint."""
    check_trainable(str(folder))
    loaded = load_for_training(str(folder), WANTED)
    assert loaded.model.config.num_labels == 4
    with torch.no_grad():
        before, after = logits_of(model(images)), logits_of(loaded.model.eval()(images))
    assert torch.allclose(after[:, KNOWN], before, atol=1e-5)
    assert load_for_training(str(folder), ["p", "q"]).model.config.num_labels == 2


@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_transformers(name: str, tmp_path: Path) -> None:
    """A label in another place keeps its scores, whatever the head is made of; new labels get a head of their size."""
    model, inputs = _shake(make(name)), batch(name)
    name_labels(model.config, STORED)
    model.save_pretrained(tmp_path)
    side = inputs["pixel_values"].shape[-1]
    ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(tmp_path)
    _check(tmp_path, model, inputs["pixel_values"])


@pytest.mark.parametrize("name", TIMM)
def test_heads_of_timm(name: str, tmp_path: Path) -> None:
    """Two classifiers, norms and layers before the labels."""
    options = TIMM[name]
    model = _shake(timm.create_model(name, num_classes=3, **options))
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True, model_args=options)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"label_names": STORED}))
    side = 32 if "img_size" in options else model.pretrained_cfg["input_size"][-1]
    _check(tmp_path, model, torch.randn(2, 3, side, side))
