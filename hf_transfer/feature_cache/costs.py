"""What storing the frozen part of a forward pass saves: seconds in, seconds out.

With a suffix that costs s, a prefix p and reading an image d, E epochs cost E * (d + p + s) without a store and
K * (d + p) + E * (r + s) with K stored views that are read back in r. A frozen prefix alone, without a store, cannot
make training more than three times as fast. Source: https://arxiv.org/abs/2102.01386 measures the gain of caching.
"""

from __future__ import annotations

from dataclasses import dataclass

# Below this the figures' own uncertainty is larger than the gain.
# Mapped files that stay in memory, and a disk of the slower sort.
_MEMORY_BYTES_PER_SECOND = 1e9
_DISK_BYTES_PER_SECOND = 2e8
# What the training loop itself takes for an image (sampler, collator, optimizer, callbacks): an estimate, which keeps
# the ratio finite where nothing is left to compute.
_LOOP_SECONDS = 1e-4


@dataclass(frozen=True)
class Costs:
    """Seconds for one image.

    Attributes:
        reading: Decoding and transforming it.
        prefix: Forward pass up to the cut.
        suffix: Forward and backward pass behind the cut.
        row: Reading what is stored of it.
    """

    reading: float
    prefix: float
    suffix: float
    row: float


def row_seconds(row_bytes: int, store_bytes: int, memory_bytes: int) -> float:
    """Seconds to read one row back.

    Args:
        row_bytes: Size of a row.
        store_bytes: Bytes of the whole store.
        memory_bytes: Bytes of memory of the machine; a store above half of it is read from the disk in each epoch.
    """
    slow = store_bytes > memory_bytes / 2
    return row_bytes / (_DISK_BYTES_PER_SECOND if slow else _MEMORY_BYTES_PER_SECOND)


def speed_up(costs: Costs, epochs: float, views: int, missing: float = 1.0) -> float:
    """How many times as fast a phase becomes.

    Args:
        costs: Costs of one image.
        epochs: Length of the phase.
        views: Number of stored views of each image.
        missing: Share of the store that is not there yet.
    """
    once = missing * views * (costs.reading + costs.prefix)
    without = epochs * (costs.reading + costs.prefix + costs.suffix + _LOOP_SECONDS)
    return without / (once + epochs * (costs.row + costs.suffix + _LOOP_SECONDS))
