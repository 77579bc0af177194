"""`TransferTrainer`: transformers' `Trainer` with a transfer plan."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.training_args import OptimizerNames

from hf_transfer.checkpoints.portable import unpacked
from hf_transfer.checkpoints.resuming import load_training_state
from hf_transfer.data.transforms import collate, has_transform, holds_raw_images, with_inputs
from hf_transfer.errors import NonFiniteLossError, PlanError
from hf_transfer.feature_cache.decision import CacheDecision
from hf_transfer.feature_cache.rows import SeededCollator
from hf_transfer.models.memory_format import set_memory_format
from hf_transfer.phases.learning_rate_range import RangeTest
from hf_transfer.phases.param_groups import torch_groups
from hf_transfer.phases.resolved import ResolvedPlan, total_steps
from hf_transfer.phases.schedules import make_scheduler, set_rates
from hf_transfer.plans.plan import TransferPlan
from hf_transfer.run_files import PLAN_FILE
from hf_transfer.trainer.args import TransferArguments, agreed_plan, measures_rate, replaced, resolve
from hf_transfer.trainer.base import BaseTrainer
from hf_transfer.trainer.checks import (
    check_lengths,
    check_model,
    check_processes,
    checked_held_out,
    warn_of_missing_fsdp,
    without_averaging,
)
from hf_transfer.trainer.held_out import HeldOut
from hf_transfer.trainer.interrupts import InterruptCallback
from hf_transfer.trainer.progress import use_phase_progress
from hf_transfer.trainer.record import facts_of_plan, step_facts
from hf_transfer.trainer.run import PlanRun
from hf_transfer.trainer.run_events import RunEvents
from hf_transfer.utils.random_state import own_random_numbers

logger = logging.getLogger(__name__)


class TransferTrainer(BaseTrainer):
    """A drop-in for `transformers.Trainer` that trains by a transfer plan.

    Without a plan or recipe it behaves as `Trainer` does, loss by loss, save that the loss is right under gradient
    accumulation for every architecture (https://github.com/huggingface/transformers/issues/47688), and that a loss
    that is not finite stops the run.

    With a plan it freezes parameters and buffers bit for bit, gives each layer group its learning rate, logs one rate
    per group (`learning_rate/<group>`; `learning_rate` is the head's) and the phase's number, and checks after each
    phase that what was frozen did not change. A phase without a length of its own takes `num_train_epochs`.

    With or without a plan, results of an earlier run in `output_dir` are moved into its folder `earlier_run` when the
    next training saves there, so that they are not taken for that one's.

    Args:
        plan: A `TransferPlan`, or the name of a recipe such as "lp_ft"; None takes the recipe or plan file of the
            arguments, if any.
        args: `TransferArguments`, or plain `TrainingArguments`. They are copied where something must be changed.
        train_dataset: Where it is a `datasets.Dataset` with a column of images and no transform, and there is neither
            a collator, it is passed through the image processor in `processing_class`; likewise `eval_dataset`.
        held_out: Images kept apart from the training, to choose the weights that it leaves. Default: the last ones.

    All other arguments are those of `transformers.Trainer`.

    Raises:
        ArgumentError: The arguments contradict each other.
        PlanError: The plan does not fit the other arguments, or the model (the latter when training starts).
    """

    solves_head = False
    """Whether `train` solves the head instead of training it in steps."""
    data_fingerprint: str | None = None
    """Identity of the training data, where the caller knows a better one than can be found in them."""
    optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
    run: PlanRun | None

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
        plan: TransferPlan | str | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        args = args or TransferArguments(output_dir="tmp_trainer")
        if data_collator is None and any(map(holds_raw_images, (train_dataset, eval_dataset))):
            train_dataset, eval_dataset = (with_inputs(d, processing_class) for d in (train_dataset, eval_dataset))
            data_collator, args = collate, replaced(args, remove_unused_columns=False)
        self.plan = agreed_plan(plan, args, solved=self.solves_head)
        self.measures_rates, args = measures_rate(args), resolve(args, self.plan)
        self.interrupts = InterruptCallback(self.any_process)
        self.run, self.held_out = None, held_out
        if self.plan is not None:
            if optimizers != (None, None):
                raise PlanError("A plan makes its own optimizer: give either plan or optimizers, not both.")
            check_processes(self.plan, args)
            check_lengths(self.plan, args)
            steps = total_steps(self.plan, args.max_steps)
            args = args if steps is None else replaced(args, max_steps=steps)
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if self.plan is not None and self.is_sharded:
            self.plan = without_averaging(self.plan)
        self.held_out = checked_held_out(self)
        if args.remove_unused_columns and has_transform(train_dataset, eval_dataset):
            # Keep the columns that the transform reads (https://github.com/huggingface/transformers/issues/22119) and
            # drop unused ones from what it returns.
            self.data_collator = self._get_collator_with_removed_columns(self.data_collator)
            self.args = replaced(self.args, remove_unused_columns=False)
        warn_of_missing_fsdp(self.accelerator, args)
        if self.plan is not None:
            check_model(self.model)
            self.add_callback(self.interrupts)
            self.add_callback(RunEvents(self))
            use_phase_progress(self, [phase.name for phase in self.plan.phases])
        elif self.options.memory_format == "channels_last":
            set_memory_format(self.model, "channels_last")

    @property
    def follows_plan(self) -> bool:
        """Whether a plan says what is trained."""
        return self.plan is not None

    @property
    def resolved_plan(self) -> ResolvedPlan | None:
        """The plan made definite for this model and run; None before the training, and without a plan."""
        phase = None if self.run is None else self.run.phase
        return None if phase is None else phase.clock.resolved

    @property
    def cache_decisions(self) -> tuple[CacheDecision, ...]:
        """Whether and how each phase of the latest training used the feature cache."""
        return () if self.run is None else tuple(self.run.cache_decisions)

    @property
    def range_tests(self) -> tuple[RangeTest, ...]:
        """The learning-rate range tests of the latest training, by phase; empty where rates were given."""
        return () if self.run is None or self.run.range_tests is None else self.run.range_tests.in_order

    @property
    def solved_phase(self) -> dict[str, Any] | None:
        """How the head of the first phase was solved; None where it was not."""
        return None if self.run is None else self.run.solved

    @property
    def is_sharded(self) -> bool:
        """Whether the model is divided over the processes."""
        return bool(self.is_deepspeed_enabled or self.is_fsdp_enabled or self.is_distributed_loading_by_transformers)

    @property
    def made_schedule(self) -> bool:
        """Whether the arguments say what the schedule was; a plan's always is theirs."""
        return self.resolved_plan is not None or super().made_schedule

    def facts(self) -> dict[str, Any]:
        """What was trained and how, for the record."""
        return super().facts() if self.resolved_plan is None else step_facts(self) | facts_of_plan(self)

    def place_in_plan(self) -> str:
        """Where the run is, for messages."""
        return f", phase {self.run.phase.name!r}" if self.run is not None and self.run.phase is not None else ""

    def no_checkpoint(self) -> Exception:
        """The error for a run without a complete checkpoint to resume from."""
        if self.plan is None:
            return super().no_checkpoint()
        return PlanError(
            f"There is no complete checkpoint in {self.args.output_dir} to resume from. Leave "
            "resume_from_checkpoint out to begin."
        )

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
            NonFiniteLossError: The loss became NaN or infinite; checkpoints saved before are kept. Not raised with
                held-out images: the best weights before are left.
            FrozenChangedError: A frozen tensor changed.
            ReplicasDifferError: The processes do not hold the same weights.
            InterruptedTrainingError: A signal stopped the run.
            PlanError: The checkpoint is of another plan, model or set of training data.
        """
        if self.plan is None:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        with unpacked(self.find_checkpoint(resume_from_checkpoint)) as checkpoint:
            self.run = PlanRun(self, self.plan, checkpoint)
            try:
                with self.interrupts:
                    return super().train(checkpoint, trial, ignore_keys_for_eval)
            except NonFiniteLossError as error:
                return self.run.give_up(error)
            finally:
                self.run.close()

    # --- before the first step ---

    def get_train_dataloader(self) -> Any:
        """Make the loader of the training data; with a plan, one that can read the frozen part from the cache."""
        rows = self.run.open_cache() if self.run is not None and self.is_in_train else None
        if rows is None:
            return super().get_train_dataloader()
        given, self.train_dataset = self.train_dataset, rows
        try:
            loader = super().get_train_dataloader()
        finally:
            self.train_dataset = given
        # Else a loader draws from the global random numbers when it is iterated, but not while its workers live on.
        getattr(loader, "base_dataloader", loader).generator = torch.Generator().manual_seed(self.args.seed)
        return loader

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        """Leave out columns as Trainer does; what a collator draws at random for the training is the batch's own."""
        collator = super()._get_collator_with_removed_columns(data_collator, description)
        if self.run is None or self.run.cache is None or description != "Training":
            return collator
        return SeededCollator(collator, self.run.cache.features.train)

    def set_initial_training_values(self, args: TrainingArguments, dataloader: Any) -> Any:
        """Resolve the plan for the model and the length of the data, then count steps as Trainer does."""
        if self.run is None:
            return super().set_initial_training_values(args, dataloader)
        steps_per_epoch = super().set_initial_training_values(replaced(args, max_steps=1), dataloader)[1]
        resolved = self.run.begin(args, steps_per_epoch)
        counted = replaced(args, max_steps=self.run.last_step(resolved))
        return super().set_initial_training_values(counted, dataloader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer, with the plan's groups if there is a plan."""
        resolved = self.resolved_plan
        if resolved is None or self.optimizer is not None:
            return super().create_optimizer(model)
        assert self.run is not None and self.run.phase is not None
        target = self.model if model is None else model
        self.run.phase.enter(self.state.global_step)  # before the model is wrapped
        given = self.optimizer_cls_and_kwargs
        optimizer_class, kwargs = given or self.get_optimizer_cls_and_kwargs(self.args, target)
        if is_optimizer_factory(optimizer_class) or {"params", "model", "optimizer_dict"} & set(kwargs):
            raise PlanError(
                f"The optimizer {OptimizerNames(self.args.optim).value} chooses its own parameter groups "
                "and cannot follow a plan. Use one that takes groups, such as adamw_torch or sgd."
            )
        groups = torch_groups(target, resolved.optimizer_groups)
        # Afresh each time: Trainer pops "params" from the dictionary.
        self.optimizer_cls_and_kwargs = (optimizer_class, {**kwargs, "params": groups})
        try:
            return super().create_optimizer(model)
        finally:
            self.optimizer_cls_and_kwargs = given

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Make the learning-rate schedule: the plan's phases one after the other, if there is a plan."""
        if self.resolved_plan is None or self.lr_scheduler is not None:  # type: ignore[has-type]
            return super().create_scheduler(num_training_steps, optimizer)
        assert self.run is not None and self.run.phase is not None
        made = optimizer or self.optimizer
        _check_groups(type(self), made, self.resolved_plan)
        self.lr_scheduler = make_scheduler(self.run.phase.clock, made, self.args.lr_scheduler_kwargs)
        return self.lr_scheduler

    # --- resuming ---

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights as they were in training, where those of the checkpoint are their mean."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.run is not None and self.is_in_train:
            self.run.load_average(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the optimizer's state by name and shape; rates and schedule are those of the present arguments."""
        resumed = None if self.run is None else self.run.resumed
        if resumed is None or checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif not resumed.exact:
            set_rates(self.lr_scheduler, self.optimizer, resumed.step)
        elif self.is_fsdp_enabled or self.is_distributed_loading_by_transformers:
            scheduler: Any = self.lr_scheduler
            rates = getattr(scheduler, "base_lrs", None)
            super()._load_optimizer_and_scheduler(checkpoint)  # shards, matched by name in torch
            scheduler.base_lrs = rates
            set_rates(scheduler, self.optimizer)
        else:
            resumed.check_schedule(self.lr_scheduler, self.args.learning_rate, self.measures_rates)
            load_training_state(self.optimizer, self.lr_scheduler, checkpoint)

    # --- evaluations and checkpoints ---

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Make the loader of evaluation data; during a phase with a cut, one that reads them from the cache."""
        if self.run is not None and self.run.cache is not None:
            named = self.eval_dataset if eval_dataset is None else eval_dataset
            eval_dataset = self.run.cache.evaluation(self.eval_dataset[named] if isinstance(named, str) else named)
        return super().get_eval_dataloader(eval_dataset)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate as Trainer does; early stopping ends the phase."""
        run = self.run if self.is_in_train else None
        if run is None or run.phase is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        run.phase.synchronise_buffers()
        stopped_before = self.control.should_training_stop
        # A resumed run does not repeat an evaluation, so its data loader must draw nothing that the training would.
        with run.phase.averaged(), run.stopping.judging(run.callbacks, self.state), own_random_numbers():
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        run.stopping.note(metrics, self.args)
        if self.control.should_training_stop and run.only_phase_stops(self.state.global_step, stopped_before):
            self.control.should_training_stop = False
            self.state.max_steps = run.phase.clock.resolved.phases[-1].end
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Keep the best metric as Trainer does; with save_strategy="best" an interrupted run saves all the same."""
        return bool(super()._determine_best_metric(metrics=metrics, trial=trial)) or self.interrupts.saves_last

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save the weights that were evaluated: amid a phase that averages them, their mean so far."""
        phase = None if self.run is None else self.run.phase
        with contextlib.nullcontext() if phase is None else phase.averaged():
            super()._save_checkpoint(model, trial)

    def complete_checkpoint(self, folder: Path) -> None:
        """Add what resuming needs to know of the plan."""
        if self.run is not None:
            self.run.save(folder)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save, and the plan with the weights."""
        super()._save(output_dir, state_dict)
        if self.args.should_save and self.plan is not None:
            self.plan.save(Path(output_dir or str(self.args.output_dir)) / PLAN_FILE)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with one learning rate per layer group."""
        if "learning_rate" in logs and self.run is not None and self.run.learning_rates:
            logs.update({f"learning_rate/{group}": rate for group, rate in self.run.learning_rates.items()})
            assert self.run.phase is not None
            logs["phase"] = self.run.phase.number
        super().log(logs, start_time)


def _check_groups(trainer: type, optimizer: Any, resolved: ResolvedPlan) -> None:
    """Check that the optimizer has the plan's groups.

    Raises:
        PlanError: It was made by a subclass's own `create_optimizer`.
    """
    expected = [group.name for group in resolved.optimizer_groups]
    if [group.get("name") for group in optimizer.param_groups] != expected:
        raise PlanError(
            f"The optimizer of {trainer.__name__} does not have the plan's {len(expected)} parameter groups, which "
            "TransferTrainer.create_optimizer makes. With a plan, override get_optimizer_cls_and_kwargs (or pass "
            "optimizer_cls_and_kwargs) to choose class and options, and leave create_optimizer as it is; without a "
            "plan, any optimizer works."
        )
