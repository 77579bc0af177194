"""The learning-rate schedule of a run: one scheduler for all phases, a function of the step and of their borders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import SchedulerType, get_scheduler

from hf_transfer.errors import PlanError
from hf_transfer.phases.resolved import PhaseClock, PhaseSteps

FUNCTIONS_OF_THE_STEP = tuple(
    kind.value for kind in SchedulerType if kind.value not in ("reduce_lr_on_plateau", "greedy")
)
"""Schedules of transformers that work in plans of several phases; the other two look at the loss."""


def make_scheduler(clock: PhaseClock, optimizer: Any, scheduler_kwargs: Any) -> Any:
    """Make the scheduler of a run; in plans with `schedule="phase"` each phase has its own warm-up and decay.

    One scheduler for all phases has no state but the step count, so that resuming cannot lose it. It follows the
    clock: a phase that begins early, because the one before it stopped, begins with its own rates.

    Args:
        clock: The phases, at any time.
        optimizer: Its groups are those of the plan, in this order.
        scheduler_kwargs: `lr_scheduler_kwargs` of the training arguments.

    Raises:
        PlanError: A plan of several phases uses a schedule that is not a function of the step.
    """
    factors = _Factors(clock, scheduler_kwargs)
    phases = clock.resolved.phases
    if None in factors.now():
        only = phases[0]
        if len(phases) == 1:
            return get_scheduler(only.lr_scheduler_type, optimizer, only.warmup_steps, only.steps, scheduler_kwargs)
        kinds = ", ".join(sorted({phase.lr_scheduler_type for phase in phases}))
        raise PlanError(
            f"The schedule ({kinds}) depends on more than the step and works in plans of one phase only. Use one of "
            f"{', '.join(FUNCTIONS_OF_THE_STEP)}."
        )
    groups = range(len(clock.resolved.optimizer_groups))
    return LambdaLR(optimizer, [_group_factor(number, clock, factors) for number in groups])


def set_rates(scheduler: Any, optimizer: Any, step: int | None = None) -> None:
    """Give each optimizer group the rate that the schedule has now.

    Args:
        scheduler: From `make_scheduler`; schedules that are no function of the step are left alone.
        optimizer: Whose groups are set.
        step: Where the schedule is put first; None leaves it where it is.
    """
    if not isinstance(scheduler, LambdaLR):
        return
    if step is not None:
        scheduler.last_epoch = step
        scheduler._step_count = step + 1
    lambdas: Any = scheduler.lr_lambdas
    rates: list[Any] = [
        base * factor(scheduler.last_epoch) for base, factor in zip(scheduler.base_lrs, lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def take_new_rates(scheduler: Any, optimizer: Any, clock: PhaseClock) -> None:
    """Go on with the rates that the clock's plan has now, as if they had been known from the first step.

    Args:
        scheduler: From `make_scheduler`, with the same clock.
        optimizer: Whose groups are set.
        clock: A phase that begins now has other rates than when the scheduler was made.
    """
    rates = [group.learning_rate for group in clock.resolved.optimizer_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["initial_lr"] = rate
        if not isinstance(scheduler, LambdaLR):  # of a single phase, which begins
            group["lr"] = rate
    scheduler.base_lrs = rates
    set_rates(scheduler, optimizer)


def _group_factor(number: int, clock: PhaseClock, factors: _Factors) -> Callable[[int], float]:
    def factor(step: int) -> float:
        index, resolved = clock.index_at(step), clock.resolved
        group, phase_factor = resolved.optimizer_groups[number], factors.now()[index]
        rate = group.learning_rates[index]
        if rate is None or phase_factor is None:
            return 0.0
        phase = resolved.phases[index]
        over_the_run = resolved.plan.schedule == "run"
        position = step + phase.shift if over_the_run else max(step - phase.start, 0)
        return rate / group.learning_rate * phase_factor(position)

    return factor


class _Factors:
    """For each phase the multiplier of its peak rates, made again when these change."""

    def __init__(self, clock: PhaseClock, scheduler_kwargs: Any) -> None:
        self._clock = clock
        self._kwargs = scheduler_kwargs
        self._made_for: list[float] = []
        self._made: list[Callable[[int], float] | None] = []

    def now(self) -> list[Callable[[int], float] | None]:
        """The multipliers; phases of one schedule over the run share its shape."""
        phases = self._clock.resolved.phases
        rates = [phase.learning_rate for phase in phases]
        if rates != self._made_for:
            self._made_for, self._made = rates, self._make(phases)
        return self._made

    def _make(self, phases: Sequence[PhaseSteps]) -> list[Callable[[int], float] | None]:
        if self._clock.resolved.plan.schedule == "phase":
            return [_factor(phase, phase.warmup_steps, phase.steps, self._kwargs) for phase in phases]
        planned = phases[-1].end + phases[-1].shift
        return [_factor(phase, phases[0].warmup_steps, planned, self._kwargs) for phase in phases]


def _factor(phase: PhaseSteps, warmup: int, steps: int, scheduler_kwargs: Any) -> Callable[[int], float] | None:
    """The multiplier of a transformers schedule, from one made for a throw-away optimizer; None if there is none.

    Schedules with a least rate (`min_lr`) count it against the rate of the optimizer that they are made for.
    """
    blank = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=phase.learning_rate)
    scheduler = get_scheduler(phase.lr_scheduler_type, blank, warmup, steps, scheduler_kwargs)
    return scheduler.lr_lambdas[0] if isinstance(scheduler, LambdaLR) else None
