"""Evaluation over several processes: images that only fill the last batch count neither in metrics nor in loss.

accelerate fills the last batch with images from the beginning, so that all processes have equally many. Trainer leaves
them out of the metrics, but not out of the mean that is the loss of that batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_map
from transformers import TrainingArguments


@contextlib.contextmanager
def keeping_all(args: TrainingArguments) -> Iterator[None]:
    """Make loaders that leave out no image: `dataloader_drop_last` is for training, and Trainer cuts evaluations."""
    dropped, args.dataloader_drop_last = args.dataloader_drop_last, False
    try:
        yield
    finally:
        args.dataloader_drop_last = dropped


def without_filling(accelerator: Any, inputs: dict[str, Any]) -> tuple[dict[str, Any], int, int]:
    """A batch without the images that fill it.

    Args:
        accelerator: While its data loader yields batches.
        inputs: The batch of this process.

    Returns:
        The batch, its real rows and its rows before; a batch of filling alone stays whole, and is left out later.
    """
    rows = next((len(value) for value in inputs.values() if isinstance(value, torch.Tensor) and value.ndim), 0)
    real = real_rows(accelerator, rows)
    if real in (0, rows):
        return inputs, rows, rows
    return {name: value[:real] if _is_batched(value, rows) else value for name, value in inputs.items()}, real, rows


def filled(outputs: Any, real: int, rows: int) -> Any:
    """Outputs for the real rows of a batch, with the last of them repeated up to all rows."""
    return outputs if real == rows else tree_map(lambda value: _filled(value, real, rows), outputs)


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


def _is_batched(value: Any, rows: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == rows


def _filled(value: Any, real: int, rows: int) -> Any:
    if not _is_batched(value, real):
        return value
    return torch.cat([value, value[-1:].expand(rows - real, *value.shape[1:])])
