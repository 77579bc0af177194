"""The registry of model wrappers: from a model to its layer groups.

A wrapper is a read-only view. It never changes the model, its class, its `state_dict` keys or its outputs.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import ClassVar, Literal, TypeVar

from torch import nn

from hf_transfer.architectures.selectors import LayerGroup, Role, Selector, check_partition, select_groups
from hf_transfer.errors import ArgumentError, LayerGroupError, UnknownArchitectureError

logger = logging.getLogger(__name__)

Granularity = Literal["block", "stage"]
ENTRY_POINT_GROUP = "hf_transfer.wrappers"
TIMM = "timm"
TIMM_WRAPPER = "timm_wrapper"
INFERRED = "inferred"


@dataclass(frozen=True)
class GroupDraft:
    """A layer group before it is numbered: what a wrapper returns."""

    name: str
    role: Role
    parameter_names: list[str] = field(default_factory=list)


class ModelWrapper:
    """The layer groups of one model.

    Subclass it, implement `draft_groups`, and register the class with `register_wrapper`; most architectures need
    only a declaration of module paths, see `hf_transfer.architectures.layout.LayoutWrapper`.

    Attributes:
        model: The model itself, unchanged.
        layer_groups: From input to output; every parameter is in exactly one.
        source: "registered", "timm" or "inferred": how the groups were found.
        shared_parameters: Name of each parameter that is used in several places, and the other names that it has
            there. It belongs to the group that runs first.
    """

    source: ClassVar[str] = "registered"

    def __init__(self, model: nn.Module, granularity: Granularity = "block") -> None:
        if granularity not in ("block", "stage"):
            raise ArgumentError(f'granularity is "block" or "stage", found {granularity!r}.')
        self.model = model
        self.granularity: Granularity = granularity
        names = [name for name, _ in model.named_parameters()]
        if not names:
            raise LayerGroupError(f"{type(model).__name__} has no parameters, so there is nothing to train or freeze.")
        self.shared_parameters = shared_parameters(model)
        drafts = with_shared_parameters_first(self.draft_groups(), self.shared_parameters)
        drafts = [draft for draft in drafts if draft.parameter_names]
        modules = owned_modules(model, drafts)
        self.layer_groups = tuple(
            LayerGroup(index, draft.name, draft.role, tuple(draft.parameter_names), tuple(modules[index]))
            for index, draft in enumerate(drafts)
        )
        check_partition(self.layer_groups, names)
        for name, others in self.shared_parameters.items():
            home = next(group.name for group in self.layer_groups if name in group.parameter_names)
            logger.info("%s is shared with %s; it belongs to the group %s.", name, ", ".join(others), home)

    @property
    def unused_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that are known never to get a gradient, such as a mask token of the pretraining.

        `hf_transfer.phases.unused_parameters.find_unused_parameters` finds them on any model by a forward pass.
        """
        return ()

    @property
    def reused_modules(self) -> tuple[str, ...]:
        """Names of the modules that are known to run several times in one forward pass.

        Each belongs to the group that runs it first.
        """
        return ()

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether the wrapper knows this model; the groups of one that it does not know are inferred."""
        return True

    def draft_groups(self) -> list[GroupDraft]:
        """Return the groups from input to output; empty ones are dropped."""
        raise NotImplementedError(f"{type(self).__name__} must implement draft_groups().")

    @property
    def head(self) -> LayerGroup:
        """The group that maps features to labels.

        Raises:
            LayerGroupError: The model has no head, such as a timm model made with `num_classes=0`.
        """
        for group in self.layer_groups:
            if group.role == "head":
                return group
        raise LayerGroupError(
            f"{type(self.model).__name__} has no classification head. Load it with the number of labels "
            "(`num_labels=...` in transformers, `num_classes=...` in timm)."
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {len(self.layer_groups)} groups, {self.source})"


_TORCH_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
WrapperClass = TypeVar("WrapperClass", bound=type[ModelWrapper])
_WRAPPERS: dict[str, type[ModelWrapper]] = {}


def register_wrapper(*model_types: str, replace: bool = False) -> Callable[[WrapperClass], WrapperClass]:
    """Class decorator that registers a `ModelWrapper` for one or more model types.

    A distribution can also name its wrapper classes in the entry-point group `hf_transfer.wrappers`, with the model
    type as the entry's name.

    Args:
        model_types: `config.model_type` of a transformers model, or the class name of any other module.
        replace: Allow an already registered type to be replaced; refused otherwise, so that two packages cannot
            silently fight over one architecture.

    Raises:
        ArgumentError: No type given, another class is registered for it, or the class is not a `ModelWrapper`.
    """
    if not model_types or not all(isinstance(name, str) and name for name in model_types):
        raise ArgumentError('register_wrapper needs the model type, as in @register_wrapper("my_model_type").')

    def register(wrapper: WrapperClass) -> WrapperClass:
        if not (isinstance(wrapper, type) and issubclass(wrapper, ModelWrapper)):
            raise ArgumentError(f"register_wrapper decorates a subclass of ModelWrapper, found {wrapper!r}.")
        # Built-in wrappers come first: replaced ones would come back, and doubled ones be found only in `wrap`.
        importlib.import_module("hf_transfer.architectures.builtin")
        doubled = [name for name in model_types if _WRAPPERS.get(name, wrapper) is not wrapper]
        if doubled and not replace:
            raise ArgumentError(f"Already registered: {', '.join(doubled)}. Pass replace=True to replace.")
        _WRAPPERS.update(dict.fromkeys(model_types, wrapper))
        return wrapper

    return register


def list_wrappers() -> list[str]:
    """Return the registered model types, sorted; "timm" and "inferred" stand for the two generic wrappers."""
    _load_wrappers()
    return sorted(_WRAPPERS)


def wrap(model: nn.Module, granularity: Granularity = "block", strict: bool = False) -> ModelWrapper:
    """Find the layer groups of a model.

    Args:
        model: A transformers or timm image classifier, or any `nn.Module`.
        granularity: "block" for one group per block, "stage" for one per stage where the architecture has stages.
        strict: Refuse a model whose architecture is not registered, instead of inferring its groups with a warning.

    Raises:
        ArgumentError: `model` is not a module, or `granularity` is unknown.
        UnknownArchitectureError: The architecture is unknown and `strict` is set.
        LayerGroupError: The wrapper's groups do not partition the parameters.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"wrap takes a torch.nn.Module, found {type(model).__name__}: load the model first.")
    _load_wrappers()
    key = registry_key(model)
    if key == INFERRED and strict:
        raise UnknownArchitectureError(
            f"No wrapper is registered for {type(model).__name__}. Register one with @hf_transfer.register_wrapper, "
            "or leave strict=False to have its layer groups inferred."
        )
    return _WRAPPERS[key](model, granularity)


