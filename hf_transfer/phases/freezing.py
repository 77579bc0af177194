"""Freezing: what a phase keeps fixed, applied to a model, and the proof that it stayed fixed.

Frozen means bit-identical, parameters and buffers. `requires_grad=False` alone does not do that: batch normalisation
keeps updating its statistics, dropout and drop-path stay active, and a training loop undoes `eval()` by calling
`model.train()` before each step.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.lookup import wrap
from hf_transfer.architectures.norms import norm_parameter_names
from hf_transfer.architectures.selectors import select_groups
from hf_transfer.errors import FrozenChangedError
from hf_transfer.plans.plan import NormMode, Phase
from hf_transfer.utils.modules import _WRAPPERS, named_parameters


@dataclass(frozen=True)
class FreezeState:
    """What is trained, and which modules stay in eval mode whatever `model.train()` says.

    Attributes:
        trained: Names of the trained parameters.
        eval_modules: Paths of modules, none of which lies inside another.
    """

    trained: frozenset[str]
    eval_modules: tuple[str, ...]


def freeze_state(
    groups: Sequence[LayerGroup],
    trained_groups: Sequence[LayerGroup],
    batch_norms: dict[str, Collection[str]],
    norm: NormMode,
) -> FreezeState:
    """Decide what a phase freezes.

    Args:
        groups: All layer groups of the model.
        trained_groups: Those that the phase trains, narrowed to the trained parameters.
        batch_norms: Path of each layer with running statistics, and the names of its own parameters.
        norm: "eval" keeps the running statistics of trained groups, too. A layer with running statistics none of
            whose parameters is trained is frozen, whatever `norm` says.
    """
    trained = frozenset(name for group in trained_groups for name in group.parameter_names)
    touched = {group.index for group in trained_groups}
    kept = [path for group in groups if group.index not in touched for path in group.module_names]
    kept += [path for path, own in batch_norms.items() if norm == "eval" or (own and not trained.intersection(own))]
    return FreezeState(trained, _outermost(kept))


def without(state: FreezeState, parameter_names: Collection[str]) -> FreezeState:
    """A state that does not train these parameters."""
    return replace(state, trained=state.trained.difference(parameter_names))


def phase_freeze_state(model: nn.Module, groups: Sequence[LayerGroup], phase: Phase) -> FreezeState:
    """`freeze_state` of a phase for a model whose layer groups are known."""
    return freeze_state(
        groups,
        select_groups(groups, phase.train, norm_parameter_names(model)),
        batch_norms(model),
        phase.norm,
    )


def batch_norms(model: nn.Module) -> dict[str, Collection[str]]:
    """Paths of the layers that hold running statistics, with the names of their own parameters."""
    return {
        path: [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
        for path, module in model.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    }


class Freezer:
    """Apply a `FreezeState` to a model, and take it back."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._requires_grad = {name: p.requires_grad for name, p in named_parameters(model)}
        self._training = {name: module.training for name, module in model.named_modules()}
        self._held: list[nn.Module] = []

    def apply(self, state: FreezeState) -> None:
        """Freeze all but what the state trains; replaces what was applied before."""
        self._release()
        for name, parameter in named_parameters(self.model):
            if parameter.is_floating_point():
                parameter.requires_grad_(name in state.trained)
            if name not in state.trained:
                parameter.grad = None
        modules = {_WRAPPERS.sub("", name).rstrip("."): module for name, module in self.model.named_modules()}
        for path in state.eval_modules:
            module = modules[path]
            module.eval()
            # A bound method, not a closure: it survives copy.deepcopy (EMA) and rebinds to the copy.
            module.train = types.MethodType(train, module)
            self._held.append(module)

    def restore(self) -> None:
        """Give parameters and modules back as they were when this object was made."""
        self._release()
        for name, parameter in named_parameters(self.model):
            parameter.requires_grad_(self._requires_grad[name])
        for name, module in self.model.named_modules():
            module.training = self._training.get(name, module.training)

    def _release(self) -> None:
        for module in self._held:
            vars(module).pop("train", None)
            module.train(self.model.training)
        self._held.clear()


# Named so, since pickle finds a bound method by the name of its function.
def train(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stand-in for a frozen module's `train` method: the module and all in it stay in eval mode."""
    return type(module).train(module, False)


@contextmanager
def frozen(model: nn.Module, phase: Phase) -> Iterator[FreezeState]:
    """Apply a phase's freezing inside a hand-written training loop; everything is given back on exit.

    Make the optimizer inside, from `hf_transfer.param_groups(model, phase)`, and prepare the model (DDP) inside, too:
    changing what is trained after a DDP wrap makes the ranks diverge without a word.

    Args:
        model: The model, not wrapped in DDP.
        phase: What to train.

    Raises:
        SelectorError: The phase selects nothing in this model.
    """
    wrapper = wrap(model)
    state = without(phase_freeze_state(model, wrapper.layer_groups, phase), wrapper.unused_parameters)
    freezer = Freezer(model)
    freezer.apply(state)
    try:
        yield state
    finally:
        freezer.restore()


def frozen_tensors(model: nn.Module, state: FreezeState) -> dict[str, torch.Tensor]:
    """The tensors that must not change: parameters that are not trained, and buffers of modules kept in eval."""
    tensors = {name: p.data for name, p in named_parameters(model) if name not in state.trained}
    held = tuple(f"{path}." if path else "" for path in state.eval_modules)
    tensors.update({name: b for name, b in model.named_buffers() if name.startswith(held)} if held else {})
    return tensors


def changed_tensors(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Names of the tensors whose digest is not the same."""
    return [name for name, digest in before.items() if after.get(name) != digest]


def check_unchanged(before: Mapping[str, str], after: Mapping[str, str], phase: str) -> None:
    """Check that frozen tensors are the same, bit for bit.

    Raises:
        FrozenChangedError: Names the tensors that changed.
    """
    changed = changed_tensors(before, after)
    if changed:
        raise frozen_changed(changed, phase)


def frozen_changed(names: Sequence[str], phase: str) -> FrozenChangedError:
    """The error that names frozen tensors which changed."""
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return FrozenChangedError(
        f"Frozen tensors changed in phase {phase!r}: {shown}. Something outside the plan wrote to them: a "
        "callback that unfreezes, or a module that updates itself in its forward pass."
    )


def _outermost(paths: Sequence[str]) -> tuple[str, ...]:
    """Drop paths that lie inside another of the paths."""
    unique = dict.fromkeys(paths)
    return tuple(
        path
        for path in unique
        if not any(other != path and (other == "" or path.startswith(f"{other}.")) for other in unique)
    )
