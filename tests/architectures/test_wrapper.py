"""All built-in wrappers: the rules that layer groups keep on every architecture, checked on tiny real models."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import nn

import hf_transfer as ht
from hf_transfer.architectures.wrapper import Granularity
from tests.helpers import group_checks, tiny

EVERY_MODEL = pytest.mark.parametrize("make", tiny.ALL_MODELS.values(), ids=tiny.ALL_MODELS)
Factory = Callable[..., nn.Module]
looked_at = cache(lambda make: make())  # a model for the tests that change nothing but its mode


def _image() -> torch.Tensor:
    return torch.randn(1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, generator=torch.Generator().manual_seed(0))


@EVERY_MODEL
def test_groups_partition_the_parameters(make: Factory) -> None:
    """Each parameter is in exactly one group; there are a stem, at least three blocks and a head."""
    model = looked_at(make)
    groups = ht.wrap(model).layer_groups
    group_checks.check_groups(model, groups)
    roles = [group.role for group in groups]
    assert roles[0] == "stem" and roles[-1] == "head" and roles.count("block") >= 3


@EVERY_MODEL
@pytest.mark.parametrize("granularity", ["block", "stage"])
def test_groups_come_in_the_order_of_execution(make: Factory, granularity: Granularity) -> None:
    """A forward pass with hooks enters the groups one after the other, as they are numbered."""
    model = looked_at(make)
    group_checks.check_order(model, ht.wrap(model, granularity).layer_groups, _image())


@EVERY_MODEL
def test_the_head_is_what_depends_on_the_labels(make: Factory) -> None:
    """The head holds exactly the parameters whose shape changes with the number of labels."""
    model = looked_at(make)
    assert set(ht.wrap(model).head.parameter_names) == group_checks.label_parameters(model, make(5))


@EVERY_MODEL
@pytest.mark.parametrize("granularity", ["block", "stage"])
def test_modules_belong_to_one_group(make: Factory, granularity: Granularity) -> None:
    """Module names are disjoint, cover every leaf module and hold exactly their group's parameters."""
    model = looked_at(make)
    group_checks.check_modules(model, ht.wrap(model, granularity).layer_groups)


@EVERY_MODEL
def test_stages_join_blocks(make: Factory) -> None:
    """Granularity "stage" only joins neighbouring blocks; architectures without stages stay as they are."""
    model = looked_at(make)
    fine, coarse = ht.wrap(model, "block").layer_groups, ht.wrap(model, "stage").layer_groups
    group_checks.check_coarser(fine, coarse)
    if any(part in type(model).__name__ for part in ("ResNet", "Swin", "ConvNext")):
        assert len(coarse) < len(fine)


@EVERY_MODEL
def test_wrap_changes_nothing(make: Factory) -> None:
    """Weights, buffers, classes, modes, hooks, attributes, the random state and the outputs are as before."""
    model = make().eval()
    with torch.no_grad():
        expected = model(_image())
    model.train()
    next(model.children()).eval()
    before = group_checks.fingerprint(model)
    wrapper = ht.wrap(model)
    assert group_checks.fingerprint(model) == before
    assert wrapper.model is model
    assert not isinstance(wrapper, nn.Module)
    with torch.no_grad():
        found = model.eval()(_image())
    assert torch.equal(getattr(found, "logits", found), getattr(expected, "logits", expected))


@EVERY_MODEL
def test_groups_of_a_model_on_the_meta_device(make: Factory) -> None:
    """Groups depend on names alone: a model without weights in memory has the same ones."""
    with torch.device("meta"):
        hollow = make()
    assert ht.wrap(hollow).layer_groups == ht.wrap(looked_at(make)).layer_groups


@pytest.mark.parametrize(
    ("name", "granularity", "expected"),
    [
        ("vit", "block", ["stem", "vit.layers.0", "vit.layers.1", "vit.layers.2", "neck", "head"]),
        ("dinov2", "block", ["stem", *(f"dinov2.encoder.layer.{i}" for i in range(3)), "neck", "head"]),
        ("resnet", "stage", ["stem", *(f"resnet.encoder.stages.{i}" for i in range(4)), "head"]),
        ("swin", "stage", ["stem", *(f"swin.encoder.layers.{i}" for i in range(3)), "neck", "head"]),
        ("convnext", "stage", ["stem", *(f"convnext.encoder.stages.{i}" for i in range(4)), "neck", "head"]),
        ("wrapped:resnet18", "stage", ["stem", *(f"timm_model.layer{i}" for i in range(1, 5)), "head"]),
        ("timm:vit_tiny_patch16_224", "block", ["stem", "blocks.0", "blocks.1", "blocks.2", "neck", "head"]),
        ("timm:tf_efficientnet_lite0", "stage", ["stem", *(f"blocks.{i}" for i in range(7)), "neck", "head"]),
    ],
)
def test_names_of_groups(name: str, granularity: Granularity, expected: list[str]) -> None:
    """Names are module paths of the model as it is; they are written into plans, so they must not drift."""
    assert [g.name for g in ht.wrap(tiny.ALL_MODELS[name](), granularity).layer_groups] == expected


def test_pretrained_parts_behind_the_blocks_are_neck() -> None:
    """The last 1x1 convolutions of EfficientNet and MobileNetV2 are pretrained: neck, not head."""
    for name, part in {
        "efficientnet": "efficientnet.encoder.top_conv.weight",
        "mobilenet_v2": "mobilenet_v2.conv_1x1.convolution.weight",
        "timm:tf_efficientnet_lite0": "conv_head.weight",
        "wrapped:tf_efficientnet_lite0": "timm_model.conv_head.weight",
    }.items():
        neck = ht.select(tiny.ALL_MODELS[name](), "only:neck")[0]
        assert neck.role == "neck"
        assert part in neck.parameter_names


def test_stages_hold_their_downsampling() -> None:
    """ConvNeXt's downsampling opens the first block of its stage, Swin's patch merging closes the last one."""
    convnext = {g.name: g for g in ht.wrap(tiny.convnext()).layer_groups}["convnext.encoder.stages.2.layers.0"]
    assert convnext.parameter_names[:2] == (
        "convnext.encoder.stages.2.downsampling_layer.0.weight",
        "convnext.encoder.stages.2.downsampling_layer.0.bias",
    )
    swin = {g.name: g for g in ht.wrap(tiny.swin()).layer_groups}["swin.encoder.layers.0.blocks.1"]
    assert swin.parameter_names[-1] == "swin.encoder.layers.0.downsample.norm.bias"
    assert swin.module_names == ("swin.encoder.layers.0.blocks.1", "swin.encoder.layers.0.downsample")


def test_wrapped_and_bare_timm_models_have_the_same_groups() -> None:
    """Inside TimmWrapper a model has the groups of the bare one, under the prefix of its place."""
    for name in tiny.TIMM_NAMES:
        bare, wrapped = ht.wrap(tiny.timm_model(name)), ht.wrap(tiny.timm_wrapper(name))
        assert wrapped.source == bare.source == "timm"
        assert [(g.role, g.name.removeprefix("timm_model.")) for g in wrapped.layer_groups] == [
            (g.role, g.name) for g in bare.layer_groups
        ]
        for inner, outer in zip(bare.layer_groups, wrapped.layer_groups, strict=True):
            assert outer.parameter_names == tuple(f"timm_model.{n}" for n in inner.parameter_names)
