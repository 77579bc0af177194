"""`Trainer` that goes on from a checkpoint exactly, or says why not; `TransferTrainer` gives it a plan."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_transfer.checkpoints.folders import last_complete
from hf_transfer.checkpoints.resuming import Resumption, load_training_state, read_resumption
from hf_transfer.checkpoints.run_state import RunState, run_state
from hf_transfer.errors import PlanError
from hf_transfer.phases.callback import PhaseCallback
from hf_transfer.phases.early_stopping import PhaseStopping
from hf_transfer.phases.resolved import ResolvedPlan
from hf_transfer.phases.schedules import set_rates
from hf_transfer.phases.weight_averaging import WeightAverage
from hf_transfer.trainer.cache import CachingTrainer
from hf_transfer.utils.modules import named_parameters


class ResumingTrainer(CachingTrainer):
    """`Trainer` whose checkpoints know which run they are of."""

    data_fingerprint: str | None = None
    _phase_callback: PhaseCallback | None = None
    data_collator: Any
    optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
    _stopping: PhaseStopping
    _run_state: RunState | None = None
    _resumption: Resumption | None = None
    _resumed_average: WeightAverage | None = None
    solved_phase: dict[str, Any] | None = None
    _measures_rates = False

    @property
    def resolved_plan(self) -> ResolvedPlan | None:
        """The plan made definite for this model and run; None before the training, and without a plan."""
        return None if self._phase_callback is None else self._phase_callback.clock.resolved

    def find_checkpoint(self, given: str | os.PathLike[str] | bool | None) -> str | bool | None:
        """The checkpoint that `resume_from_checkpoint` means; True takes the last one that is complete.

        Raises:
            PlanError: There is none.
        """
        if given is True:
            given = last_complete(self.args.output_dir)
            if given is None:
                raise PlanError(
                    f"There is no complete checkpoint in {self.args.output_dir} to resume from. Leave "
                    "resume_from_checkpoint out to begin."
                )
        return os.fspath(given) if isinstance(given, os.PathLike) else given

    def read_checkpoint(self, checkpoint: str | bool | None) -> None:
        """Note what this run is, and check that it may go on from a checkpoint, if there is one.

        Raises:
            PlanError: The checkpoint is of another run; every difference is shown.
        """
        assert self.plan is not None
        self._run_state = run_state(
            self.plan,
            self.model,
            self.train_dataset,
            self.args,
            self.get_total_train_batch_size(self.args),
            self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, self.model),
            self.data_collator,
            self.data_fingerprint,
            self._measures_rates,
        )
        self._resumption, self._resumed_average = None, None
        if isinstance(checkpoint, str):
            may_change = getattr(self.args, "allow_plan_change", False)
            self._resumption = read_resumption(checkpoint, self._run_state, may_change)

    def state_inside(self, resolved: ResolvedPlan) -> RunState | None:
        """What the checkpoint holds of the phase that this run goes on inside of; None where a phase begins."""
        resumed = self._resumption
        if resumed is None or resumed.step == resolved.phases[resolved.phase_at(resumed.step)].start:
            return None
        return resumed.state

    def restore_stopping(self, inside: RunState | None) -> None:
        """Let early stopping go on where it was in a phase, or begin."""
        if inside is None:
            self._stopping.begin_phase(self._callbacks)
        else:
            self._stopping.begin_phase(self._callbacks, inside.best_of_phase, inside.patience)

    def complete_checkpoint(self, folder: Path) -> None:
        """Write beside Trainer's files what resuming needs to know of the plan."""
        if self._run_state is not None and self._phase_callback is not None:
            self._present_state(self._run_state).save(folder)
            self._phase_callback.save_average(folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save the weights that were evaluated: amid a phase that averages them, their mean so far."""
        phases = self._phase_callback
        with contextlib.nullcontext() if phases is None else phases.averaged():
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights as they were in training, where those of the checkpoint are their mean."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._resumption is None or not self._resumption.exact or not self._resumption.state.averaged:
            return  # a changed plan begins with the weights that were evaluated
        weights = {name: parameter.data for name, parameter in named_parameters(self.model)}
        steps = self._resumption.state.averaged
        self._resumed_average = WeightAverage.resumed(Path(resume_from_checkpoint), weights, steps)

    @property
    def _callbacks(self) -> list[Any]:
        callbacks: list[Any] = self.callback_handler.callbacks
        return callbacks

    def _present_state(self, state: RunState) -> RunState:
        assert self.resolved_plan is not None
        phases, step = self.resolved_plan.phases, self.state.global_step
        return replace(
            state,
            starts=tuple(phase.start for phase in phases if phase.start <= step),
            finished=sum(phase.end <= step for phase in phases),
            best_of_phase=self._stopping.best,
            patience=self._stopping.patience(self._callbacks),
            cached=self.cache_decisions[-1].used if self.cache_decisions else None,
            solved_phase=self.solved_phase,
            averaged=0 if self._phase_callback is None else self._phase_callback.averaged_steps,
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the optimizer's state by name and shape; rates and schedule are those of the present arguments."""
        resumed = self._resumption
        if resumed is None or checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        if not resumed.exact:
            set_rates(self.lr_scheduler, self.optimizer, resumed.step)
        elif self.is_fsdp_enabled or self.is_distributed_loading_by_transformers:
            scheduler: Any = self.lr_scheduler
            rates = getattr(scheduler, "base_lrs", None)
            super()._load_optimizer_and_scheduler(checkpoint)  # shards, matched by name in torch
            scheduler.base_lrs = rates
            set_rates(scheduler, self.optimizer)
        else:
            resumed.check_schedule(self.lr_scheduler, self.args.learning_rate, self._measures_rates)
            load_training_state(self.optimizer, self.lr_scheduler, checkpoint)
