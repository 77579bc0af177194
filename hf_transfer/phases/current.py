"""The phase that a run is in: frozen when it begins, averaged while it lasts, proved when it ends."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from hf_transfer.phases.check import PhaseCheck
from hf_transfer.phases.freezing import Freezer, phase_freeze_state, without
from hf_transfer.phases.resolved import PhaseClock, PhaseSteps
from hf_transfer.phases.schedules import set_rates
from hf_transfer.phases.weight_averaging import WeightAverage
from hf_transfer.utils.foreign import inner_optimizer
from hf_transfer.utils.modules import named_parameters

logger = logging.getLogger(__name__)


class CurrentPhase:
    """Freeze and unfreeze at phase borders, keep the mean of the weights, and check each phase at its end.

    Args:
        clock: The phases, and where the run is.
        model: The model, not wrapped.
        unused: Parameters that never get a gradient; they stay frozen.
        average: The mean of the phase's weights so far, where the run resumes inside a phase that averages them.
    """

    def __init__(
        self,
        clock: PhaseClock,
        model: nn.Module,
        unused: Collection[str] = (),
        average: WeightAverage | None = None,
    ) -> None:
        self.clock = clock
        self.model = model
        self._unused = frozenset(unused)
        self._average: WeightAverage | None = None
        self._resumed_average = average
        self._freezer = Freezer(model)
        self._check: PhaseCheck | None = None

    @property
    def steps(self) -> PhaseSteps:
        """The current phase, with its place in the run."""
        return self.clock.resolved.phases[self.clock.current or 0]

    @property
    def name(self) -> str:
        """Name of the current phase."""
        return self.steps.phase.name

    @property
    def number(self) -> int:
        """Number of the current phase, from 1; a number, since trackers such as TensorBoard take no text."""
        return (self.clock.current or 0) + 1

    def is_over_at(self, step: int) -> bool:
        """Whether a step belongs to another phase than the current one."""
        return self.clock.resolved.phase_at(step) != self.clock.current

    def enter(self, step: int) -> None:
        """Freeze for the phase of a step; before the model is wrapped, or with a reducer that is rebuilt after it."""
        if not self.is_over_at(step):
            return
        resolved = self.clock.resolved
        self.clock.current = resolved.phase_at(step)
        state = without(phase_freeze_state(self.model, resolved.groups, self.steps.phase), self._unused)
        self._freezer.apply(state)
        nothing_left = step >= resolved.phases[-1].end  # a finished run that is resumed trains nothing
        self._check = PhaseCheck(self.model, state, self.name, done=nothing_left)
        self.begin_average()
        logger.info("Phase %d of %d, %r, from step %d.", self.number, len(resolved.phases), self.name, step)

    def restore(self) -> None:
        """Restore the model as it was before the first phase, its weights excepted."""
        self._freezer.restore()
        self.clock.current, self._check = None, None

    def step_ended(self, step: int) -> None:
        """Take the weights into the mean, and end the phase with its last step.

        At the end of a step and not of the training: `load_best_model_at_end` replaces the weights before that.
        """
        if self._check is None:
            return
        after = self.steps.average_after
        if self._average is not None and after is not None and step > after:
            self._average.update(self._check.trained_tensors())
        if step == self.steps.end:
            self.finish()

    def end_early(self, step: int) -> bool:
        """End the current phase at a step, if there is another; what the phase must have kept is checked.

        Returns:
            Whether there is another phase.
        """
        index = self.clock.current or 0
        if index + 1 >= len(self.clock.resolved.phases):
            return False
        self.finish()
        self.clock.resolved = self.clock.resolved.begin_at(index + 1, step)
        logger.info("Phase %d, %r, stopped early at step %d.", index + 1, self.name, step)
        return True

    def finish(self) -> None:
        """Leave the mean of the phase's weights, where the phase has one, and check the phase."""
        if self._check is not None and self._average is not None:
            self._average.finish(self._check.trained_tensors())
            self._average = None
        self.check()

    def check(self) -> None:
        """Check the phase; see `PhaseCheck.run`."""
        if self._check is not None:
            self._check.run(self.clock.resolved.groups)

    def synchronise_buffers(self) -> None:
        """Give all processes the running statistics of the first."""
        if self._check is not None:
            self._check.synchronise_buffers()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the weights be their mean over the phase so far, where the phase leaves that, while the context lasts.

        Where the phase ends meanwhile, they stay so.
        """
        if self._average is None or self._check is None:
            yield
            return
        with self._average.in_place_of(self._check.trained_tensors()):
            yield

    @property
    def averaged_steps(self) -> int:
        """Number of steps in the mean of the phase's weights so far; 0 where there is none."""
        return 0 if self._average is None else self._average.count

    def save_average(self, folder: Path) -> None:
        """Write into a checkpoint what a run needs to continue the mean of its weights."""
        if self._average is not None and self._average.count and self._check is not None:
            self._average.save(folder, self._check.trained_tensors())

    def prepare_optimizer(self, optimizer: Any, scheduler: Any, step: int) -> None:
        """Give the optimizer the phase's weight decay and rates, and drop the state of what it no longer trains."""
        index, resolved = self.clock.current or 0, self.clock.resolved
        decays = {group.name: group.weight_decays[index] for group in resolved.optimizer_groups}
        for group in optimizer.param_groups:
            group["weight_decay"] = decays[group["name"]]
        state = inner_optimizer(optimizer).state
        if self.steps.phase.reset_optimizer and step == self.steps.start:
            state.clear()
        needed = {n for g in resolved.optimizer_groups for n in g.parameter_names if g.trained_from(index)}
        for name, parameter in named_parameters(self.model):
            if name not in needed:
                state.pop(parameter, None)
        set_rates(scheduler, optimizer)

    def learning_rates(self, optimizer: Any) -> dict[str, float]:
        """The rate of each layer group; 0 where it is frozen.

        A layer group may hold parameters of several phases: the rate of those that are trained counts.
        """
        resolved = self.clock.resolved
        rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
        found = {group.name: 0.0 for group in resolved.groups}
        for group in resolved.optimizer_groups:
            if group.learning_rates[self.clock.current or 0] is not None:
                found[resolved.groups[group.layer_group].name] = rates[group.name]
        return found

    def begin_average(self) -> None:
        """Begin the mean of the weights anew, or with what a checkpoint holds of it."""
        self._average, self._resumed_average = self._resumed_average, None
        if self.steps.phase.average_from is None:
            self._average = None
        elif self._average is None:
            self._average = WeightAverage()
