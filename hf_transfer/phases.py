"""Phases in time: their steps, their learning-rate schedule, and the callback that moves a run through them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, get_scheduler

from hf_transfer.errors import PlanError
from hf_transfer.freezing import Freezer, check_unchanged, digests, frozen_tensors, phase_freeze_state
from hf_transfer.layers import LayerGroup
from hf_transfer.optimizer_groups import OptimizerGroup, no_decay_names, optimizer_groups
from hf_transfer.plan import Phase, TransferPlan
from hf_transfer.registry import architecture_name, norm_parameter_names, wrap

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhaseSteps:
    """A phase with its place in the run: steps `start <= step < end`."""

    phase: Phase
    start: int
    end: int
    lr_scheduler_type: str
    warmup_steps: int
    learning_rate: float

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.end - self.start


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
        trained = [g for g in optimizer_groups if g.learning_rates[index] is not None]
        names = [name for g in trained for name in g.parameter_names]
        return {
            "trained_parameters": self._count(names),
            "trained_tensors": len(names),
            "learning_rate": trained[0].learning_rates[index] if trained else None,
            "weight_decay": max(g.weight_decays[index] for g in trained) if trained else None,
        }

    def _phase_dict(self, index: int) -> dict[str, Any]:
        steps = self.phases[index]
        trained = [n for g in self.optimizer_groups if g.learning_rates[index] is not None for n in g.parameter_names]
        return {
            "name": steps.phase.name,
            "train": steps.phase.to_dict()["train"],
            "start_step": steps.start,
            "end_step": steps.end,
            "epochs": steps.phase.epochs,
            "lr_scheduler_type": steps.lr_scheduler_type,
            "warmup_steps": steps.warmup_steps,
            "norm": steps.phase.norm,
            "trained_parameters": self._count(trained),
        }

    def _count(self, names: Collection[str]) -> int:
        return sum(self.parameter_counts[name] for name in names)


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
    phases = []
    for phase, start, end in zip(plan.phases, (0, *ends), ends, strict=False):
        warmup = args.get_warmup_steps(end - start) if phase.warmup is None else _warmup(phase.warmup, end - start)
        scheduler = phase.lr_scheduler_type or str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
        warmup = min(warmup, end - start - 1)  # a phase of warm-up alone would end where it should begin
        rate = args.learning_rate if phase.learning_rate is None else phase.learning_rate
        phases.append(PhaseSteps(phase, start, end, scheduler, warmup, rate))
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
        max_steps: Of the training arguments; above 0 it is the length of a single phase without one.

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


def make_scheduler(resolved: ResolvedPlan, optimizer: Any, scheduler_kwargs: Any) -> Any:
    """The learning-rate schedule of a run: each phase has its own warm-up and decay, in one scheduler.

    One scheduler for all phases has no state but the step count, so that resuming cannot lose it.

    Raises:
        PlanError: A plan of several phases uses a schedule that is not a function of the step.
    """
    factors = [_phase_factor(phase, scheduler_kwargs) for phase in resolved.phases]
    if None in factors:
        only = resolved.phases[0]
        if len(resolved.phases) == 1:
            return get_scheduler(only.lr_scheduler_type, optimizer, only.warmup_steps, only.steps, scheduler_kwargs)
        kinds = ", ".join(sorted({phase.lr_scheduler_type for phase in resolved.phases}))
        raise PlanError(
            f"The schedule ({kinds}) depends on more than the step and works in plans of one phase only. Use linear, "
            "cosine, constant, constant_with_warmup or polynomial."
        )
    return LambdaLR(optimizer, [_group_factor(group, resolved, factors) for group in resolved.optimizer_groups])


def _group_factor(
    group: OptimizerGroup, resolved: ResolvedPlan, factors: Sequence[Callable[[int], float] | None]
) -> Callable[[int], float]:
    def factor(step: int) -> float:
        index = resolved.phase_at(step)
        rate = group.learning_rates[index]
        phase_factor = factors[index]
        if rate is None or phase_factor is None:
            return 0.0
        return rate / group.learning_rate * phase_factor(step - resolved.phases[index].start)

    return factor


def _phase_factor(phase: PhaseSteps, scheduler_kwargs: Any) -> Callable[[int], float] | None:
    """The multiplier of a transformers schedule, from one made for a throw-away optimizer; None if there is none.

    Schedules with a least rate (`min_lr`) count it against the rate of the optimizer that they are made for.
    """
    blank = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=phase.learning_rate)
    scheduler = get_scheduler(phase.lr_scheduler_type, blank, phase.warmup_steps, phase.steps, scheduler_kwargs)
    return scheduler.lr_lambdas[0] if isinstance(scheduler, LambdaLR) else None


def _warmup(warmup: float, steps: int) -> int:
    return math.ceil(warmup * steps) if warmup < 1 else int(warmup)


class PhaseCallback(TrainerCallback):
    """Freeze and unfreeze at phase borders, and prove after each phase that what was frozen did not change."""

    def __init__(self, resolved: ResolvedPlan, model: nn.Module) -> None:
        self.resolved = resolved
        self.model = model
        self.current: int | None = None
        self.learning_rates: dict[str, float] = {}
        self._freezer = Freezer(model)
        self._frozen: dict[str, str] = {}
        self._trained: dict[str, str] = {}
        self._checked = True

    @property
    def phase_name(self) -> str:
        """Name of the current phase."""
        return self.resolved.phases[self.current or 0].phase.name

    @property
    def number(self) -> int:
        """Number of the current phase, from 1; a number, since trackers such as TensorBoard take no text."""
        return (self.current or 0) + 1

    def enter(self, step: int) -> None:
        """Freeze for the phase of a step; must run before the model is wrapped or prepared."""
        index = self.resolved.phase_at(step)
        if index == self.current:
            return
        self.current = index
        phase = self.resolved.phases[index].phase
        self._state = phase_freeze_state(self.model, self.resolved.groups, phase)
        self._freezer.apply(self._state)
        self._frozen = digests(frozen_tensors(self.model, self._state))
        self._trained = digests(self._trained_tensors())
        self._checked = step >= self.resolved.phases[-1].end  # a finished run that is resumed trains nothing
        logger.info("Phase %d of %d, %r, from step %d.", index + 1, len(self.resolved.phases), phase.name, step)

    def restore(self) -> None:
        """Give the model back as it was before the first phase, its weights excepted."""
        self._freezer.restore()
        self.current = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.enter(state.global_step)
        self._set_weight_decay(kwargs["optimizer"])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.resolved.phase_at(state.global_step) != self.current:
            self.enter(state.global_step)
            self._set_weight_decay(kwargs["optimizer"])

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        rates = {g["name"]: float(g["lr"]) for g in kwargs["optimizer"].param_groups}
        # A layer group may hold parameters of several phases: the rate of those that are trained counts.
        self.learning_rates = {group.name: 0.0 for group in self.resolved.groups}
        for group in self.resolved.optimizer_groups:
            if group.learning_rates[self.current or 0] is not None:
                self.learning_rates[self.resolved.groups[group.layer_group].name] = rates[group.name]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Here and not at the end of the training: load_best_model_at_end replaces the weights before on_train_end.
        if self.current is not None and state.global_step == self.resolved.phases[self.current].end:
            self._check()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_training_stop:  # early stopping decides in this event, before the best model is loaded
            self._check()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._check()

    def _check(self) -> None:
        if self._checked or self.current is None:
            return
        self._checked = True
        check_unchanged(self._frozen, digests(frozen_tensors(self.model, self._state)), self.phase_name)
        moved = {n for n, digest in digests(self._trained_tensors()).items() if digest != self._trained[n]}
        still = [g.name for g in self.resolved.groups if self._is_still(g, moved)]
        if still:
            logger.warning("Trained groups did not move in phase %r: %s.", self.phase_name, ", ".join(still))

    def _is_still(self, group: LayerGroup, moved: Collection[str]) -> bool:
        trained = [name for name in group.parameter_names if name in self._trained]
        return bool(trained) and not any(name in moved for name in trained)

    def _trained_tensors(self) -> dict[str, torch.Tensor]:
        return {name: p.data for name, p in self.model.named_parameters() if name in self._state.trained}

    def _set_weight_decay(self, optimizer: Any) -> None:
        decays = {group.name: group.weight_decays[self.current or 0] for group in self.resolved.optimizer_groups}
        for group in optimizer.param_groups:
            group["weight_decay"] = decays[group["name"]]
