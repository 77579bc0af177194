"""timm's whole zoo for tests: models without weights in memory, the order in which parameters are used, traits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import timm
import torch
from timm.models import list_models, list_modules
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import hf_transfer as ht
from hf_transfer.architectures.layer_groups import LayerGroup
from tests.helpers import group_checks

# A number that no layer has by chance as its width: a parameter with this dimension depends on the labels.
LABELS = 1009
_OTHER_LABELS = 5

# Encoders of vision-language models: they take num_classes and ignore it.
ENCODERS = frozenset(
    {
        "deepseek_vit_412m_enc",
        "gemma4_vit_167m_enc",
        "gemma4_vit_570m_enc",
        "mobilenetv5_300m_enc",
        "qwen3_vit_88m_enc",
        "qwen3_vit_306m_enc",
        "qwen3_vit_416m_enc",
    }
)

# All that may be in a head besides what depends on the number of labels, by family: a batch normalisation that is
# drawn anew with the classifier, and the weights with which EfficientViM mixes its classifiers.
HEAD_EXTRAS = {
    "efficientvim": re.compile(r"weights(_dist)?$"),
    "efficientvit_msra": re.compile(r"head\.bn\."),
    "iformer": re.compile(r"head\.head(_dist)?\.bn\."),
    "levit": re.compile(r"head(_dist)?\.bn\."),
    "repvit": re.compile(r"head\.head(_dist)?\.bn\."),
    "shvit": re.compile(r"head\.bn\."),
}


@cache
def families() -> dict[str, list[str]]:
    """The names of all models, by the module of timm that defines them."""
    return {family: names for family in list_modules() if (names := list_models(module=family))}


def hollow(name: str, num_classes: int = LABELS, **options: Any) -> nn.Module:
    """A model on the meta device; its weights are not drawn, which takes most of the time."""
    with torch.device("meta"), _WithoutDrawing():
        return timm.create_model(name, pretrained=False, num_classes=num_classes, **options)


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model is made for."""
    return tuple(model.pretrained_cfg["input_size"])


def label_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters of a hollow model that have a dimension of `LABELS`."""
    return {name for name, parameter in model.named_parameters() if LABELS in parameter.shape}


def first_uses(model: nn.Module, *inputs: torch.Tensor) -> dict[str, int]:
    """Rank of the first use of each parameter in one forward pass in eval mode, also of those used outside a layer."""
    with ParameterUses(model) as uses, torch.no_grad():
        model.eval()(*inputs)
    return uses.ranks


def order_faults(groups: Sequence[LayerGroup], ranks: dict[str, int]) -> list[str]:
    """Where a group uses a parameter before a group in front of it has used all of its own.

    The head may start before the neck has ended: the classifiers of a distilled model run one after the other.
    """
    faults = [f"{group.name}: never used" for group in groups if not any(n in ranks for n in group.parameter_names)]
    by_rank = ranks.__getitem__
    ended: list[tuple[LayerGroup, str]] = []
    for group in groups:
        used = [name for name in group.parameter_names if name in ranks]
        if not used:
            continue
        first = min(used, key=by_rank)
        for before, last in ended:
            if ranks[first] < ranks[last] and (group.role, before.role) != ("head", "neck"):
                faults.append(f"{first} of {group.name} is used before {last} of {before.name}")
        ended.append((group, max(used, key=by_rank)))
    return faults


def structure(model: nn.Module) -> tuple[type, frozenset[str]]:
    """What models have in common that differ in width and depth alone: class and parameters, numbers aside."""
    return type(model), frozenset(re.sub(r"\d+", "#", name) for name, _ in model.named_parameters())


def check_order(model: nn.Module) -> None:
    """Every parameter of a hollow model is used in a forward pass, in the order of the groups."""
    ranks = first_uses(model, torch.zeros(2, *input_size(model), device="meta"))
    unused = {name for name, _ in model.named_parameters()} - set(ranks)
    faults = order_faults(ht.wrap(model).layer_groups, ranks)
    assert not unused and not faults, (unused, faults)


def check_structure(name: str, model: nn.Module, family: str) -> None:
    """Partition, modules, stages, roles and head are right; changes the number of labels of the model."""
    wrapper = ht.wrap(model, strict=True)
    groups = wrapper.layer_groups
    group_checks.check_groups(model, groups)
    group_checks.check_modules(model, groups)
    group_checks.check_coarser(groups, ht.wrap(model, "stage").layer_groups)
    roles = [group.role for group in groups]
    assert roles[0] == "stem" and roles.count("block") >= 2, roles
    assert not [group.name for group in groups if "#" in group.name]
    labelled = label_parameters(model)
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


class _WithoutDrawing(TorchFunctionMode):
    """Leave meta tensors as they are where their values would be drawn or set."""

    _DRAW = frozenset(("normal_", "uniform_", "trunc_normal_", "erfinv_"))
    _SET = frozenset(("mul_", "add_", "clamp_", "fill_", "zero_", "copy_"))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in self._DRAW or name in self._SET or getattr(func, "__module__", "") == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **(kwargs or {}))


class ParameterUses(TorchFunctionMode):
    """Note which parameters are given to torch's functions, in the order of their first use."""

    _LOOKS = frozenset(("__get__", "size", "dim", "numel", "__len__"))

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.ranks: dict[str, int] = {}
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in self._LOOKS:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, nn.Parameter) and id(leaf) in self._names:
                    self.ranks.setdefault(self._names[id(leaf)], len(self.ranks))
        return func(*args, **(kwargs or {}))
