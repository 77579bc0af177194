"""`TransferTrainer`: transformers' `Trainer` with a transfer plan."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_optimizer import is_optimizer_factory

from hf_transfer.architectures.lookup import wrap
from hf_transfer.errors import PlanError
from hf_transfer.models.memory_format import set_memory_format
from hf_transfer.models.random_weights import draw_random_weights
from hf_transfer.models.timm_interop import PLAN_FILE
from hf_transfer.phases.callback import PhaseCallback
from hf_transfer.phases.early_stopping import PhaseStopping
from hf_transfer.phases.param_groups import torch_groups
from hf_transfer.phases.replicas import copy_from_first_rank, rebuild_reducer, unused_of_samples
from hf_transfer.phases.resolved import PhaseClock, ResolvedPlan, resolve_plan, total_steps
from hf_transfer.phases.schedules import make_scheduler
from hf_transfer.plans.plan import TransferPlan
from hf_transfer.trainer.args import TransferArguments, agreed_plan
from hf_transfer.trainer.checks import check_model, check_processes, warn_of_missing_fsdp, without_averaging
from hf_transfer.trainer.exact_evaluation import ExactEvaluationTrainer
from hf_transfer.trainer.finite_loss import FiniteLossTrainer
from hf_transfer.trainer.interrupts import InterruptCallback
from hf_transfer.trainer.loss import ExactLossTrainer
from hf_transfer.trainer.progress import use_phase_progress
from hf_transfer.trainer.publishing import PublishingTrainer
from hf_transfer.trainer.range_test import RangeTestTrainer
from hf_transfer.trainer.solved_phase import solve_first_phase
from hf_transfer.utils.modules import named_parameters
from hf_transfer.utils.random_state import own_random_numbers

logger = logging.getLogger(__name__)


class TransferTrainer(
    RangeTestTrainer, FiniteLossTrainer, ExactLossTrainer, ExactEvaluationTrainer, PublishingTrainer
):
    """A drop-in for `transformers.Trainer` that trains by a transfer plan.

    Without a plan or recipe it behaves as `Trainer` does, loss by loss, save that the loss is right under gradient
    accumulation for every architecture (https://github.com/huggingface/transformers/issues/47688), and that a loss
    that is not finite stops the run.

    With a plan it freezes parameters and buffers bit for bit, gives each layer group its learning rate, logs one rate
    per group (`learning_rate/<group>`; `learning_rate` is the head's) and the phase's number, and checks after each
    phase that what was frozen did not change. A phase without a length of its own takes `num_train_epochs`.

    With or without a plan, results of an earlier run in `output_dir` are moved into its folder `earlier_run` when the
    model or metrics of the next training are saved there, so that they are not taken for that one's.

    Args:
        plan: A `TransferPlan`; None takes the recipe or plan file of the arguments, if any.
        args: `TransferArguments`, or plain `TrainingArguments`. They are copied where something must be changed.

    All other arguments are those of `transformers.Trainer`.

    Raises:
        ArgumentError: The arguments contradict each other.
        PlanError: The plan does not fit the other arguments, or the model (the latter when training starts).
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., torch.Tensor] | None = None,
        compute_metrics: Callable[..., dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        *,
        plan: TransferPlan | None = None,
    ) -> None:
        args = TransferArguments(output_dir="tmp_trainer") if args is None else args
        self.args: TrainingArguments
        self.data_collator: Any
        self.optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
        self.plan = agreed_plan(plan, args, solved=getattr(self, "solves_head", False))
        args = self.settle_rate(args)
        self.interrupts = InterruptCallback(self.any_process)
        self._stopping = PhaseStopping()
        if self.plan is not None:
            if optimizers != (None, None):
                raise PlanError("A plan makes its own optimizer: give either plan or optimizers, not both.")
            check_processes(self.plan, args)
            steps = total_steps(self.plan, args.max_steps)
            args = args if steps is None else _replaced(args, max_steps=steps)
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            model_init,
            compute_loss_func,
            compute_metrics,
            callbacks,
            optimizers,
            optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics,
        )
        if self.plan is not None and self._is_sharded:
            self.plan = without_averaging(self.plan)
        self.settle_loss()
        if args.remove_unused_columns and _has_transform(train_dataset, eval_dataset):
            # Keep the columns that the transform reads (https://github.com/huggingface/transformers/issues/22119) and
            # drop unused ones from what it returns.
            self.data_collator = self._get_collator_with_removed_columns(self.data_collator)
            self.args = _replaced(self.args, remove_unused_columns=False)
        warn_of_missing_fsdp(self.accelerator, args)
        if self.plan is not None:
            check_model(self.model)
            self.add_callback(self.interrupts)
            use_phase_progress(self, [phase.name for phase in self.plan.phases])
        elif getattr(args, "memory_format", "default") == "channels_last":
            set_memory_format(self.model, "channels_last")

    def train(
        self,
        resume_from_checkpoint: str | os.PathLike[str] | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: Any = None,
    ) -> Any:
        """Train; arguments and result are those of `transformers.Trainer.train`.

        `resume_from_checkpoint=True` takes the last checkpoint that is complete. With a plan, SIGINT and SIGTERM
        finish the step, save a checkpoint and raise `InterruptedTrainingError`.

        Raises:
            NonFiniteLossError: The loss became NaN or infinite; checkpoints saved before are kept.
            FrozenChangedError: A frozen tensor changed.
            ReplicasDifferError: The processes do not hold the same weights.
            InterruptedTrainingError: A signal stopped the run.
            PlanError: The checkpoint is of another plan, model or set of training data.
        """
        self.training_began = time.time()
        checkpoint = self.find_checkpoint(resume_from_checkpoint)
        if self.plan is not None:
            self.read_checkpoint(checkpoint)
        try:
            if self.plan is None:
                return super().train(checkpoint, trial, ignore_keys_for_eval)
            with self.interrupts:
                return super().train(checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.is_in_train = False
            # Also after an interrupt: nobody else would tell of a push that failed.
            self.finish_pushes(make_up=False)
            if self._phase_callback is not None:
                self._phase_callback.restore()

    def set_initial_training_values(self, args: TrainingArguments, dataloader: Any) -> Any:
        """Resolve the plan for the model and the length of the data, then count steps as Trainer does."""
        if self.plan is None:
            return super().set_initial_training_values(args, dataloader)
        steps_per_epoch = super().set_initial_training_values(_replaced(args, max_steps=1), dataloader)[1]
        resolved = self._start_plan(args, steps_per_epoch)
        counted = _replaced(args, max_steps=resolved.phases[-1].end)
        return super().set_initial_training_values(counted, dataloader)

    def _start_plan(self, args: TrainingArguments, steps_per_epoch: int) -> ResolvedPlan:
        assert self.plan is not None
        if self._phase_callback is not None:
            self._phase_callback.restore()
            self.remove_callback(self._phase_callback)
        # Trainer keeps optimizer and wrapper of an earlier train(), or of a try with a larger batch.
        self.optimizer, self.lr_scheduler = None, None
        if not self.is_deepspeed_enabled:
            self.model_wrapped = self.model
        if self.plan.init == "random" and self._resumption is None:
            draw_random_weights(self.model, args.seed)
        set_memory_format(self.model, getattr(args, "memory_format", "default"))
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            # As DDP does, but before frozen tensors are hashed.
            copy_from_first_rank(dict(named_parameters(self.model)) | dict(self.model.named_buffers()))
        resolved = resolve_plan(self.plan, self.model, args, steps_per_epoch)
        step = 0
        if self._resumption is not None:
            resolved, step = self._resumption.place(resolved), self._resumption.step
        resolved, solved = solve_first_phase(self, resolved, step)
        if self._resumption is not None and resolved.phases[0].solved:
            solved = solved or self._resumption.state.solved_phase
        self.solved_phase = solved
        unused = self._settle_unused_parameters()
        inside = self.state_inside(resolved)
        # A copy: Trainer may try again with a smaller batch.
        average = None if inside is None or self._resumed_average is None else self._resumed_average.copy()
        self._phase_callback = PhaseCallback(PhaseClock(resolved), self.model, self._begin_phase, unused, average)
        self.follow_phases(self._phase_callback, None if inside is None else inside.cached)
        self.restore_stopping(inside)
        return resolved

    @property
    def _is_sharded(self) -> bool:
        return bool(self.is_deepspeed_enabled or self.is_fsdp_enabled or self.is_distributed_loading_by_transformers)

    def _settle_unused_parameters(self) -> tuple[str, ...]:
        """The parameters that never get a gradient: declared, and found for DDP, which need not search then."""
        unused = wrap(self.model).unused_parameters
        handler = self.accelerator.ddp_handler
        if self.args.world_size > 1 and handler is not None and not self._is_sharded:
            found = unused_of_samples(self.model, self.train_dataset, self.data_collator, self.args.device)
            if found is not None and self.args.ddp_find_unused_parameters is None:
                handler.find_unused_parameters = False
            unused = tuple(dict.fromkeys((*unused, *(found or ()))))
        if unused:
            logger.warning("These parameters never get a gradient and stay frozen: %s.", ", ".join(unused))
        return unused

    def _begin_phase(self) -> None:
        """Prepare for other trained parameters, between two steps."""
        rebuild_reducer(self.model_wrapped, self.accelerator.ddp_handler)
        self._stopping.begin_phase(self._callbacks)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer, with the plan's groups if there is a plan."""
        if self.resolved_plan is None or self.optimizer is not None:
            return super().create_optimizer(model)
        assert self._phase_callback is not None
        target = self.model if model is None else model
        self._phase_callback.enter(self.state.global_step)
        given = self.optimizer_cls_and_kwargs
        optimizer_class, kwargs = given or self.get_optimizer_cls_and_kwargs(self.args, target)
        if is_optimizer_factory(optimizer_class) or {"params", "model", "optimizer_dict"} & set(kwargs):
            raise PlanError(
                f"The optimizer {self.args.optim} chooses its own parameter groups and cannot follow a plan. Use one "
                "that takes groups, such as adamw_torch or sgd."
            )
        groups = torch_groups(target, self.resolved_plan.optimizer_groups)
        # Afresh each time: Trainer pops "params" from the dictionary.
        self.optimizer_cls_and_kwargs = (optimizer_class, {**kwargs, "params": groups})
        try:
            return super().create_optimizer(model)
        finally:
            self.optimizer_cls_and_kwargs = given

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Make the learning-rate schedule: the plan's phases one after the other, if there is a plan."""
        if self.resolved_plan is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        assert self._phase_callback is not None
        self.lr_scheduler = make_scheduler(
            self._phase_callback.clock, optimizer or self.optimizer, self.args.lr_scheduler_kwargs
        )
        return self.lr_scheduler

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate as Trainer does; early stopping ends the phase."""
        phases = self._phase_callback if self.is_in_train else None
        if phases is None:
            return dict(super().evaluate(eval_dataset, ignore_keys, metric_key_prefix))
        phases.synchronise_buffers()
        stopped_before = self.control.should_training_stop
        # A resumed run does not repeat an evaluation, so its data loader must draw nothing that the training would.
        with phases.averaged(), self._stopping.judging(self._callbacks, self.state), own_random_numbers():
            metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self._stopping.note(metrics, self.args)
        stops = self.control.should_training_stop and not stopped_before and self._stopping.asked(self._callbacks)
        if stops and phases.end_early(self.state.global_step):
            self.control.should_training_stop = False
            self.state.max_steps = phases.clock.resolved.phases[-1].end
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Keep the best metric as Trainer does; with save_strategy="best" an interrupted run saves all the same."""
        return bool(super()._determine_best_metric(metrics=metrics, trial=trial)) or self.interrupts.saves_last

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save, and the plan beside the weights."""
        super()._save(output_dir, state_dict)
        if self.args.should_save and self.plan is not None:
            self.plan.save(Path(output_dir or str(self.args.output_dir)) / PLAN_FILE)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with one learning rate per layer group."""
        if "learning_rate" in logs and self._phase_callback is not None and self._phase_callback.learning_rates:
            rates = self._phase_callback.learning_rates
            logs.update({f"learning_rate/{group}": rate for group, rate in rates.items()})
            logs["phase"] = self._phase_callback.number
        super().log(logs, start_time)

    def place_in_plan(self) -> str:
        """Where the run is, for messages."""
        return f", phase {self._phase_callback.phase_name!r}" if self._phase_callback is not None else ""


def _replaced(args: TrainingArguments, **changes: Any) -> TrainingArguments:
    """A copy with some fields changed; dataclasses.replace would run the set-up of devices again."""
    changed = copy.copy(args)
    vars(changed).update(changes)
    return changed


def _has_transform(*datasets: Any) -> bool:
    """Whether a data set makes its columns on the fly."""
    flat = [d for item in datasets for d in (item.values() if isinstance(item, dict) else [item])]
    return any(isinstance(f := getattr(d, "format", None), dict) and f.get("type") == "custom" for d in flat)
