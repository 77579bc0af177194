"""Phases in time: a plan resolved for one model and one run, and the clock that says where the run is in it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import SchedulerType, TrainingArguments

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.lookup import architecture_name, wrap
from hf_transfer.architectures.norms import norm_parameter_names
from hf_transfer.errors import PlanError
from hf_transfer.phases.param_groups import OptimizerGroup, no_decay_names, optimizer_groups
from hf_transfer.plans.plan import Phase, TransferPlan, group_learning_rates

NO_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
"""Schedules of transformers that pay no attention to the steps of warm-up."""


@dataclass(frozen=True)
class PhaseSteps:
    """A phase with its place in the run: steps `start <= step < end`.

    Attributes:
        phase: The phase.
        start: Its first optimizer step, from 0.
        end: The step after its last.
        lr_scheduler_type: Name of a transformers scheduler.
        warmup_steps: Steps of warm-up.
        learning_rate: Peak learning rate of pretrained layers.
        shift: Steps by which it begins earlier than planned, because phases before it stopped early.
        is_measured: Whether the learning rate was chosen when the phase began, and not given.
        planned: Number of steps that were planned, of a phase that stopped early; else None.
    """

    phase: Phase
    start: int
    end: int
    lr_scheduler_type: str
    warmup_steps: int
    learning_rate: float
    shift: int = 0
    is_measured: bool = False
    planned: int | None = None

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.end - self.start

    @property
    def solved(self) -> bool:
        """Whether the head was solved, so that there were no steps."""
        return self.phase.head_solver is not None and not self.steps

    @property
    def average_after(self) -> int | None:
        """The step after which weights are averaged; None where they are not, as the phase stopped before, say."""
        if self.phase.average_from is None:
            return None
        planned = self.steps if self.planned is None else self.planned
        after = self.start + math.floor(self.phase.average_from * planned)
        return after if after < self.end else None

    @property
    def was_reached(self) -> bool:
        """False for a phase that the run stopped before."""
        return bool(self.steps or self.planned is None)

    def ended_at(self, step: int) -> PhaseSteps:
        """The same with the steps before a step alone."""
        if step >= self.end:
            return self
        planned = self.steps if self.planned is None else self.planned
        return replace(self, start=min(self.start, step), end=step, planned=planned)


@dataclass(frozen=True)
class ResolvedPlan:
    """A plan made definite for one model and one run: names, learning rates and steps."""

    plan: TransferPlan
    architecture: str
    groups: tuple[LayerGroup, ...]
    optimizer_groups: tuple[OptimizerGroup, ...]
    parameter_counts: Mapping[str, int]
    phases: tuple[PhaseSteps, ...]

    def phase_at(self, step: int) -> int:
        """Index of the phase that the optimizer step numbered `step` (from 0) belongs to."""
        return next((i for i, phase in enumerate(self.phases) if step < phase.end), len(self.phases) - 1)

    def begin_at(self, index: int, step: int) -> ResolvedPlan:
        """The same with phase `index` beginning at `step`: the one before it ends there, later ones move with it."""
        early = self.phases[index].start - step
        if not early:
            return self
        moved = [replace(p, start=p.start - early, end=p.end - early, shift=p.shift + early) for p in self.phases]
        before = list(self.phases[:index])
        if before and not before[-1].solved:  # one that was solved stays where it was
            last = before[-1]  # without any step it did not stop early: its head was solved
            before[-1] = last.ended_at(step) if last.start < step < last.end else replace(last, end=step)
        return replace(self, phases=(*before, *moved[index:]))

    def ended_at(self, step: int) -> ResolvedPlan:
        """The same with the steps that were made, of a run that ended at a step."""
        return replace(self, phases=tuple(phase.ended_at(step) for phase in self.phases))

    def with_learning_rate(self, index: int, learning_rate: float) -> ResolvedPlan:
        """The same with another learning rate in phase `index`; all groups keep their rates relative to it."""
        steps = replace(self.phases[index], learning_rate=learning_rate, is_measured=True)
        rates = group_learning_rates(self.groups, replace(steps.phase, learning_rate=learning_rate), learning_rate)
        groups = []
        for group in self.optimizer_groups:
            own = group.learning_rates[index]
            rate = None if own is None else rates[group.layer_group]
            before, after = group.learning_rates[:index], group.learning_rates[index + 1 :]
            groups.append(replace(group, learning_rates=(*before, rate, *after)))
        phases = (*self.phases[:index], steps, *self.phases[index + 1 :])
        return replace(self, phases=phases, optimizer_groups=tuple(groups))

    def to_dict(self) -> dict[str, Any]:
        """The content of `transfer_plan.json`; learning rate None means frozen."""
        return {
            "schema": 1,
            "plan": self.plan.to_dict() | {"architecture": self.architecture},
            "architecture": self.architecture,
            "groups": [self._group_dict(group) for group in self.groups],
            "phases": [self._phase_dict(index) for index in range(len(self.phases))],
            "diagnosis": None,
        }

    def _group_dict(self, group: LayerGroup) -> dict[str, Any]:
        mine = [g for g in self.optimizer_groups if g.layer_group == group.index]
        return {
            "index": group.index,
            "name": group.name,
            "role": group.role,
            "parameters": self._count(group.parameter_names),
            "tensors": len(group.parameter_names),
            "phases": [self._group_phase(mine, index) for index in range(len(self.phases))],
        }

    def _group_phase(self, optimizer_groups: Sequence[OptimizerGroup], index: int) -> dict[str, Any]:
        reached = self.phases[index].was_reached
        trained = [g for g in optimizer_groups if reached and g.learning_rates[index] is not None]
        names = [name for g in trained for name in g.parameter_names]
        counts = {"trained_parameters": self._count(names), "trained_tensors": len(names)}
        if self.phases[index].solved:
            return counts | {"learning_rate": None, "weight_decay": None, "solved": bool(names)}
        return counts | {
            "learning_rate": trained[0].learning_rates[index] if trained else None,
            "weight_decay": max(g.weight_decays[index] for g in trained) if trained else None,
        }

    def _phase_dict(self, index: int) -> dict[str, Any]:
        steps = self.phases[index]
        trained = [n for g in self.optimizer_groups if g.learning_rates[index] is not None for n in g.parameter_names]
        stopped = {} if steps.planned is None else {"planned_steps": steps.planned}
        told = {
            "name": steps.phase.name,
            "train": steps.phase.to_dict()["train"],
            "start_step": steps.start,
            "end_step": steps.end,
            "epochs": None if steps.solved else steps.phase.epochs,
            "lr_scheduler_type": "none" if steps.solved else steps.lr_scheduler_type,
            "warmup_steps": 0 if steps.solved or steps.lr_scheduler_type in NO_WARMUP else steps.warmup_steps,
            "norm": steps.phase.norm,
            "trained_parameters": self._count(trained) if steps.was_reached else 0,
        }
        averaged = {} if steps.average_after is None else {"averaged_after_step": steps.average_after}
        return told | stopped | averaged | self._how_found(steps)

    def _how_found(self, steps: PhaseSteps) -> dict[str, Any]:
        if steps.solved:
            return {"head_solver": steps.phase.head_solver}
        measured = {"learning_rate": steps.learning_rate, "learning_rate_from": "range test"}
        return measured if steps.is_measured else {}

    def _count(self, names: Collection[str]) -> int:
        return sum(self.parameter_counts[name] for name in names)


@dataclass
class PhaseClock:
    """Where a run is: its phases with their present borders, and the phase that was entered last."""

    resolved: ResolvedPlan
    current: int | None = None

    def index_at(self, step: int) -> int:
        """Index of the phase that rules a step of the schedule.

        A scheduler lags behind where mixed precision skips steps, and must not fall back to a phase that is over.
        """
        return max(self.resolved.phase_at(step), self.current or 0)


def resolve_plan(plan: TransferPlan, model: nn.Module, args: TrainingArguments, steps_per_epoch: int) -> ResolvedPlan:
    """Make a plan definite.

    Args:
        plan: The plan.
        model: The model, not wrapped.
        args: Where the plan leaves learning rate, weight decay, epochs, warm-up or schedule open.
        steps_per_epoch: Optimizer steps in one pass over the training data.

    Raises:
        PlanError: The plan is for another architecture, or a selector matches nothing.
    """
    architecture = architecture_name(model)
    plan.check_architecture(architecture)
    groups = wrap(model).layer_groups
    ends = phase_ends(plan.phases, steps_per_epoch, args.num_train_epochs, args.max_steps)
    scheduler = str(SchedulerType(args.lr_scheduler_type).value)
    phases = []
    for phase, start, end in zip(plan.phases, (0, *ends), ends, strict=False):
        if plan.schedule == "run":
            warmup = 0 if start else args.get_warmup_steps(ends[-1])
        else:
            steps = end - start
            warmup = args.get_warmup_steps(steps) if phase.warmup is None else _warmup(phase.warmup, steps)
            warmup = min(warmup, steps - 1)  # a phase of warm-up alone would end where it should begin
        rate = args.learning_rate if phase.learning_rate is None else phase.learning_rate
        phases.append(PhaseSteps(phase, start, end, phase.lr_scheduler_type or scheduler, warmup, rate))
    return ResolvedPlan(
        plan,
        architecture,
        groups,
        optimizer_groups(
            groups,
            plan.phases,
            args.learning_rate,
            args.weight_decay,
            norm_parameter_names(model),
            no_decay_names(model),
        ),
        {name: parameter.numel() for name, parameter in model.named_parameters()},
        tuple(phases),
    )


def total_steps(plan: TransferPlan, max_steps: int) -> int | None:
    """Length of a run in steps, if it is known without the data.

    Args:
        plan: The plan.
        max_steps: `max_steps` of the training arguments; above 0 it is the length of a single phase without one.

    Raises:
        PlanError: `max_steps` is set although the phases have lengths of their own.
    """
    if max_steps > 0:
        if len(plan.phases) > 1 or plan.phases[0].epochs is not None or plan.phases[0].max_steps is not None:
            raise PlanError(
                f"max_steps={max_steps} contradicts the plan, whose phases have lengths of their own "
                f"({', '.join(phase.name for phase in plan.phases)}). Set epochs or max_steps in the phases."
            )
        return max_steps
    lengths = [phase.max_steps for phase in plan.phases]
    return sum(steps for steps in lengths if steps) if all(lengths) else None


def phase_ends(
    phases: Sequence[Phase], steps_per_epoch: int, num_train_epochs: float, max_steps: int = -1
) -> tuple[int, ...]:
    """The step at which each phase ends; each has at least one step.

    Args:
        phases: The phases.
        steps_per_epoch: Optimizer steps in one pass over the training data.
        num_train_epochs: For phases without a length.
        max_steps: Above 0, the length of a single phase without one.
    """
    if len(phases) == 1 and max_steps > 0:
        return (max_steps,)
    ends: list[int] = []
    for phase in phases:
        epochs = num_train_epochs if phase.epochs is None else phase.epochs
        steps = phase.max_steps or math.ceil(epochs * steps_per_epoch)
        ends.append((ends[-1] if ends else 0) + max(steps, 1))
    return tuple(ends)


def _warmup(warmup: float, steps: int) -> int:
    return math.ceil(warmup * steps) if warmup < 1 else int(warmup)
