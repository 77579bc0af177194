"""The callback that moves a run through its phases and proves after each what must be true."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.phases.freezing import (
    Freezer,
    changed_tensors,
    frozen_changed,
    frozen_tensors,
    phase_freeze_state,
    without,
)
from hf_transfer.phases.replicas import check_replicas, copy_from_first_rank, replicated
from hf_transfer.phases.resolved import PhaseClock, PhaseSteps
from hf_transfer.phases.schedules import set_rates
from hf_transfer.phases.weight_averaging import WeightAverage
from hf_transfer.utils.distributed import gather_from_ranks
from hf_transfer.utils.hashing import digests
from hf_transfer.utils.modules import named_parameters

logger = logging.getLogger(__name__)


class PhaseCallback(TrainerCallback):
    """Freeze and unfreeze at phase borders; check after each phase that frozen tensors and replicas are the same.

    Args:
        clock: The phases, and where the run is.
        model: The model, not wrapped.
        rewrap: Called after the trained parameters changed, when the model is wrapped already.
        unused: Parameters that never get a gradient; they stay frozen.
        average: Of the phase's weights so far, where the run goes on inside a phase that averages them.
    """

    def __init__(
        self,
        clock: PhaseClock,
        model: nn.Module,
        rewrap: Callable[[], Any],
        unused: Collection[str] = (),
        average: WeightAverage | None = None,
    ) -> None:
        self.clock = clock
        self.model = model
        self.learning_rates: dict[str, float] = {}
        self._rewrap = rewrap
        self._unused = frozenset(unused)
        self._average: WeightAverage | None = None
        self._resumed_average = average
        self._freezer = Freezer(model)
        self._frozen: dict[str, str] = {}
        self._trained: dict[str, str] = {}
        self._checked = True

    @property
    def phase(self) -> PhaseSteps:
        """The current phase."""
        return self.clock.resolved.phases[self.clock.current or 0]

    @property
    def phase_name(self) -> str:
        """Name of the current phase."""
        return self.phase.phase.name

    @property
    def number(self) -> int:
        """Number of the current phase, from 1; a number, since trackers such as TensorBoard take no text."""
        return (self.clock.current or 0) + 1

    def enter(self, step: int) -> None:
        """Freeze for the phase of a step; must run before the model is wrapped, or `rewrap` after it."""
        resolved = self.clock.resolved
        index = resolved.phase_at(step)
        if index == self.clock.current:
            return
        self.clock.current = index
        self._state = without(phase_freeze_state(self.model, resolved.groups, self.phase.phase), self._unused)
        self._freezer.apply(self._state)
        self._frozen = digests(frozen_tensors(self.model, self._state))
        self._trained = digests(self._trained_tensors())
        self._begin_average()
        self._checked = step >= resolved.phases[-1].end  # a finished run that is resumed trains nothing
        logger.info("Phase %d of %d, %r, from step %d.", index + 1, len(resolved.phases), self.phase_name, step)

    def restore(self) -> None:
        """Give the model back as it was before the first phase, its weights excepted."""
        self._freezer.restore()
        self.clock.current = None

    def end_early(self, step: int) -> bool:
        """End the current phase at a step, if there is another; what the phase must have kept is checked.

        Returns:
            Whether there is another phase.
        """
        index = self.clock.current or 0
        if index + 1 >= len(self.clock.resolved.phases):
            return False
        self._finish()
        self.clock.resolved = self.clock.resolved.begin_at(index + 1, step)
        logger.info("Phase %d, %r, stopped early at step %d.", index + 1, self.phase_name, step)
        return True

    def synchronise_buffers(self) -> None:
        """Give all processes the running statistics of the first, as DDP does before its next forward pass."""
        if self.clock.current is not None:
            copy_from_first_rank({n: b for n, b in self.model.named_buffers() if n not in self._frozen})

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the weights be their mean over the phase so far, where the phase leaves that, while the context lasts.

        Where the phase ends meanwhile, they stay so.
        """
        average = self._average
        if average is None:
            yield
            return
        with average.in_place_of(self._trained_tensors()):
            yield

    @property
    def averaged_steps(self) -> int:
        """How many steps the mean of the phase's weights is of so far; 0 where there is none."""
        return 0 if self._average is None else self._average.count

    def save_average(self, folder: Path) -> None:
        """Write into a checkpoint what a run needs to go on with the mean of its weights."""
        if self._average is not None and self._average.count:
            self._average.save(folder, self._trained_tensors())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.enter(state.global_step)
        self._prepare_optimizer(kwargs["optimizer"], kwargs["lr_scheduler"], state.global_step)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Before the first batches of the epoch are read.
        self.on_step_begin(args, state, control, **kwargs)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.clock.resolved.phase_at(state.global_step) != self.clock.current:
            self.enter(state.global_step)
            self._rewrap()
            self._prepare_optimizer(kwargs["optimizer"], kwargs["lr_scheduler"], state.global_step)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        rates = {g["name"]: float(g["lr"]) for g in kwargs["optimizer"].param_groups}
        resolved = self.clock.resolved
        # A layer group may hold parameters of several phases: the rate of those that are trained counts.
        self.learning_rates = {group.name: 0.0 for group in resolved.groups}
        for group in resolved.optimizer_groups:
            if group.learning_rates[self.clock.current or 0] is not None:
                self.learning_rates[resolved.groups[group.layer_group].name] = rates[group.name]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Here and not at the end of the training: load_best_model_at_end replaces the weights before on_train_end.
        if self.clock.current is None:
            return
        after = self.phase.average_after
        if self._average is not None and after is not None and state.global_step > after:
            self._average.update(self._trained_tensors())
        if state.global_step == self.phase.end:
            self._finish()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_training_stop:  # early stopping decides in this event, before the best model is loaded
            self._check()  # the mean is not left yet: a checkpoint of this step must be able to go on

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._finish()

    def _begin_average(self) -> None:
        self._average, self._resumed_average = self._resumed_average, None
        if self.phase.phase.average_from is None:
            self._average = None
        elif self._average is None:
            self._average = WeightAverage()

    def _finish(self) -> None:
        """Let the phase leave the mean of its weights, where it is to, and check it."""
        if self._average is not None and self.clock.current is not None:
            self._average.finish(self._trained_tensors())
            self._average = None
        self._check()

    def _check(self) -> None:
        if self._checked or self.clock.current is None:
            return
        self._checked = True
        self.synchronise_buffers()
        after = digests(self._tensors())
        # All processes learn of it and raise: one that went on alone would wait for the others for ever.
        changed = sorted({n for rank in gather_from_ranks(changed_tensors(self._frozen, after)) for n in rank})
        if changed:
            raise frozen_changed(changed, self.phase_name)
        same = replicated(self._tensors())
        check_replicas({n: digest for n, digest in after.items() if n in same}, f"after phase {self.phase_name!r}")
        moved = {n for n, digest in self._trained.items() if after[n] != digest}
        still = [g.name for g in self.clock.resolved.groups if self._is_still(g, moved)]
        if still:
            logger.warning("Trained groups did not move in phase %r: %s.", self.phase_name, ", ".join(still))

    def _is_still(self, group: LayerGroup, moved: Collection[str]) -> bool:
        trained = [name for name in group.parameter_names if name in self._trained]
        return bool(trained) and not any(name in moved for name in trained)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: p.data for name, p in named_parameters(self.model)} | dict(self.model.named_buffers())

    def _trained_tensors(self) -> dict[str, torch.Tensor]:
        return {name: p.data for name, p in named_parameters(self.model) if name in self._state.trained}

    def _prepare_optimizer(self, optimizer: Any, scheduler: Any, step: int) -> None:
        index, resolved = self.clock.current or 0, self.clock.resolved
        decays = {group.name: group.weight_decays[index] for group in resolved.optimizer_groups}
        for group in optimizer.param_groups:
            group["weight_decay"] = decays[group["name"]]
        state = getattr(optimizer, "optimizer", optimizer).state
        if self.phase.phase.reset_optimizer and step == self.phase.start:
            state.clear()
        needed = {n for g in resolved.optimizer_groups for n in g.parameter_names if g.trained_from(index)}
        for name, parameter in named_parameters(self.model):
            if name not in needed:
                state.pop(parameter, None)
        set_rates(scheduler, optimizer)
