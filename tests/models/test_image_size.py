"""hf_transfer.models.image_size: other image sizes, stored so that the checkpoint loads without hf_transfer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    LevitConfig,
    LevitForImageClassification,
    MobileViTConfig,
    MobileViTForImageClassification,
)

from hf_transfer.errors import ModelError
from hf_transfer.models.image_size import check_image_size, native_image_size, resize_input
from tests.helpers import tiny
from tests.helpers.adapted import check_loads_alone, images_of, logits, randomise

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 3,
}


def levit() -> nn.Module:
    return LevitForImageClassification(
        LevitConfig(
            image_size=64,
            hidden_sizes=[16, 24, 32],
            num_attention_heads=[1, 1, 1],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
            num_labels=3,
        )
    )


def mobilevit() -> nn.Module:
    return MobileViTForImageClassification(
        MobileViTConfig(
            image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[4, 8, 8, 16, 16, 24, 32], num_labels=3
        )
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": tiny.vit,
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**SMALL)),
    "dinov2": tiny.dinov2,
    "beit": lambda: BeitForImageClassification(BeitConfig(**SMALL, use_relative_position_bias=True)),
    "swin": tiny.swin,
    "convnext": tiny.convnext,
    "resnet": tiny.resnet,
    "mobilevit": mobilevit,
    "timm vit": lambda: tiny.timm_wrapper("vit_tiny_patch16_224"),
    "timm resnet": lambda: tiny.timm_wrapper("resnet18"),
}
# These take other sizes as they are, if told to interpolate: then the stored positions must give the same.
INTERPOLATING = {"vit", "deit", "dinov2", "beit"}
FIXED = {"timm vit"}


@pytest.mark.parametrize("name", MODELS)
def test_other_size_is_stored_and_loads_alone(name: str, tmp_path: Path) -> None:
    """At 48 pixels: same logits as with interpolation at run time, and after loading without hf_transfer."""
    model = randomise(MODELS[name]())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images, native = images_of(48), native_image_size(model)
    resized = resize_input(model, 48)
    if native is not None:
        assert native_image_size(resized) == (48, 48)
    if name not in FIXED:
        options = {"interpolate_pos_encoding": True} if name in INTERPOLATING - {"dinov2", "beit"} else {}
        assert torch.allclose(logits(resized, images), logits(model, images, **options), rtol=1e-4, atol=1e-5)
    check_loads_alone(resized, tmp_path, images)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert native_image_size(model) == native


def test_timm_positions_are_interpolated_as_timm_does() -> None:
    """A ViT of timm: timm's own function on the embeddings; all other weights bit for bit."""
    model = randomise(tiny.timm_model("vit_tiny_patch16_224"))
    resized = resize_input(model, 48)
    own = resized.state_dict()
    for key, value in model.state_dict().items():
        wanted = timm.layers.resample_abs_pos_embed(value, (6, 6)) if key == "pos_embed" else value
        assert torch.equal(own[key], wanted), key


@pytest.mark.parametrize(
    ("make", "size", "message"),
    [
        (tiny.vit, 50, "multiples of 8, such as 48 and 56"),
        (MODELS["timm vit"], 50, "multiples of 8, such as 48 and 56"),
        (levit, 96, "exactly 64"),
        (tiny.convnext, 16, "larger images, such as 32"),
        # transformers shrinks the last window without its table.
        (tiny.swin, 16, "larger images, such as 32"),
        (tiny.vit, 0, "positive number of pixels"),
    ],
    ids=["vit", "timm vit", "levit", "convnext", "swin", "zero"],
)
def test_refusals_name_the_sizes(make: Callable[[], nn.Module], size: int, message: str) -> None:
    """What a model cannot take is refused with what it can."""
    with pytest.raises(ModelError, match=message):
        resize_input(make(), size)


def test_image_size_is_tried() -> None:
    """As it is, a convolutional network takes another size; a ViT refuses, names its own, and stays in its mode."""
    check_image_size(tiny.resnet(), 48)
    model = tiny.vit()
    model.train()
    with pytest.raises(ModelError, match="48 pixels; it was made for 32"):
        check_image_size(model, 48)
    assert model.training


def test_trying_leaves_nothing_that_cannot_be_trained() -> None:
    """BEiT caches a table of its first forward pass: the model can be trained after it was tried."""
    resized = resize_input(MODELS["beit"](), 40)
    resized(images_of(40), labels=torch.tensor([0, 1])).loss.backward()
    trained = [parameter for parameter in resized.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
