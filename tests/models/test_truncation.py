"""hf_transfer.models.truncation: smaller models whose configuration says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from transformers import SegformerConfig, SegformerForImageClassification

import hf_transfer as ht
from hf_transfer.architectures.lookup import wrap
from hf_transfer.errors import SelectorError, TruncationError
from hf_transfer.models.loading import label_names_of
from tests.helpers import tiny
from tests.helpers.adapted import check_loads_alone, images_of, logits, randomise


def segformer() -> nn.Module:
    return SegformerForImageClassification(
        SegformerConfig(
            hidden_sizes=[8, 8, 16, 16], depths=[1, 2, 1, 2], num_attention_heads=[1, 1, 2, 2], num_labels=3
        )
    )


def timm_swin() -> nn.Module:
    options: dict[str, Any] = {"embed_dim": 8, "depths": (1, 2, 2), "num_heads": (1, 2, 4)}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, img_size=64, **options)


# Model, number of blocks, and how many of them a cut can end with.
MODELS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "vit": (tiny.vit, 3, 3),
    "dinov2": (tiny.dinov2, 3, 3),
    "swin": (tiny.swin, 5, 5),
    "convnext": (tiny.convnext, 5, 5),
    "resnet": (tiny.resnet, 6, 6),
    "segformer": (segformer, 6, 6),
    "timm vit": (lambda: tiny.timm_model("vit_tiny_patch16_224"), 3, 3),
    "wrapped vit": (lambda: tiny.timm_wrapper("vit_tiny_patch16_224"), 3, 3),
    "timm swin": (timm_swin, 5, 5),
    # Its forward pass names all four stages.
    "wrapped resnet": (lambda: tiny.timm_wrapper("resnet18"), 8, 2),
    "timm resnet": (lambda: tiny.timm_model("resnet18"), 8, 2),
}
# What another model shows, too, or takes long.
SLOW = ("swin", "segformer", "timm swin", "timm resnet", "wrapped resnet", "wrapped vit")
SIZES = {"timm swin": 64, "segformer": 64}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MODELS]
)
def test_cuts_keep_what_is_before_and_load_alone(name: str, tmp_path: Path) -> None:
    """After every point: class, labels, kept weights bit for bit, a new head, and the same logits once loaded."""
    make, blocks, points = MODELS[name]
    model = randomise(make())
    groups = wrap(model).layer_groups
    found = ht.truncation_points(model)
    assert len(found) == points
    numbered = [g.name for g in groups if g.role == "block" and g.name[-1].isdigit()]
    assert found == tuple(numbered[blocks - points :])
    old, head = model.state_dict(), set(wrap(model).head.parameter_names)
    images = images_of(SIZES.get(name, tiny.IMAGE_SIZE))
    for point in found:
        smaller = ht.truncate(model, point)
        kept = wrap(smaller).layer_groups
        assert type(smaller) is type(model)
        weights = smaller.state_dict()
        # A norm at the end of a stage is in the group of its last block, and stays.
        assert point == found[-1] or not [name for name in weights if name.startswith(f"{numbered[-1]}.")]
        for group in kept:
            for parameter in group.parameter_names if group.role in ("stem", "block") else ():
                assert torch.equal(weights[parameter], old[parameter]), parameter
        assert not any(weights[n].shape == old[n].shape and torch.equal(weights[n], old[n]) for n in head)
        assert logits(smaller, images).shape == (2, 3)
    smaller = ht.truncate(model, found[0])
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    check_loads_alone(smaller, tmp_path, images)
    assert all(torch.equal(value, old[key]) for key, value in model.state_dict().items())


def test_head_sees_the_norm_of_the_kept_block() -> None:
    """A truncated ViT's head gets the kept final norm of the earlier block's class token, and knows the labels."""
    model = randomise(tiny.vit())
    model.config.id2label, model.config.label2id = {0: "ant", 1: "bee", 2: "cat"}, {"ant": 0, "bee": 1, "cat": 2}
    smaller = ht.truncate(model, "layers.1")
    assert label_names_of(smaller) == ("ant", "bee", "cat")
    images = images_of(tiny.IMAGE_SIZE)
    with torch.no_grad():
        hidden = model(images, output_hidden_states=True).hidden_states[2]
        expected = smaller.classifier(model.vit.layernorm(hidden)[:, 0])
    assert torch.allclose(logits(smaller, images), expected, atol=1e-5)


def test_norm_of_another_width_is_new() -> None:
    """A cut before the last stage of ConvNeXt has a norm of the earlier width, of scale 1 and shift 0."""
    norm = ht.truncate(randomise(tiny.convnext()), "stages.1.layers.0").convnext.layernorm
    assert norm.weight.tolist() == [1.0] * 16
    assert norm.bias.tolist() == [0.0] * 16


def test_kept_blocks_keep_their_stochastic_depth() -> None:
    """The rate of the last of two kept blocks is that of the second of three."""
    assert ht.truncate(tiny.dinov2(), "layer.1").config.drop_path_rate == pytest.approx(0.05)


def test_points_need_no_weights() -> None:
    """The query works on a structure on the meta device."""
    with torch.device("meta"):
        model = tiny.swin()
    assert len(ht.truncation_points(model)) == 5


@pytest.mark.parametrize(
    ("make", "after", "error", "message"),
    [
        (lambda: tiny.timm_wrapper("efficientnet_b0"), "blocks.2.0", TruncationError, "no field"),
        (tiny.mobilenet_v2, "layer.3", TruncationError, "no field"),
        (lambda: tiny.timm_model("resnet18"), "layer2.1", TruncationError, "The nearest group.* is 'layer4.0'"),
        (tiny.vit, "stem", TruncationError, "no block but the stem. The nearest group.* is 'vit.layers.0'"),
        (tiny.vit, "head", TruncationError, "no block but the head. The nearest group.* is 'vit.layers.2'"),
        (tiny.vit, "layers.9", SelectorError, "The groups are"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)), 0, TruncationError, "cannot be truncated"),
    ],
)
def test_refusals_say_why(
    make: Callable[[], nn.Module], after: str | int, error: type[Exception], message: str
) -> None:
    """What the configuration cannot express is refused, with the nearest group after which it can."""
    with pytest.raises(error, match=message):
        ht.truncate(make(), after)
