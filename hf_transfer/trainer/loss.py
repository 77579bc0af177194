"""`Trainer` whose training loss is right for every architecture, also under gradient accumulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_transfer.trainer.losses import (
    LogitsLoss,
    is_transformers_model,
    keys_beside_logits,
    takes_labels,
    uses_num_items_in_batch,
)
from hf_transfer.trainer.micro_batches import has_float_labels, micro_batch_sizes, micro_batch_weights


class ExactLossTrainer(Trainer):
    """`Trainer` that scales the loss of micro-batches rightly, and gives a loss to models that compute none.

    Trainer leaves the loss unscaled for most vision models (https://github.com/huggingface/transformers/issues/47688).
    """

    args: TrainingArguments
    label_names: list[str]
    compute_loss_func: Callable[..., torch.Tensor] | None
    model_accepts_loss_kwargs: bool
    _micro_batch_weights: Iterator[float] = iter(())

    def settle_loss(self) -> None:
        """Find out who scales the loss, and who computes it; called once the trainer has its model."""
        unwrapped = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if self.model_accepts_loss_kwargs and not uses_num_items_in_batch(unwrapped):
            self.model_accepts_loss_kwargs = False
        if not takes_labels(unwrapped):
            self.label_names = self.args.label_names or ["labels"]
            self.compute_loss_func = self.compute_loss_func or LogitsLoss(self.args.label_smoothing_factor)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Collect the batches of one optimizer step, and note how much of it each one is."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.model_accepts_loss_kwargs and has_float_labels(batches) and is_transformers_model(self.model):
            # Losses for several labels and for regression ignore num_items_in_batch.
            self.model_accepts_loss_kwargs, num_items = False, None
        self._micro_batch_weights = iter(() if self._scaled_by_items() else self._weights(batches))
        return batches, num_items

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss as Trainer does, weighting micro-batches of different size by their number of images."""
        weight = 1.0
        if self.is_in_train and model.training and not self._scaled_by_items():
            weight = next(self._micro_batch_weights, 1.0)
        if weight == 0.0:  # the mean over no labels is not a number; DDP waits for a gradient all the same
            return self._no_loss(model, inputs, *args, **kwargs)
        result = super().compute_loss(model, inputs, *args, **kwargs)
        if weight == 1.0:
            return result
        return (result[0] * weight, *result[1:]) if isinstance(result, tuple) else result * weight

    def _scaled_by_items(self) -> bool:
        """Whether the loss is divided by the number of items of the whole step already."""
        return self.model_accepts_loss_kwargs or self.compute_loss_func is not None

    def _weights(self, batches: Any) -> list[float]:
        """The weight of each of this process's micro-batches; all processes must call it."""
        sizes, processes = micro_batch_sizes(batches), self.accelerator.num_processes
        total = sum(sizes)
        if processes > 1:
            total = int(self.accelerator.reduce(torch.tensor(total, device=self.accelerator.device), "sum"))
        return micro_batch_weights(sizes, total, processes)

    def _no_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """A loss of 0 that all that is trained has a part in."""
        inputs = {key: value for key, value in inputs.items() if key not in self.label_names}
        outputs = model(**inputs)
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        loss = logits.sum() * 0.0
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """Predict as Trainer does; of models with several heads only the logits that they answer with."""
        ignore_keys = keys_beside_logits(self.model) if ignore_keys is None else ignore_keys
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
