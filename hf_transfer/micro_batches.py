"""The share that each micro-batch has in the loss of an optimizer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def has_float_labels(batches: Sequence[Any]) -> bool:
    """Whether the labels are several per image, or numbers to be predicted."""
    return any(labels.is_floating_point() for labels in _labels(batches))


def micro_batch_weights(batches: Sequence[Any]) -> list[float]:
    """Each micro-batch's share of the labels, times the number of micro-batches; empty where all are of one size."""
    sizes = [len(labels) if labels.is_floating_point() else int(labels.ne(-100).sum()) for labels in _labels(batches)]
    total = sum(sizes)
    if not total or len(set(sizes)) == 1:
        return []
    return [size * len(sizes) / total for size in sizes]


def _labels(batches: Sequence[Any]) -> list[torch.Tensor]:
    found = [batch.get("labels") if isinstance(batch, Mapping) else None for batch in batches]
    tensors = [labels for labels in found if isinstance(labels, torch.Tensor)]
    return tensors if len(tensors) == len(batches) else []
