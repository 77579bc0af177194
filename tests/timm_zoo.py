"""timm's whole zoo for tests: models without weights in memory, the order in which parameters are used, known traits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

import timm
import torch
from timm.models import list_models, list_modules
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from hf_transfer.layers import LayerGroup

# A number that no layer has by chance as its width: a parameter with this dimension depends on the labels.
LABELS = 1009

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
    latest = ("", -1)
    for group in groups:
        used = {name: ranks[name] for name in group.parameter_names if name in ranks}
        if not used:
            continue
        first = min(used, key=used.__getitem__)
        if used[first] < latest[1] and group.role != "head":
            faults.append(f"{first} of {group.name} is used before {latest[0]}")
        latest = max(latest, max(used.items(), key=lambda each: each[1]), key=lambda each: each[1])
    return faults


def same_structure(names: Sequence[str]) -> list[list[str]]:
    """Models of one class and the same parameters, numbers aside; the first of each has the fewest parameters."""
    alike: defaultdict[Any, list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        model = hollow(name)
        parameters = [parameter for parameter, _ in model.named_parameters()]
        key = (type(model), frozenset(re.sub(r"\d+", "#", parameter) for parameter in parameters))
        alike[key].append((len(parameters), name))
    return [[name for _, name in sorted(members)] for members in alike.values()]


class _WithoutDrawing(TorchFunctionMode):
    """Leave meta tensors as they are where their values would be drawn or set."""

    _NAMES = frozenset(
        ("normal_", "uniform_", "trunc_normal_", "erfinv_", "mul_", "add_", "sub_", "clamp_", "fill_", "zero_", "copy_")
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in self._NAMES or getattr(func, "__module__", "") == "torch.nn.init":
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
