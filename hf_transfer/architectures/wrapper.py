"""Model wrappers: a read-only view from a model to its layer groups."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import nn

from hf_transfer.architectures.layer_groups import LayerGroup, Role, check_partition
from hf_transfer.errors import ArgumentError, LayerGroupError

logger = logging.getLogger(__name__)
Granularity = Literal["block", "stage"]


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
