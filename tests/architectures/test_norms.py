"""hf_transfer.architectures.lookup: which modules normalise, by what they do, in real models too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hf_transfer as ht
from hf_transfer.architectures.norms import norm_modules, norm_parameter_names
from tests.helpers import tiny


class _Scale(nn.LayerNorm):
    """A norm whose name does not tell."""


class _ConvNormAct(nn.Module):
    """Not a norm, though named so: it has one inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.bn = nn.BatchNorm2d(2)


class _NormedLinear(nn.Module):
    """Named like a norm, but its own weight is a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))


def test_norm_modules() -> None:
    """Norms of torch, timm and transformers are found by class or name; what only sounds like one is not."""
    model = nn.ModuleDict(
        {
            "batch": nn.BatchNorm2d(2),
            "plane": nn.LayerNorm((2, 2)),
            "scale": _Scale(2),
            "group": nn.GroupNorm(1, 2),
            "rms": nn.RMSNorm(2),
            "plain": nn.BatchNorm2d(2, affine=False),
            "act": _ConvNormAct(),
            "linear": _NormedLinear(),
            "conv": nn.Conv2d(2, 2, 1),
        }
    )
    assert [name for name, _ in norm_modules(model)] == ["batch", "plane", "scale", "group", "rms", "act.bn"]
    assert "act.bn.weight" in norm_parameter_names(model)
    assert [name for name, _ in norm_modules(nn.LayerNorm(2))] == [""]
    assert norm_parameter_names(nn.LayerNorm(2)) == {"weight", "bias"}


@pytest.mark.parametrize("name", tiny.ALL_MODELS)
def test_norms_of_real_models(name: str) -> None:
    """In every architecture all norm parameters are found: 1-D, paired weight and bias, none of them in the head."""
    model = tiny.ALL_MODELS[name]()
    found = norm_parameter_names(model)
    parameters = dict(model.named_parameters())
    assert found
    assert {n.rpartition(".")[0] for n in found if n.endswith("weight")} == {
        n.rpartition(".")[0] for n in found if n.endswith("bias")
    }
    assert all(parameters[n].ndim == 1 for n in found)
    assert not found & set(ht.wrap(model).head.parameter_names)
