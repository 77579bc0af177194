"""Every model of timm, built without memory for weights: its layer groups, family by family."""

from __future__ import annotations

import pytest
from torch import nn

import hf_transfer as ht
from tests import group_checks, timm_zoo
from tests.timm_zoo import ENCODERS, HEAD_EXTRAS, LABELS

_OTHER_LABELS = 5


@pytest.mark.slow
@pytest.mark.parametrize("family", timm_zoo.families())
def test_every_model_of_a_family(family: str) -> None:
    """Partition, modules, stages, stem and head are right on all models; a failure lists the models with what is wrong."""
    wrong = {name: fault for name in timm_zoo.families()[family] if (fault := _fault(name, family))}
    assert not wrong


def test_families_cover_all_names() -> None:
    """No model of timm is left out of the tests by family."""
    listed = [name for names in timm_zoo.families().values() for name in names]
    assert sorted(listed) == sorted(timm_zoo.list_models())
    assert len(timm_zoo.families()) >= 90
    assert ENCODERS <= set(listed)


def _fault(name: str, family: str) -> str:
    """What is wrong with the layer groups of a model; empty where all holds."""
    model = timm_zoo.hollow(name)
    try:
        _check(name, model, family)
    except Exception as error:  # the other models of the family are to be checked, too
        return f"{type(error).__name__}: {error}"[:500]
    return ""


def _check(name: str, model: nn.Module, family: str) -> None:
    wrapper = ht.wrap(model, strict=True)
    groups = wrapper.layer_groups
    group_checks.check_groups(model, groups)
    group_checks.check_modules(model, groups)
    group_checks.check_coarser(groups, ht.wrap(model, "stage").layer_groups)
    roles = [group.role for group in groups]
    assert roles[0] == "stem" and roles.count("block") >= 2, roles
    invented = [group.name for group in groups if "#" in group.name]
    assert not invented or family == "selecsls", invented
    labelled = timm_zoo.label_parameters(model)
    assert bool(labelled) == (name not in ENCODERS)
    if not labelled:
        assert "head" not in roles
        return
    head = set(wrapper.head.parameter_names)
    extras = head - labelled
    assert labelled <= head and roles.count("head") == 1
    assert bool(extras) == (family in HEAD_EXTRAS), extras
    assert all(HEAD_EXTRAS[family].match(parameter) for parameter in extras), extras
    shapes = {n: p.shape for n, p in model.named_parameters()}
    model.reset_classifier(_OTHER_LABELS)  # RepViT and iFormer lose their second classifier by it
    left = {n: p.shape for n, p in model.named_parameters()}
    changed = {n for n, shape in left.items() if shape != shapes[n]}
    assert changed == labelled & set(left), f"besides those with {LABELS} labels: {changed ^ labelled}"
