"""`Trainer` that stops, in all processes at once, before a loss that is not finite hurts the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_transfer.checkpoints.folders import checkpoint_steps
from hf_transfer.errors import NonFiniteLossError


class FiniteLossTrainer(Trainer):
    """`Trainer` that raises `NonFiniteLossError` for a loss, in training or in an evaluation amid it, that is none."""

    args: TrainingArguments
    is_trying = False
    """Whether steps are made on trial, which may break."""
    _broken_loss: float | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as Trainer does; what another exception left of an earlier training is forgotten."""
        self._broken_loss = None
        return super().train(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run one forward and backward pass; a loss that is not finite stops the run before the weights are hurt.

        Gradients are averaged over the processes, so that a loss of one of them hurts all. They decide together,
        before the optimizer's step.

        Raises:
            NonFiniteLossError: In all processes.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.is_trying:
            return loss
        if not torch.isfinite(loss).all():
            self._broken_loss = float(loss)
        alone = self.args.world_size == 1
        if not alone and not self.accelerator.sync_gradients:
            return loss  # the next micro-batches wait for this process
        if self.any_process(self._broken_loss is not None):
            value, self._broken_loss = self._broken_loss, None
            raise NonFiniteLossError(self._non_finite_message("loss", value, self.state.global_step + 1))
        return loss

    def any_process(self, flag: bool) -> bool:
        """Whether a flag is set in any process of the run; all must ask."""
        if self.args.world_size == 1:
            return flag
        if flag:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate as Trainer does; during training, a loss that is not finite stops the run before it is saved.

        Raises:
            NonFiniteLossError: In all processes, which hold the same metrics.
        """
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        loss = metrics.get(f"{metric_key_prefix}_loss")
        if self.is_in_train and isinstance(loss, float) and not math.isfinite(loss):
            raise NonFiniteLossError(
                self._non_finite_message(f"{metric_key_prefix}_loss", loss, self.state.global_step)
            )
        return metrics

    def place_in_plan(self) -> str:
        """Where the run is, for messages; empty without a plan."""
        return ""

    def _non_finite_message(self, what: str, value: float | None, step: int) -> str:
        # A checkpoint of the present step holds the very weights that gave this loss.
        earlier = sorted(n for n in checkpoint_steps(self.args.output_dir) if n < self.state.global_step)
        kept = (
            f"The last good checkpoint is checkpoint-{earlier[-1]}" if earlier else "No good checkpoint had been saved"
        )
        found = "not finite in another process" if value is None else str(value)
        return (
            f"The {what} became {found} at step {step} (epoch {self.state.epoch or 0:.2f}{self.place_in_plan()}). "
            f"{kept} in {self.args.output_dir}. Lower the learning rate, or look for broken images or labels in the "
            "data."
        )