def select(model: nn.Module, selector: Selector, granularity: Granularity = "block") -> tuple[LayerGroup, ...]:
    """Return the layer groups of a model that a selector trains; see `architectures.selectors.select_groups`."""
    return select_groups(wrap(model, granularity).layer_groups, selector, norm_parameter_names(model))


def registry_key(model: nn.Module) -> str:
    """The registered type that fits a model: its transformers model type, its class name, "timm" or "inferred"."""
    _load_wrappers()
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    keys = (key for key in (model_type, type(model).__name__) if isinstance(key, str) and key in _WRAPPERS)
    inner = getattr(model, "timm_model", model)
    of_timm = any(cls.__module__.startswith("timm.") for cls in type(inner).__mro__)
    key = next(keys, TIMM if of_timm or callable(getattr(inner, "group_matcher", None)) else INFERRED)
    return key if _WRAPPERS[key].fits(model) else INFERRED


def architecture_name(model: nn.Module) -> str:
    """Name of a model's architecture: "timm:NAME", "transformers:MODEL_TYPE" or the class name."""
    config = getattr(model, "config", None)
    if isinstance(timm_name := getattr(config, "architecture", None), str):
        return f"timm:{timm_name}"
    if isinstance(model_type := getattr(config, "model_type", None), str):
        return f"transformers:{model_type}"
    timm_name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    return f"timm:{timm_name}" if isinstance(timm_name, str) else type(model).__name__


