"""timm models, bare and wrapped: where head, neck and stem come from, declared layouts, names, what is refused."""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

import hf_transfer as ht
from hf_transfer.architectures.classifier import classifier_paths
from hf_transfer.architectures.timm_grouping import common_path
from hf_transfer.architectures.timm_layouts import LAYOUTS
from hf_transfer.architectures.timm_models import TimmModelWrapper, declared_layout
from hf_transfer.errors import LayerGroupError, UnknownArchitectureError
from tests.helpers import group_checks, timm_zoo
from tests.helpers.training import RandomImages, arguments

# One model for each declared layout (the family is tested as a whole in test_timm_structure.py).
DECLARED = (
    "csatv2",
    "cait_xxs24_224",
    "coat_tiny",
    "coat_lite_tiny",
    "convit_tiny",
    "dpn48b",
    "efficientvim_m1",
    "hrnet_w18_small",
    "caformer_s18",
    "mobilenetv5_300m_enc",
    "pit_ti_distilled_224",
    "selecsls42b",
    "volo_d1_224",
    "vit_small_r26_s32_224",
    "xcit_nano_12_p16_224",
)
# How the classifiers are nested differs; so does what timm's configuration names.
DISTILLED = (
    "crossvit_tiny_240",
    "deit_tiny_distilled_patch16_224",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientvim_m1_dist",
    "iformer_l2_distilled",
    "levit_128s",
    "levit_384_s8",
    "pit_ti_distilled_224",
    "repvit_m0_9",
    "swiftformer_xs",
    "volo_d1_224",
)


@cache
def _declared(name: str) -> nn.Module:
    """A model that is only looked at."""
    return timm_zoo.hollow(name)


def _image(model: nn.Module) -> torch.Tensor:
    return torch.zeros(2, *timm_zoo.input_size(model), device="meta")


