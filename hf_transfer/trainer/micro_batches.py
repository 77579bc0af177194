"""The share that each micro-batch has in the loss of an optimizer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def has_float_labels(batches: Sequence[Any]) -> bool:
    """Whether the labels are several per image, or numbers to be predicted."""
    return any(labels.is_floating_point() for labels in _labels(batches))


def micro_batch_sizes(batches: Sequence[Any]) -> list[int]:
    """How many labels of each micro-batch count; empty where there are none to count."""
    return [len(labels) if labels.is_floating_point() else int(labels.ne(-100).sum()) for labels in _labels(batches)]


def micro_batch_weights(sizes: Sequence[int], total: int, processes: int = 1) -> list[float]:
    """The weight of each micro-batch's mean loss, so that the mean over micro-batches and processes is that of labels.

    Args:
        sizes: Labels of each micro-batch of this process that count.
        total: Sum of the sizes over all processes.
        processes: Number of processes.

    Returns:
        Each micro-batch's share of all labels, times the number of micro-batches, times that of processes.
    """
    return [size * len(sizes) * processes / total for size in sizes] if total else []


def _labels(batches: Sequence[Any]) -> list[torch.Tensor]:
    found = [batch.get("labels") if isinstance(batch, Mapping) else None for batch in batches]
    tensors = [labels for labels in found if isinstance(labels, torch.Tensor)]
    return tensors if len(tensors) == len(batches) else []