def norm_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the normalisation layers: torch's, and modules named so whose own parameters are all 1-D.

    The name is the one trait that transformers' and timm's own norm classes share.
    """
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        named = re.search(r"Norm|Affine", type(module).__name__) and all(p.ndim <= 1 for p in own)
        if own and (named or isinstance(module, _TORCH_NORMS)):
            yield name, module


def norm_parameter_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of all normalisation layers."""
    return frozenset(
        f"{module_name}.{name}" if module_name else name
        for module_name, module in norm_modules(model)
        for name, _ in module.named_parameters(recurse=False)
    )


def shared_parameters(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Parameters with several names: the one in `named_parameters()`, and the others."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {first: tuple(others) for first, *others in names.values() if others}


def with_shared_parameters_first(drafts: Sequence[GroupDraft], shared: dict[str, tuple[str, ...]]) -> list[GroupDraft]:
    """Put each shared parameter, under its first name, into the first group that holds any of its names."""
    first_name = {other: name for name, others in shared.items() for other in (name, *others)}
    placed: set[str] = set()
    kept: list[GroupDraft] = []
    for draft in drafts:
        names = list(dict.fromkeys(first_name.get(name, name) for name in draft.parameter_names))
        kept.append(GroupDraft(draft.name, draft.role, [n for n in names if n not in placed]))
        placed.update(name for name in names if name in shared)
    return kept


def owned_modules(model: nn.Module, drafts: Sequence[GroupDraft]) -> list[list[str]]:
    """The largest modules that belong to one group alone, group by group.

    A module without parameters (dropout, activation, pooling) belongs to the group that has all parameters of the
    module around it; between two groups, to the one before it in registration order, or to the head where it stands
    directly before the head: a dropout in front of a trained classifier stays active.
    """
    owner = {name: index for index, draft in enumerate(drafts) for name in draft.parameter_names}
    touched = _groups_below(model, owner)
    leaves = [name for name, module in model.named_modules() if next(module.children(), None) is None]
    settled = _settle_leaves(leaves, touched, {i for i, draft in enumerate(drafts) if draft.role == "head"})
    for name, index in settled.items():
        for above in (*_ancestors(name), name):
            touched[above] = touched[above] | {index}
    groups: list[list[str]] = [[] for _ in drafts]
    for name, _ in model.named_modules():
        parent = name.rpartition(".")[0]
        if len(touched[name]) == 1 and (not name or len(touched[parent]) > 1):
            groups[next(iter(touched[name]))].append(name)
    return groups


def _groups_below(model: nn.Module, owner: dict[str, int]) -> dict[str, set[int]]:
    """For each module, the groups of the parameters in its subtree."""
    touched: dict[str, set[int]] = {name: set() for name, _ in model.named_modules()}
    for name, index in owner.items():
        for above in _ancestors(name):
            touched.get(above, set()).add(index)
    return touched


def _settle_leaves(leaves: list[str], touched: dict[str, set[int]], heads: set[int]) -> dict[str, int]:
    """Choose a group for each module without parameters."""
    following: dict[str, int | None] = {}
    upcoming: int | None = None
    for name in reversed(leaves):
        following[name] = upcoming
        upcoming = min(touched[name]) if touched[name] else upcoming
    settled: dict[str, int] = {}
    before: int | None = None
    for name in leaves:
        if touched[name]:
            before = max(touched[name])
            continue
        around = next((touched[above] for above in reversed(_ancestors(name)) if touched[above]), set())
        after = following[name]
        if len(around) == 1:
            settled[name] = next(iter(around))
        elif after is not None and (after in heads or before is None):
            settled[name] = after
        elif before is not None:
            settled[name] = before
    return settled


def _ancestors(name: str) -> list[str]:
    """The paths of the modules around a module or parameter, from the model ("") inwards."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts))] if name else []


@cache
def _load_wrappers() -> None:
    """Register the built-in wrappers and those of other distributions, once."""
    importlib.import_module("hf_transfer.architectures.builtin")
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            register_wrapper(entry.name)(entry.load())
        except Exception as error:  # a broken third-party plugin must not take every model down
            logger.warning("The wrapper %r of %s cannot be used: %s", entry.name, entry.value, error)