@pytest.mark.parametrize("name", DECLARED)
def test_declared_layouts(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where timm has no groups, or wrong ones, declared ones hold, without a guess, in the order of execution."""
    model = _declared(name)
    wrapper = ht.wrap(model, strict=True)
    assert wrapper.source == "timm"
    assert declared_layout(model) in LAYOUTS.values()
    assert not caplog.records or name in timm_zoo.ENCODERS
    group_checks.check_groups(model, wrapper.layer_groups)
    group_checks.check_modules(model, wrapper.layer_groups)
    coarse = ht.wrap(model, "stage").layer_groups
    group_checks.check_coarser(wrapper.layer_groups, coarse)
    ranks = timm_zoo.first_uses(model, _image(model))
    assert len(ranks) == len(list(model.parameters()))
    assert not timm_zoo.order_faults(wrapper.layer_groups, ranks)
    assert not timm_zoo.order_faults(coarse, ranks)


def test_every_declared_layout_has_a_model() -> None:
    """No layout is left from a class that timm renamed, and each says why it stands in for timm's own groups."""
    models = {name: _declared(name) for name in DECLARED}
    used = [declared_layout(model) for model in models.values()]
    assert all(layout in used for layout in LAYOUTS.values())
    for name, model in models.items():
        layout = declared_layout(model)
        assert layout is not None and bool(layout.reason) == hasattr(model, "group_matcher"), name


@pytest.mark.parametrize("name", DISTILLED)
def test_all_classifiers_are_the_head(name: str) -> None:
    """Models with several classifiers have all of them in the head, and nothing else but declared extras."""
    model = timm_zoo.hollow(name)
    head = set(ht.wrap(model).head.parameter_names)
    labelled = timm_zoo.label_parameters(model)
    extras = timm_zoo.HEAD_EXTRAS.get(type(model).__module__.rpartition(".")[2], re.compile("$nothing"))
    assert labelled <= head
    assert all(extras.match(parameter) for parameter in head - labelled)
    assert len({parameter.rpartition(".")[0] for parameter in labelled}) > 1
    assert len(classifier_paths(model)) > 1


@pytest.mark.parametrize(
    ("name", "neck"),
    [
        ("mobilenetv3_small_050", "conv_head.weight"),
        ("vgg11", "pre_logits.fc1.weight"),
        ("efficientvit_b0", "head.in_conv.conv.weight"),
        ("resnet50_clip", "head.q.weight"),
        ("caformer_s18", "head.fc.fc1.weight"),
        ("efficientvim_m1", "norm.3.weight"),
        ("vit_base_patch16_siglip_224", "attn_pool.latent"),
    ],
)
def test_pretrained_parts_behind_the_blocks_are_neck(name: str, neck: str) -> None:
    """Last convolutions, norms, attention pooling and hidden layers of a classifier are no part of the head."""
    model = timm_zoo.hollow(name)
    groups = ht.wrap(model).layer_groups
    assert groups[-2].role == "neck" and neck in groups[-2].parameter_names
    assert groups[-1].role == "head"


@pytest.mark.parametrize("name", ["resnet18", "levit_128s", "deit_tiny_distilled_patch16_224", "poolformer_s12"])
def test_a_model_without_head_says_so(name: str) -> None:
    """With num_classes=0 there is no head group; asking for it raises with what to do; the rest can be selected."""
    model = timm_zoo.hollow(name, num_classes=0)
    wrapper = ht.wrap(model)
    group_checks.check_groups(model, wrapper.layer_groups)
    assert "head" not in [group.role for group in wrapper.layer_groups]
    with pytest.raises(LayerGroupError, match=f"{type(model).__name__} has no classification head.*num_classes"):
        _ = wrapper.head
    assert len(ht.select(model, "all")) == len(wrapper.layer_groups)


def test_weights_that_mix_classifiers_are_neck_without_them() -> None:
    """EfficientViM keeps the weights of its classifiers when these are taken off; they make no head."""
    model = timm_zoo.hollow("efficientvim_m1_dist", num_classes=0)
    groups = ht.wrap(model).layer_groups
    assert groups[-1].role == "neck" and "weights_dist" in groups[-1].parameter_names
    switched_off = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert set(ht.wrap(model).unused_parameters) == switched_off == {"weights", "weights_dist"}
    assert ht.wrap(timm_zoo.hollow("efficientvim_m1_dist")).unused_parameters == ()


@pytest.mark.parametrize("name", ["qwen3_vit_88m_enc", "mobilenetv5_300m_enc"])
def test_an_encoder_that_takes_no_classifier_is_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Encoders ignore num_classes: a warning, once, and an error on asking for the head name the model to load."""
    wrapper = ht.wrap(timm_zoo.hollow(name))
    ht.wrap(wrapper.model)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "encoder" in caplog.text and name.removesuffix("_enc") in timm_zoo.list_models()
    with pytest.raises(LayerGroupError, match=f"Load '{name.removesuffix('_enc')}'"):
        _ = wrapper.head


def test_a_stage_granularity_that_timm_lacks_is_the_finer_one() -> None:
    """RDNet refuses coarse groups by an assertion; it is wrapped by its blocks instead."""
    model = timm_zoo.hollow("rdnet_tiny")
    fine, coarse = ht.wrap(model, "block").layer_groups, ht.wrap(model, "stage").layer_groups
    assert [g.parameter_names for g in coarse] == [g.parameter_names for g in fine]


@pytest.mark.parametrize(
    ("name", "granularity", "expected"),
    [
        ("selecsls42b", "block", ["features.4", "features.5", "neck", "head"]),
        ("swin_tiny_patch4_window7_224", "block", ["layers.3.blocks.0", "layers.3.blocks.1", "neck", "head"]),
        ("densenet121", "block", ["features.denseblock4.denselayer15", "features.denseblock4.denselayer16"]),
        ("cait_xxs24_224", "block", ["blocks.23", "blocks_token_only.0", "blocks_token_only.1", "neck", "head"]),
        ("hrnet_w18_small", "stage", ["layer1", "stage4", "incre_modules", "neck", "head"]),
        ("coat_tiny", "stage", ["serial_blocks3", "serial_blocks4", "parallel_blocks", "neck", "head"]),
        ("poolformer_s12", "stage", ["stages.2", "stages.3", "neck", "head"]),
    ],
)
def test_names_of_groups(name: str, granularity: str, expected: list[str]) -> None:
    """A group has the path of the module that holds it alone, or else of the one that holds most of it alone."""
    names = [group.name for group in ht.wrap(timm_zoo.hollow(name), granularity).layer_groups]
    assert [each for each in names if each in expected] == expected
    assert not [each for each in names if "#" in each]


def test_a_block_named_as_a_role_gets_its_number() -> None:
    """A block whose module is called `head` is not taken for the head."""
    model = _Matched({"stem": "^a", "blocks": "^b", "more": "^head"})
    model.head = nn.Linear(2, 2)
    assert [group.name for group in ht.wrap(model).layer_groups] == ["stem", "b", "head#2", "neck", "head"]


def test_shared_position_embeddings_are_stem() -> None:
    """timm's matcher forgets modules that all blocks share; they run before the first block."""
    stem = ht.wrap(timm_zoo.hollow("vit_srelpos_small_patch16_224")).layer_groups[0]
    assert stem.role == "stem"
    assert "shared_rel_pos.mlp.fc1.weight" in stem.parameter_names


@pytest.mark.parametrize("name", ["poolformer_s12", "pit_ti_distilled_224", "efficientvim_m1", "repvit_m0_9"])
def test_wrapped_models_have_the_groups_of_bare_ones(name: str) -> None:
    """Inside TimmWrapper each name has the prefix `timm_model.`, and nothing else differs."""
    with torch.device("meta"):
        model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, num_labels=timm_zoo.LABELS))
    bare, wrapped = ht.wrap(timm_zoo.hollow(name)), ht.wrap(model, strict=True)
    for inner, outer in zip(bare.layer_groups, wrapped.layer_groups, strict=True):
        assert outer.role == inner.role
        assert outer.name == (f"timm_model.{inner.name}" if inner.role == "block" else inner.name)
        assert outer.parameter_names == tuple(f"timm_model.{n}" for n in inner.parameter_names)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pit_ti_224", "levit_128s", "efficientvim_m1", "xcit_nano_12_p16_224", "test_nfnet"])
