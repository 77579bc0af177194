"""`Trainer` whose evaluation loss over several processes counts each image once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map
from transformers import Trainer, TrainingArguments


class ExactEvaluationTrainer(Trainer):
    """`Trainer` with the loss of one process in evaluations over several.

    accelerate fills the last batch with images from the beginning, so that all processes have equally many. Trainer
    leaves them out of the metrics, but not out of the mean that is the loss of that batch. Models that divide their
    loss by the number of labels are told that of this process, whose mean it is, and not the mean over processes.
    """

    args: TrainingArguments

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Predict as Trainer does, without the images that fill the last batch."""
        if self.accelerator.num_processes == 1:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        rows = _rows(inputs)
        real = real_rows(self.accelerator, rows)
        some = inputs
        if real not in (0, rows):  # of none at all everything is left out later
            some = {name: value[:real] if _is_batched(value, rows) else value for name, value in inputs.items()}
        averaged, self.args.average_tokens_across_devices = self.args.average_tokens_across_devices, False
        try:
            loss, *outputs = super().prediction_step(model, some, prediction_loss_only, ignore_keys)
        finally:
            self.args.average_tokens_across_devices = averaged
        if some is not inputs:
            outputs = tree_map(lambda value: _filled(value, real, rows), outputs)
        return loss, outputs[0], outputs[1]


def real_rows(accelerator: Any, rows: int) -> int:
    """How many rows of this process's batch are no repetitions; as `Accelerator.gather_for_metrics` counts.

    Args:
        accelerator: While its data loader yields batches.
        rows: Images in the batch of this process.
    """
    state = accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return rows
    return min(max(state.remainder - accelerator.process_index * rows, 0), rows)


def _rows(inputs: dict[str, Any]) -> int:
    return next((len(value) for value in inputs.values() if isinstance(value, torch.Tensor) and value.ndim), 0)


def _is_batched(value: Any, rows: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == rows


def _filled(value: Any, real: int, rows: int) -> Any:
    if not _is_batched(value, real):
        return value
    return torch.cat([value, value[-1:].expand(rows - real, *value.shape[1:])])
