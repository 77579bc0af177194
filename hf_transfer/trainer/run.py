"""One training with a plan: all that it holds, and the order in which a phase begins."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput, has_length

from hf_transfer.architectures.lookup import wrap
from hf_transfer.checkpoints.resuming import Resumption, read_resumption
from hf_transfer.checkpoints.run_state import RunState, run_state
from hf_transfer.feature_cache.decision import CacheDecision
from hf_transfer.feature_cache.rows import PackedRows
from hf_transfer.models.memory_format import set_memory_format
from hf_transfer.models.random_weights import draw_random_weights
from hf_transfer.phases.current import CurrentPhase
from hf_transfer.phases.early_stopping import PhaseStopping
from hf_transfer.phases.replicas import copy_from_first_rank, rebuild_reducer, unused_of_samples
from hf_transfer.phases.resolved import PhaseClock, ResolvedPlan, resolve_plan
from hf_transfer.phases.schedules import take_new_rates
from hf_transfer.phases.weight_averaging import WeightAverage
from hf_transfer.trainer.cache import PhaseCache
from hf_transfer.trainer.held_out import WeightKeeper
from hf_transfer.trainer.range_test import RangeTests
from hf_transfer.trainer.solved_phase import solve_first_phase
from hf_transfer.utils.foreign import inner_optimizer
from hf_transfer.utils.modules import named_parameters

if TYPE_CHECKING:
    from hf_transfer.plans.plan import TransferPlan

logger = logging.getLogger(__name__)

SLOWER = 0.3
"""Factor of the learning rate of a training that went back to its start."""


class PlanRun:
    """The state of one training with a plan; `TransferTrainer.train` makes it, and keeps it for the record.

    Args:
        trainer: The trainer, which has a plan.
        plan: The plan.
        checkpoint: Folder of a checkpoint to resume from, or None.

    Attributes:
        resumed: The checkpoint that the run resumes from, or None.
        phase: The phase that the run is in; None until the number of steps is known.
        cache: The feature cache; None before and after the training, and for streamed data.
        cache_decisions: Whether and how each phase used the feature cache.
        range_tests: The range tests; None where learning rates were given.
        stopping: Early stopping, by phase.
        solved: How the head of the first phase was solved; None where it was not.
        learning_rates: The rate of each layer group in the last step.
        keeper: Chooses the weights that the training leaves; None where nothing is held out.

    Raises:
        PlanError: The checkpoint is of another run; every difference is shown.
    """

    def __init__(self, trainer: Trainer, plan: TransferPlan, checkpoint: str | None) -> None:
        self._trainer = trainer
        self._plan = plan
        self._checkpoint = checkpoint
        self.phase: CurrentPhase | None = None
        self.cache: PhaseCache | None = None
        self.cache_decisions: Sequence[CacheDecision] = ()
        self.range_tests: RangeTests | None = None
        self.stopping = PhaseStopping()
        self.solved: dict[str, Any] | None = None
        self.learning_rates: dict[str, float] = {}
        self.resumed: Resumption | None = None
        self._resumed_average: WeightAverage | None = None
        how = trainer.held_out
        self.keeper = None if how is None else WeightKeeper(trainer, how)
        self._state: RunState | None = None
        self._steps_per_epoch = 1
        if checkpoint is not None:
            # A model that model_init makes is not there yet; one made alike has its names and shapes.
            model = trainer.model if trainer.model_init is None else trainer.call_model_init()
            self._state = self._own_state(model)
            self.resumed = read_resumption(checkpoint, self._state, trainer.options.allow_plan_change)

    # --- before the first step ---

    def load_average(self, checkpoint: Path) -> None:
        """Load the weights of training and their mean so far, where the checkpoint's own weights are that mean."""
        resumed = self.resumed
        if resumed is None or not resumed.exact or not resumed.state.averaged:
            return  # a changed plan begins with the weights that were evaluated
        weights = {name: parameter.data for name, parameter in named_parameters(self._trainer.model)}
        self._resumed_average = WeightAverage.resumed(checkpoint, weights, resumed.state.averaged)

    def open_cache(self) -> PackedRows | None:
        """Open the feature cache, and give the rows that a data loader is to read; None for streamed data."""
        self._close_cache()
        dataset = self._trainer.train_dataset
        if isinstance(dataset, IterableDataset) or not has_length(dataset):
            return None
        self.cache = PhaseCache(self._trainer)
        self.cache_decisions = self.cache.features.decisions
        return self.cache.features.train

    def begin(self, args: TrainingArguments, steps_per_epoch: int) -> ResolvedPlan:
        """Resolve the plan for the model and the length of the data, and set the model up for the first step.

        Trainer calls this again when it tries a smaller batch.

        Args:
            args: The arguments of the training, with all values of a hyperparameter search.
            steps_per_epoch: Optimizer steps in one pass over the training data.
        """
        trainer = self._trainer
        self._restore_model()
        self._steps_per_epoch = steps_per_epoch
        # Trainer keeps optimizer and wrapper of an earlier train(), or of a try with a larger batch.
        trainer.optimizer, trainer.lr_scheduler = None, None
        if not trainer.is_deepspeed_enabled:
            trainer.model_wrapped = trainer.model
        if self._plan.init == "random" and self.resumed is None:
            draw_random_weights(trainer.model, args.seed)
        set_memory_format(trainer.model, trainer.options.memory_format)
        if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            # As DDP does, but before frozen tensors are hashed.
            copy_from_first_rank(dict(named_parameters(trainer.model)) | dict(trainer.model.named_buffers()))
        self._state = self._own_state(trainer.model)
        resolved = self._solve(resolve_plan(self._plan, trainer.model, args, steps_per_epoch))
        self._tell_unfrozen(resolved)
        unused = self._unused_parameters()
        inside = self._state_inside(resolved)
        # A copy: Trainer may try again with a smaller batch.
        average = None if inside is None or self._resumed_average is None else self._resumed_average.copy()
        self.phase = CurrentPhase(PhaseClock(resolved), trainer.model, unused, average)
        if self.cache is not None:
            self.cache.resume(None if inside is None else inside.cached)
        self.range_tests = RangeTests(trainer, self.phase) if trainer.measures_rates else None
        if self.range_tests is not None and self._checkpoint is not None:
            self.range_tests.restore(Path(self._checkpoint))
        best, patience = (None, ()) if inside is None else (inside.best_of_phase, inside.patience)
        self.stopping.begin_phase(self.callbacks, best, patience)
        return resolved

    def _solve(self, resolved: ResolvedPlan) -> ResolvedPlan:
        """Put the phases of a resumed run where they were, and solve the head of the first phase where it is due."""
        step = 0
        if self.resumed is not None:
            resolved, step = self.resumed.place(resolved), self.resumed.step
        resolved, self.solved = solve_first_phase(self._trainer, resolved, step)
        if self.resumed is not None and resolved.phases[0].solved:
            self.solved = self.solved or self.resumed.state.solved_phase
        return resolved

    def _tell_unfrozen(self, resolved: ResolvedPlan) -> None:
        """Tell that the plan trains parameters that were frozen by hand."""
        trained = {name for group in resolved.optimizer_groups for name in group.parameter_names}
        names = [name for name, p in named_parameters(self._trainer.model) if name in trained and not p.requires_grad]
        if names:
            logger.warning(
                "The plan decides what is trained: it trains %d parameters that had been frozen (%s%s).",
                len(names),
                ", ".join(names[:3]),
                ", ..." if len(names) > 3 else "",
            )

    def _unused_parameters(self) -> tuple[str, ...]:
        """The parameters that never get a gradient: declared, and found for DDP, which need not search then."""
        trainer = self._trainer
        unused = wrap(trainer.model).unused_parameters
        handler = trainer.accelerator.ddp_handler
        if trainer.args.world_size > 1 and handler is not None and not trainer.is_sharded:
            found = unused_of_samples(trainer.model, trainer.train_dataset, trainer.data_collator, trainer.args.device)
            if found is not None and trainer.args.ddp_find_unused_parameters is None:
                handler.find_unused_parameters = False
            unused = tuple(dict.fromkeys((*unused, *(found or ()))))
        if unused:
            logger.warning("These parameters never get a gradient and stay frozen: %s.", ", ".join(unused))
        return unused

    def _state_inside(self, resolved: ResolvedPlan) -> RunState | None:
        """What the checkpoint holds of the phase that this run resumes inside of; None where a phase begins."""
        resumed = self.resumed
        if resumed is None or resumed.step == resolved.phases[resolved.phase_at(resumed.step)].start:
            return None
        return resumed.state

    # --- at each step ---

    def begin_training(self, step: int, given: dict[str, Any]) -> None:
        """Begin with the phase of the first step, once optimizer and schedule are those of the checkpoint."""
        assert self.phase is not None
        self.phase.enter(step)
        self.phase.prepare_optimizer(given["optimizer"], given["lr_scheduler"], step)
        self.arrive(step, given)
        if self.keeper is not None:
            if self._checkpoint is not None:
                self.keeper.restore(Path(self._checkpoint))
            if self.keeper.slowed_at is not None:
                self._lower_rate()
            self.keeper.begin(step, self.phase.clock.resolved.phases[-1].end)

    def arrive(self, step: int, given: dict[str, Any]) -> None:
        """Begin the phase of a step, if it begins: freeze, then cut, then measure its rate on what will run."""
        phase, trainer = self.phase, self._trainer
        assert phase is not None
        if phase.is_over_at(step):
            phase.enter(step)
            rebuild_reducer(trainer.model_wrapped, trainer.accelerator.ddp_handler)
            self.stopping.begin_phase(self.callbacks)
            phase.prepare_optimizer(given["optimizer"], given["lr_scheduler"], step)
        if self.cache is not None:
            self.cache.begin(phase, trainer.state, given["train_dataloader"])
        if self.range_tests is not None:
            self.range_tests.begin(step, given["train_dataloader"], given["optimizer"], given["lr_scheduler"])

    def begin_epoch(self, step: int) -> None:
        """Choose what the data loader reads, before it reads the first batches of an epoch."""
        assert self.phase is not None
        if self.cache is not None:
            epoch = step // self._steps_per_epoch
            self.cache.begin_epoch(epoch, epoch * self._steps_per_epoch, self.phase)

    def note_rates(self, optimizer: Any) -> None:
        """Note the rates of the present step, for the log."""
        assert self.phase is not None
        self.learning_rates = self.phase.learning_rates(optimizer)

    def last_step(self, resolved: ResolvedPlan) -> int:
        """The step that the training ends with: that of the plan, or earlier where chosen weights are followed."""
        end = resolved.phases[-1].end
        return end if self.keeper is None else self.keeper.last_step(end)

    def end_step(self, step: int) -> bool:
        """Average the weights, end the phase with its last step, and look at the weights on held-out images.

        Returns:
            Whether the training is to end here.
        """
        assert self.phase is not None
        self.phase.step_ended(step)
        if self.keeper is None:
            return False
        if step == self.last_step(self.phase.clock.resolved):
            self.finish()
            return False
        advice = self.keeper.step_ended(step, self.phase.averaged)
        if advice == "slow down":
            self._slow_down()
        if advice == "stop":
            self.finish()
        return advice == "stop"

    def give_up(self, error: Exception) -> TrainOutput:
        """End a training whose loss is not finite with the best weights before; raise where none are held."""
        if self.phase is None or self.keeper is None or not self.keeper.can_give_up:
            raise error
        self.phase.finish()
        self.keeper.give_up(str(error).partition(".")[0])
        trainer = self._trainer
        trainer.is_in_train = False
        trainer.control = trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
        return TrainOutput(trainer.state.global_step, math.nan, {})

    def _slow_down(self) -> None:
        """Go on at a lower rate, as if the optimizer had made no step."""
        assert self.phase is not None
        self._lower_rate()
        inner_optimizer(self._trainer.optimizer).state.clear()
        self.phase.begin_average()

    def _lower_rate(self) -> None:
        assert self.phase is not None
        clock = self.phase.clock
        index = clock.current or 0
        clock.resolved = clock.resolved.with_learning_rate(index, SLOWER * clock.resolved.phases[index].learning_rate)
        take_new_rates(self._trainer.lr_scheduler, inner_optimizer(self._trainer.optimizer), clock)

    def finish(self) -> None:
        """End the last phase of the training, if no step did, and leave the weights that are best."""
        assert self.phase is not None
        self.phase.finish()
        if self.keeper is not None:
            self.keeper.finish()

    # --- evaluations, checkpoints, and the end ---

    def only_phase_stops(self, step: int, stopped_before: bool) -> bool:
        """Let early stopping end the phase alone, if it has asked to end the run and there is another phase.

        Otherwise the phase is checked here, before `load_best_model_at_end` replaces the weights; it does not leave
        its mean yet, so that a checkpoint of this step can be resumed.

        Args:
            step: The present step, after an evaluation that ended with a wish to stop.
            stopped_before: Whether the run was to end before that evaluation.
        """
        assert self.phase is not None
        asked = not stopped_before and self.stopping.asked(self.callbacks)
        if asked and self.phase.end_early(step):
            return True
        self.phase.check()
        return False

    def save(self, folder: Path) -> None:
        """Write what resuming needs to know of the plan into a checkpoint."""
        if self._state is None or self.phase is None:
            return
        phases, step = self.phase.clock.resolved.phases, self._trainer.state.global_step
        state = replace(
            self._state,
            starts=tuple(phase.start for phase in phases if phase.start <= step),
            finished=sum(phase.end <= step for phase in phases),
            best_of_phase=self.stopping.best,
            patience=self.stopping.patience(self.callbacks),
            cached=self.cache_decisions[-1].used if self.cache_decisions else None,
            solved_phase=self.solved,
            averaged=self.phase.averaged_steps,
        )
        state.save(folder)
        self.phase.save_average(folder)
        if self.range_tests is not None:
            self.range_tests.save(folder)
        if self.keeper is not None:
            self.keeper.save(folder)

    def close(self) -> None:
        """Restore the model, its weights excepted, and close the feature cache."""
        self._close_cache()
        self._restore_model()

    def _close_cache(self) -> None:
        if self.cache is not None:
            self.cache.close()
            self.cache = None

    def _restore_model(self) -> None:
        if self.phase is not None:
            self.phase.restore()

    def _own_state(self, model: Any) -> RunState:
        trainer = self._trainer
        kind = trainer.optimizer_cls_and_kwargs or trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
        if self._state is not None:  # hashing the data takes long
            data: dict[str, Any] | None = self._state.data
        else:
            data = None if trainer.data_fingerprint is None else {"fingerprint": trainer.data_fingerprint}
        return run_state(
            self._plan,
            model,
            trainer.train_dataset,
            trainer.args,
            trainer.get_total_train_batch_size(trainer.args),
            kind,
            trainer.data_collator,
            data,
            trainer.measures_rates,
        )

    @property
    def callbacks(self) -> list[Any]:
        """All callbacks of the trainer."""
        callbacks: list[Any] = self._trainer.callback_handler.callbacks
        return callbacks