def test_trainer_moves_what_the_plan_says(name: str, tmp_path: Path) -> None:
    """One step of TransferTrainer on a wrapped model changes the chosen groups, and no parameter of another."""
    config = TimmWrapperConfig(architecture=name, num_labels=3, model_args={"img_size": 32}, do_pooling=True)
    try:
        model: nn.Module = TimmWrapperForImageClassification(config)
    except TypeError:  # a network without an image size
        config.model_args = {}
        model = TimmWrapperForImageClassification(config)
    groups = ht.wrap(model).layer_groups
    chosen = groups[len(groups) // 2 :]
    old = {parameter: p.detach().clone() for parameter, p in model.named_parameters()}
    plan = ht.TransferPlan((ht.Phase("half", train=f"from:{chosen[0].name}", max_steps=1),))
    ht.TransferTrainer(model, arguments(tmp_path), train_dataset=RandomImages(8), plan=plan).train()
    moved = {parameter for parameter, p in model.named_parameters() if not torch.equal(p, old[parameter])}
    for group in groups:
        assert bool(moved & set(group.parameter_names)) == (group in chosen), group.name


class _Matched(nn.Module):
    """A network with the interface of a timm model, and a matcher of one's own."""

    def __init__(self, matcher: object) -> None:
        super().__init__()
        self.matcher = matcher
        self.a, self.b, self.c, self.fc = (nn.Linear(2, 2) for _ in range(4))

    def group_matcher(self, coarse: bool = False) -> object:
        return self.matcher

    def get_classifier(self) -> nn.Module:
        return self.fc


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        ({"stem": "^a", "blocks": [(r"^b", None), (r"^c", (99999,))]}, ["stem", "b", "neck", "head"]),
        ({"stem": "^a", "blocks": r"^b"}, ["stem", "b", "neck", "head"]),
        ({"stem": "^nothing", "blocks": [(r"^a", (0,)), (r"^b", (1,)), (r"^c", (2,))]}, ["a", "b", "c", "head"]),
        ({"first": "^a", "second": "^b"}, ["a", "b", "neck", "head"]),
        ({"stem": None, "blocks": "^a|^b"}, ["a", "neck", "head"]),
        (lambda name: "ab".find(name[0]) if name[0] in "ab" else float("inf"), ["stem", "b", "neck", "head"]),
    ],
)
def test_roles_from_a_matcher(matcher: object, expected: list[str]) -> None:
    """The stem is what a pattern of that name matches; what no pattern matches, or joins the last block, is neck."""
    wrapper = ht.wrap(_Matched(matcher))
    assert isinstance(wrapper, TimmModelWrapper)
    assert [group.name for group in wrapper.layer_groups] == expected


def test_a_class_of_the_same_name_elsewhere_is_not_timms() -> None:
    """A hand-written MetaFormer has not the groups of timm's, but is refused or inferred as other unknown networks."""
    model = type("MetaFormer", (nn.Sequential,), {})(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten())
    with pytest.raises(UnknownArchitectureError):
        ht.wrap(model, strict=True)
    assert ht.wrap(model).source == "inferred"


def test_a_timm_class_that_nobody_groups_is_inferred(caplog: pytest.LogCaptureFixture) -> None:
    """A model of a later timm without group_matcher or layout falls back to a dry run, with its warning."""
    model = timm.create_model("test_resnet", num_classes=3)
    model.__class__ = type("Unheard", (nn.Module,), dict(_plain(type(model))))
    with pytest.raises(UnknownArchitectureError):
        ht.wrap(model, strict=True)
    assert ht.wrap(model).source == "inferred"
    assert "were inferred" in caplog.text


def _plain(cls: type) -> dict[str, object]:
    """The attributes of a timm class but for its group_matcher."""
    return {
        name: value for name, value in vars(cls).items() if name not in ("group_matcher", "__dict__", "__weakref__")
    }


def test_common_path() -> None:
    """A group is named by the longest module path that its parameters share."""
    assert common_path(["a.b.0.weight", "a.b.0.bias"]) == "a.b.0"
    assert common_path(["a.b.0.weight", "a.b.1.weight"]) == "a.b"
    assert common_path(["a.b.weight", "c.d.weight"]) == ""
