"""Optimizer groups: one per layer group and weight-decay rule, with names and learning rates."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.lookup import wrap
from hf_transfer.architectures.norms import norm_parameter_names
from hf_transfer.architectures.selectors import select_groups
from hf_transfer.errors import PlanError
from hf_transfer.plans.plan import Phase, group_learning_rates
from hf_transfer.utils.modules import named_parameters

_TOKENS = re.compile(
    r"(^|[._])(cls_token|class_token|class_embedding|dist_token|distillation_token|reg_tokens?|register_tokens?"
    r"|mask_token|pos_embed|pos_embedding|position_embeddings?|relative_position_bias(_table)?|rel_pos\w*)([._]|$)"
)


@dataclass(frozen=True)
class OptimizerGroup:
    """Parameters that share learning rate and weight decay in every phase.

    Attributes:
        name: The layer group's name, with "/no_decay" where weight decay is off, and the phases in brackets where the
            parameters of one layer group are trained in different phases.
        layer_group: Index of the layer group.
        parameter_names: As in `model.named_parameters()`.
        learning_rates: Peak learning rate in each phase; None where the parameters are frozen.
        weight_decays: Weight decay in each phase.
    """

    name: str
    layer_group: int
    parameter_names: tuple[str, ...]
    learning_rates: tuple[float | None, ...]
    weight_decays: tuple[float, ...]

    @property
    def first_phase(self) -> int:
        """Index of the first phase that trains the group."""
        return next(i for i, rate in enumerate(self.learning_rates) if rate is not None)

    def trained_from(self, phase: int) -> bool:
        """Whether a phase trains the group, or one after it."""
        return any(rate is not None for rate in self.learning_rates[phase:])

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of the first phase that trains the group."""
        rate = self.learning_rates[self.first_phase]
        assert rate is not None
        return rate


def optimizer_groups(
    groups: Sequence[LayerGroup],
    phases: Sequence[Phase],
    learning_rate: float,
    weight_decay: float,
    norm_parameters: Collection[str] = (),
    no_decay: Collection[str] = (),
) -> tuple[OptimizerGroup, ...]:
    """Group all parameters that any phase trains; the head first, then from the output to the input.

    Args:
        groups: All layer groups of the model.
        phases: The phases of the plan.
        learning_rate: For phases without their own.
        weight_decay: For phases without their own.
        norm_parameters: Names of the parameters of normalisation layers, for the selector "norm".
        no_decay: Names of parameters without weight decay.
    """
    trained = [
        {name for g in select_groups(groups, phase.train, norm_parameters) for name in g.parameter_names}
        for phase in phases
    ]
    rates = [group_learning_rates(groups, phase, learning_rate) for phase in phases]
    decays = tuple(weight_decay if phase.weight_decay is None else phase.weight_decay for phase in phases)
    made: list[OptimizerGroup] = []
    for group in sorted(groups, key=lambda g: (g.role != "head", -g.index)):
        members = _by_treatment(group, trained, no_decay)
        several = len({treatment.phases for treatment in members}) > 1
        for treatment in sorted(members):
            made.append(
                OptimizerGroup(
                    _group_name(group, treatment, several),
                    group.index,
                    tuple(members[treatment]),
                    tuple(rates[i][group.index] if on else None for i, on in enumerate(treatment.phases)),
                    tuple(0.0 if treatment.no_decay else decay for decay in decays),
                )
            )
    return tuple(made)


class _Treatment(NamedTuple):
    """What the optimizer does with a parameter: in which phases it is trained, and whether it never decays."""

    phases: tuple[bool, ...]
    no_decay: bool


def _by_treatment(
    group: LayerGroup, trained: Sequence[Collection[str]], no_decay: Collection[str]
) -> dict[_Treatment, list[str]]:
    """The parameters of a layer group that any phase trains, by how they are treated."""
    members: dict[_Treatment, list[str]] = {}
    for name in group.parameter_names:
        phases = tuple(name in names for names in trained)
        if any(phases):
            members.setdefault(_Treatment(phases, name in no_decay), []).append(name)
    return members


def _group_name(group: LayerGroup, treatment: _Treatment, several: bool) -> str:
    """Name of an optimizer group; with the phases where a layer group has several."""
    numbers = ", ".join(str(number) for number, on in enumerate(treatment.phases, 1) if on)
    return group.name + ("/no_decay" if treatment.no_decay else "") + (f" (phases {numbers})" if several else "")


def param_groups(
    model: nn.Module, phase: Phase, weight_decay: float = 0.0, learning_rate: float | None = None
) -> list[dict[str, Any]]:
    """Optimizer groups for one phase, for any torch optimizer.

    Args:
        model: The model; what the phase does not train is left out, whatever its `requires_grad`.
        phase: What to train and at which rates.
        weight_decay: Used unless the phase has its own; biases, norms and position or class tokens get none.
        learning_rate: Needed where the phase has none.

    Returns:
        Dictionaries with `name`, `param_names`, `params`, `lr` and `weight_decay`, none empty; the head first.

    Raises:
        PlanError: Neither the phase nor `learning_rate` gives a learning rate.
        SelectorError: The phase selects nothing in this model.
    """
    rate = phase.learning_rate if phase.learning_rate is not None else learning_rate
    if rate is None:
        raise PlanError(f"Phase {phase.name!r} has no learning rate: set it, or pass learning_rate to param_groups.")
    groups = optimizer_groups(
        wrap(model).layer_groups, (phase,), rate, weight_decay, norm_parameter_names(model), no_decay_names(model)
    )
    return torch_groups(model, groups)


def torch_groups(model: nn.Module, groups: Iterable[OptimizerGroup]) -> list[dict[str, Any]]:
    """Turn `OptimizerGroup`s into what a torch optimizer takes."""
    parameters = dict(named_parameters(model))
    return [
        {
            "name": group.name,
            "param_names": list(group.parameter_names),
            "params": [parameters[name] for name in group.parameter_names],
            "lr": group.learning_rate,
            "weight_decay": group.weight_decays[group.first_phase],
        }
        for group in groups
    ]


def no_decay_names(model: nn.Module) -> frozenset[str]:
    """Parameters without weight decay: biases, norms and other 1-D ones, tokens, position embeddings.

    Trainer's own rule decays batch norm weights, class tokens and position embeddings; this one is timm's.
    """
    named = getattr(model, "no_weight_decay", None) or getattr(
        getattr(model, "timm_model", None), "no_weight_decay", None
    )
    declared = tuple(named()) if callable(named) else ()
    return frozenset(
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1
        or _TOKENS.search(name)
        or any(name == item or name.endswith(f".{item}") for item in declared)
    )
