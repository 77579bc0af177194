"""`TransferTrainer`: transformers' `Trainer` with a transfer plan."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_transfer.errors import NonFiniteLossError, PlanError
from hf_transfer.initialise import draw_random_weights
from hf_transfer.losses import is_transformers_model, uses_num_items_in_batch
from hf_transfer.memory_format import set_memory_format
from hf_transfer.optimizer_groups import torch_groups
from hf_transfer.phases import PhaseCallback, ResolvedPlan, make_scheduler, resolve_plan, total_steps
from hf_transfer.plan import TransferPlan
from hf_transfer.progress import use_phase_progress
from hf_transfer.publishing_trainer import PublishingTrainer
from hf_transfer.saving import (
    PLAN_FILE,
    check_plan_of_checkpoint,
    complete_timm_config,
    is_timm_wrapper,
    restore_weights,
    strip_timm_prefix,
)
from hf_transfer.training_args import TransferArguments, check_processes, plan_from_arguments


class TransferTrainer(PublishingTrainer):
    """A drop-in for `transformers.Trainer` that trains by a transfer plan.

    Without a plan or recipe it behaves as `Trainer` does, loss by loss, save that the loss is right under gradient
    accumulation for every architecture (https://github.com/huggingface/transformers/issues/47688), and that a loss
    that is not finite stops the run.

    With a plan it freezes parameters and buffers bit for bit, gives each layer group its learning rate, logs one rate
    per group (`learning_rate/<group>`; `learning_rate` is the head's) and the phase's number, and checks after each
    phase that what was frozen did not change. A phase without a length of its own takes `num_train_epochs`.

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
        self.model_accepts_loss_kwargs: bool
        self.optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
        self.plan = _agreed_plan(plan, args)
        self.resolved_plan: ResolvedPlan | None = None
        self._phase_callback: PhaseCallback | None = None
        self._micro_batch_weights: Iterator[float] = iter(())
        self._resuming = False
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
        unwrapped = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if self.model_accepts_loss_kwargs and not uses_num_items_in_batch(unwrapped):
            self.model_accepts_loss_kwargs = False
        if args.remove_unused_columns and _has_transform(train_dataset, eval_dataset):
            # Keep the columns that the transform reads (https://github.com/huggingface/transformers/issues/22119) and
            # drop unused ones from what it returns.
            self.data_collator = self._get_collator_with_removed_columns(self.data_collator)
            self.args = _replaced(self.args, remove_unused_columns=False)
        if self.plan is not None:
            use_phase_progress(self, [phase.name for phase in self.plan.phases])
        elif getattr(args, "memory_format", "default") == "channels_last":
            set_memory_format(self.model, "channels_last")

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> Any:
        """Train; arguments and result are those of `transformers.Trainer.train`.

        Raises:
            NonFiniteLossError: The loss became NaN or infinite; checkpoints saved before are kept.
            FrozenChangedError: A frozen tensor changed.
        """
        self._resuming = bool(resume_from_checkpoint)
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
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
        # Trainer keeps the optimizer of an earlier train(), or of a try with a larger batch (auto_find_batch_size).
        self.optimizer, self.lr_scheduler = None, None
        if self.plan.init == "random" and not self._resuming:
            draw_random_weights(self.model, args.seed)
        set_memory_format(self.model, getattr(args, "memory_format", "default"))
        self.resolved_plan = resolve_plan(self.plan, self.model, args, steps_per_epoch)
        self._phase_callback = PhaseCallback(self.resolved_plan, self.model)
        self.add_callback(self._phase_callback)
        return self.resolved_plan

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
        self.lr_scheduler = make_scheduler(
            self.resolved_plan, optimizer or self.optimizer, self.args.lr_scheduler_kwargs
        )
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Collect the batches of one optimizer step, and note how much of it each one is."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.model_accepts_loss_kwargs and _has_float_labels(batches) and is_transformers_model(self.model):
            # Losses for several labels and for regression ignore num_items_in_batch.
            self.model_accepts_loss_kwargs, num_items = False, None
        self._micro_batch_weights = iter(_micro_batch_weights(batches))
        return batches, num_items

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss as Trainer does, weighting micro-batches of different size by their number of images."""
        result = super().compute_loss(model, inputs, *args, **kwargs)
        scaled_by_items = self.model_accepts_loss_kwargs or self.compute_loss_func is not None
        if scaled_by_items or not (self.is_in_train and model.training):
            return result
        weight = next(self._micro_batch_weights, 1.0)
        if weight == 1.0:
            return result
        return (result[0] * weight, *result[1:]) if isinstance(result, tuple) else result * weight

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run one forward and backward pass; a loss that is not finite stops the run before the weights are hurt."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss).all():
            raise NonFiniteLossError(self._non_finite_message("loss", float(loss), self.state.global_step + 1))
        return loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate as Trainer does; during training, a loss that is not finite stops the run before it is saved."""
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        loss = metrics.get(f"{metric_key_prefix}_loss")
        if self.is_in_train and isinstance(loss, float) and not math.isfinite(loss):
            what = f"{metric_key_prefix}_loss"
            raise NonFiniteLossError(self._non_finite_message(what, loss, self.state.global_step))
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save as Trainer does; a timm model so that timm can load it, too, and the plan beside the weights."""
        complete_timm_config(self.model, self.processing_class)
        token, self.args.hub_token = self.args.hub_token, None  # Trainer pickles its arguments beside the weights
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        if is_timm_wrapper(self.model):
            strip_timm_prefix(folder)
        if self.plan is not None:
            self.plan.save(folder / PLAN_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights; Trainer's own way leaves out those that are stored under the names of transformers 4."""
        if self.plan is not None:
            check_plan_of_checkpoint(self.plan, resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        restore_weights(self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        """Load the best checkpoint; see `_load_from_checkpoint`."""
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            restore_weights(self.model, self.state.best_model_checkpoint)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with one learning rate per layer group."""
        if "learning_rate" in logs and self._phase_callback is not None and self._phase_callback.learning_rates:
            rates = self._phase_callback.learning_rates
            logs.update({f"learning_rate/{group}": rate for group, rate in rates.items()})
            logs["phase"] = self._phase_callback.number
        super().log(logs, start_time)

    def _non_finite_message(self, what: str, value: float, step: int) -> str:
        phase = f", phase {self._phase_callback.phase_name!r}" if self._phase_callback is not None else ""
        # A checkpoint of the present step holds the very weights that gave this loss.
        earlier = sorted(n for n in _checkpoint_steps(self.args.output_dir) if n < self.state.global_step)
        kept = (
            f"The last good checkpoint is checkpoint-{earlier[-1]}" if earlier else "No good checkpoint had been saved"
        )
        return (
            f"The {what} became {value} at step {step} (epoch {self.state.epoch or 0:.2f}{phase}). {kept} in "
            f"{self.args.output_dir}. Lower the learning rate, or look for broken images or labels in the data."
        )


def _checkpoint_steps(folder: str | None) -> list[int]:
    found = Path(folder or ".").glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return [int(path.name.rpartition("-")[2]) for path in found if path.name.rpartition("-")[2].isdigit()]


def _agreed_plan(plan: TransferPlan | None, args: TrainingArguments) -> TransferPlan | None:
    from_arguments = plan_from_arguments(args)
    if plan is not None and from_arguments is not None:
        raise PlanError(
            "A plan and a recipe (or plan file) in the arguments contradict each other: give one of the two."
        )
    return plan if plan is not None else from_arguments


def _replaced(args: TrainingArguments, **changes: Any) -> TrainingArguments:
    """A copy with some fields changed; dataclasses.replace would run the set-up of devices again."""
    changed = copy.copy(args)
    vars(changed).update(changes)
    return changed


def _has_transform(*datasets: Any) -> bool:
    """Whether a data set makes its columns on the fly."""
    flat = [d for item in datasets for d in (item.values() if isinstance(item, dict) else [item])]
    return any(isinstance(f := getattr(d, "format", None), dict) and f.get("type") == "custom" for d in flat)


def _labels(batches: list[Any]) -> list[torch.Tensor]:
    found = [batch.get("labels") if isinstance(batch, Mapping) else None for batch in batches]
    tensors = [labels for labels in found if isinstance(labels, torch.Tensor)]
    return tensors if len(tensors) == len(batches) else []


def _has_float_labels(batches: list[Any]) -> bool:
    return any(labels.is_floating_point() for labels in _labels(batches))


def _micro_batch_weights(batches: list[Any]) -> list[float]:
    """Each micro-batch's share of the labels, times the number of micro-batches; empty where all are of one size."""
    sizes = [len(labels) if labels.is_floating_point() else int(labels.ne(-100).sum()) for labels in _labels(batches)]
    total = sum(sizes)
    if not total or len(set(sizes)) == 1:
        return []
    return [size * len(sizes) / total for size in sizes]
