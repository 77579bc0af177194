"""hf_transfer.phases.param_groups: each trained parameter in exactly one named group, at the rate of the table."""

from __future__ import annotations

import pytest
import torch

import hf_transfer as ht
from hf_transfer.errors import PlanError
from hf_transfer.phases.param_groups import no_decay_names, optimizer_groups
from hf_transfer.plans.plan import group_learning_rates
from tests.helpers import tiny


@pytest.mark.parametrize("name", sorted(tiny.TRANSFORMERS_MODELS))
@pytest.mark.parametrize("train", ["head", "all", "blocks:1", "bias", ("norm", "last:1")])
def test_every_trained_parameter_is_in_exactly_one_group(name: str, train: ht.plan.Selector) -> None:
    """Groups are not empty, are named, start with the head and together hold what the selector trains, once."""
    model = tiny.TRANSFORMERS_MODELS[name]()
    groups = ht.param_groups(model, ht.Phase("p", train, learning_rate=1e-3), weight_decay=0.1)
    names = [n for group in groups for n in group["param_names"]]
    wanted = {n for g in ht.select(model, train) for n in g.parameter_names}
    assert len(names) == len(set(names))
    assert set(names) == wanted
    assert all(group["params"] and group["name"] for group in groups)
    assert len({group["name"] for group in groups}) == len(groups)
    assert groups[0]["name"].startswith("head")
    parameters = dict(model.named_parameters())
    assert all(p is parameters[n] for g in groups for n, p in zip(g["param_names"], g["params"], strict=True))
    torch.optim.AdamW(groups)


def test_rates_are_those_of_the_plan() -> None:
    """Each group's lr is the rate of its layer group: ratio for the head, decay from block to block."""
    model = tiny.vit()
    phase = ht.Phase("p", "all", learning_rate=1e-3, head_lr_ratio=10, layer_decay=0.5)
    rates = {g["name"].removesuffix("/no_decay"): g["lr"] for g in ht.param_groups(model, phase)}
    layers = ht.wrap(model).layer_groups
    assert rates == dict(zip((g.name for g in layers), group_learning_rates(layers, phase, 0.0), strict=True))
    assert rates["head"] == pytest.approx(1e-2)
    assert rates["vit.layers.2"] == pytest.approx(5e-4)
    assert rates["vit.layers.1"] == pytest.approx(2.5e-4)
    assert rates["stem"] == pytest.approx(6.25e-5)


def test_weight_decay_is_off_for_biases_norms_and_tokens() -> None:
    """Only matrices and kernels are decayed; class token and position embeddings are not, although they are 3-D."""
    model = tiny.vit()
    groups = ht.param_groups(model, ht.Phase("p", "all", learning_rate=1e-3), weight_decay=0.1)
    decayed = {n for g in groups if g["weight_decay"] for n in g["param_names"]}
    assert decayed
    assert all(n.endswith("weight") and "norm" not in n for n in decayed)
    assert not decayed & {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
    assert {g["weight_decay"] for g in groups} == {0.0, 0.1}


def test_batch_norm_weights_are_not_decayed() -> None:
    """Trainer's own rule decays them; ours does not."""
    model = tiny.resnet()
    norms = {n for n, p in model.named_parameters() if "normalization" in n}
    assert norms and norms <= no_decay_names(model)


def test_parameters_of_different_phases_are_apart() -> None:
    """A layer whose biases are trained first and whose weights later has one group for each, named by phases."""
    model = tiny.resnet()
    phases = (ht.Phase("a", "bias", learning_rate=1.0), ht.Phase("b", "all", learning_rate=2.0))
    groups = optimizer_groups(ht.wrap(model).layer_groups, phases, 0.0, 0.1, no_decay=no_decay_names(model))
    stem = {g.name: g.learning_rates for g in groups if g.layer_group == 0}
    assert stem == {
        "stem (phases 2)": (None, 2.0),
        "stem/no_decay (phases 2)": (None, 2.0),
        "stem/no_decay (phases 1, 2)": (1.0, 2.0),
    }


def test_phase_needs_a_learning_rate() -> None:
    """Without any learning rate the error names the phase and the argument."""
    with pytest.raises(PlanError, match="'p'.*learning_rate"):
        ht.param_groups(tiny.vit(), ht.Phase("p", "head"))
