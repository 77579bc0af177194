"""timm models of all families, built without memory for weights: their groups come from timm's own group_matcher."""

from __future__ import annotations

import random
import re

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg, list_models
from torch import nn

import hf_transfer as ht
from hf_transfer.architectures.classifier import classifier_paths
from hf_transfer.architectures.timm_models import TimmModelWrapper, common_path
from hf_transfer.errors import LayerGroupError
from tests import group_checks

# Models whose parts do not run one after the other, which no order of groups can show: features of all stages meet in
# the head (EfficientViM), blocks use layer scales of later ones (CaiT), stages share position encodings (CoaT).
_INTERLEAVED = ("efficientvim", "cait", "coat", "hrnet")


_DEEP = re.compile(r"giant|gigantic|huge|large|base|medium|[_x]l(_|$)|[ms][1-4]\d|f[1-7]|[bd][2-8]|1[05]\d|200|269")


def _names_with_several_classifiers() -> list[str]:
    return [n for n in list_models() if isinstance(get_pretrained_cfg(n).classifier, tuple | list)]


def _sample(names: list[str], count: int) -> list[str]:
    """The same names in each run: no two of one family as long as there are others, the deep ones of a family last."""
    shuffled = random.Random(0).sample(sorted(names), len(names))
    families: dict[str, list[str]] = {}
    for name in sorted(shuffled, key=lambda name: bool(_DEEP.search(name))):
        families.setdefault(name.split("_")[0].rstrip("0123456789"), []).append(name)
    rounds = [name for depth in range(50) for members in families.values() for name in members[depth : depth + 1]]
    return sorted(rounds[:count])


SAMPLE = _sample(list_models(), 40)
DISTILLED = _sample(_names_with_several_classifiers(), 10)


# A number that no layer has by chance as its width: a parameter with this dimension depends on the labels.
LABELS = 1009


def _hollow(name: str, num_classes: int = LABELS) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False, num_classes=num_classes)


def _label_parameters(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if LABELS in parameter.shape}


def _image(model: nn.Module) -> torch.Tensor:
    return torch.zeros(1, *model.pretrained_cfg["input_size"], device="meta")


@pytest.mark.parametrize("name", SAMPLE)
def test_groups_of_a_sample_of_all_families(name: str) -> None:
    """Partition, head by labels, modules and stages are right, and the groups run in their order."""
    model = _hollow(name)
    groups = ht.wrap(model).layer_groups
    group_checks.check_groups(model, groups)
    group_checks.check_modules(model, groups)
    group_checks.check_coarser(groups, ht.wrap(model, "stage").layer_groups)
    assert groups[0].role == "stem"
    assert set(groups[-1].parameter_names) == _label_parameters(model)
    if not any(part in name for part in _INTERLEAVED):
        group_checks.check_order(model, groups, _image(model))


@pytest.mark.parametrize("name", DISTILLED)
def test_all_classifiers_of_a_distilled_model_are_the_head(name: str) -> None:
    """Models with a second classifier, for distillation, have both in the head, and nothing else."""
    model = _hollow(name)
    assert len(classifier_paths(model)) > 1
    wrapper = ht.wrap(model)
    group_checks.check_groups(model, wrapper.layer_groups)
    assert set(wrapper.head.parameter_names) == _label_parameters(model)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "deit_tiny_distilled_patch16_224", "poolformer_s12"])
def test_a_model_without_head_says_so(name: str) -> None:
    """With num_classes=0 there is no head group; asking for it raises with what to do; the rest can be selected."""
    model = _hollow(name, num_classes=0)
    wrapper = ht.wrap(model)
    group_checks.check_groups(model, wrapper.layer_groups)
    assert "head" not in [group.role for group in wrapper.layer_groups]
    with pytest.raises(LayerGroupError, match=f"{type(model).__name__} has no classification head.*num_classes"):
        _ = wrapper.head
    assert len(ht.select(model, "all")) == len(wrapper.layer_groups)


@pytest.mark.parametrize("name", ["poolformerv2_s12", "pit_ti_distilled_224", "caformer_s18"])
def test_a_timm_model_without_group_matcher_is_inferred(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without group_matcher a dry run finds the groups; the declared classifier is still the head."""
    model = _hollow(name)
    assert not hasattr(model, "group_matcher")
    wrapper = ht.wrap(model)
    assert wrapper.source == "inferred"
    assert len(caplog.records) == 1
    group_checks.check_groups(model, wrapper.layer_groups)
    group_checks.check_modules(model, wrapper.layer_groups)
    group_checks.check_order(model, wrapper.layer_groups, _image(model))
    assert set(wrapper.head.parameter_names) == _label_parameters(model)


def test_a_stage_granularity_that_timm_lacks_is_the_finer_one() -> None:
    """RDNet refuses coarse groups by an assertion; it is wrapped by its blocks instead."""
    model = _hollow("rdnet_tiny")
    fine, coarse = ht.wrap(model, "block").layer_groups, ht.wrap(model, "stage").layer_groups
    assert [g.parameter_names for g in coarse] == [g.parameter_names for g in fine]


def test_a_pretrained_part_named_head_is_not_the_head() -> None:
    """SelecSLS calls convolutions behind its blocks `head`; the group "head" is the classifier all the same."""
    groups = ht.wrap(_hollow("selecsls42b")).layer_groups
    assert groups[-1].name == "head"
    assert groups[-1].parameter_names == ("fc.weight", "fc.bias")
    assert groups[-2].role == "block"
    assert groups[-2].name.startswith("head#")


def test_shared_position_embeddings_are_stem() -> None:
    """timm's matcher forgets modules that all blocks share; they are not trained with the neck, behind the blocks."""
    stem = ht.wrap(_hollow("vit_srelpos_small_patch16_224")).layer_groups[0]
    assert stem.role == "stem"
    assert "shared_rel_pos.mlp.fc1.weight" in stem.parameter_names


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
        ({"stem": None, "blocks": "^a|^b"}, ["block.0", "neck", "head"]),
        (lambda name: "ab".find(name[0]) if name[0] in "ab" else float("inf"), ["stem", "b", "neck", "head"]),
    ],
)
def test_roles_from_a_matcher(matcher: object, expected: list[str]) -> None:
    """The stem is what a pattern of that name matches; what no pattern matches, or joins the last block, is neck."""
    wrapper = ht.wrap(_Matched(matcher))
    assert isinstance(wrapper, TimmModelWrapper)
    assert [group.name for group in wrapper.layer_groups] == expected


def test_common_path() -> None:
    """A group is named by the longest module path that its parameters share."""
    assert common_path(["a.b.0.weight", "a.b.0.bias"]) == "a.b.0"
    assert common_path(["a.b.0.weight", "a.b.1.weight"]) == "a.b"
    assert common_path(["a.b.weight", "c.d.weight"]) == ""
