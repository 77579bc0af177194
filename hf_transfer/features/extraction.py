"""Extraction: run the frozen part over all images once, in chunks that outlive an interruption, over all ranks."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from hf_transfer.features.cache_folder import CacheFolder
from hf_transfer.features.reading import Row, read_batches
from hf_transfer.features.store import BATCH_ROWS, Entry, FeatureStore
from hf_transfer.models.memory_format import set_memory_format
from hf_transfer.utils.distributed import barrier, rank_and_world
from hf_transfer.utils.modules import eval_mode

logger = logging.getLogger(__name__)

Columns = Mapping[str, npt.NDArray[Any]]
Compute = Callable[[Sequence[Row]], Columns]
# On a CPU larger batches leave the caches, smaller ones waste calls; accelerators need more to be busy.
ACCELERATOR_BATCH = 128


@dataclass(frozen=True)
class Extraction:
    """What an extraction did, for logs and records.

    Attributes:
        images: Rows of the store: images times views.
        computed: Rows that this process computed; 0 where the store was there.
        nbytes: Size of the store.
        seconds: Wall time.
    """

    images: int
    computed: int
    nbytes: int
    seconds: float


def fill(
    cache: CacheFolder,
    key: str,
    dataset: Any,
    compute: Compute,
    facts: Mapping[str, Any],
    *,
    batch_size: int = BATCH_ROWS,
    workers: int = 0,
    progress: bool = True,
    description: str = "Extracting features",
) -> tuple[FeatureStore, Extraction]:
    """Open the store of a key with all its rows, computing those that are missing.

    In a process group each rank computes its share of the chunks; all must call this, and see the same folder.

    Args:
        cache: Where stores are.
        key: Fingerprint of all that the rows depend on.
        dataset: Map-style; row i of the store is made of its row i.
        compute: From rows of the data set to columns, one row each.
        facts: Kept in the entry.
        batch_size: Rows at a time; halved where the device runs out of memory.
        workers: Processes that read images.
        progress: Show a bar.
        description: Its text.

    Raises:
        CacheError: The store is over the cap, or the disk is full.
    """
    started = time.perf_counter()
    rank, world = rank_and_world()
    store = cache.open(key)
    if store is not None and rank == 0:
        dropped = store.drop_corrupted()
        if dropped:
            logger.warning(
                "%d of %d chunks of the feature cache are damaged and are computed again.",
                len(dropped),
                store.entry.chunk_count,
            )
    barrier()
    first: dict[int, Columns] = {}
    if store is None:
        store, first = _new_store(cache, key, dataset, compute, facts, rank, batch_size)
    cache.touch(key)
    missing = store.missing()
    barrier()
    computed = 0
    shares = [missing[rank::world]]
    with tqdm(
        total=sum(len(store.entry.chunk(n)) for n in shares[0]),
        desc=description,
        unit="img",
        disable=not progress or rank > 0 or not missing,
    ) as bar:
        computed += _compute_chunks(store, shares[0], dataset, compute, first, batch_size, workers, bar)
        barrier()
        # What another rank could not finish, or another process threw away.
        computed += _compute_chunks(store, store.missing(), dataset, compute, {}, batch_size, workers, bar)
    seconds = time.perf_counter() - started
    done = Extraction(store.entry.rows, computed, store.entry.nbytes, seconds)
    if computed and rank == 0:
        logger.info("%s: %d images in %.1f s (%.0f images/s).", description, computed, seconds, computed / seconds)
    return store, done


def _new_store(
    cache: CacheFolder, key: str, dataset: Any, compute: Compute, facts: Mapping[str, Any], rank: int, batch_size: int
) -> tuple[FeatureStore, dict[int, Columns]]:
    """Make the store; the first batch tells what a row holds, and is kept for its chunk."""
    rows = range(min(BATCH_ROWS, batch_size, len(dataset)))
    store, first = None, {}
    if rank == 0:
        started = time.perf_counter()
        columns = compute(next(read_batches(dataset, [rows])))
        seconds = time.perf_counter() - started
        entry = Entry.plan(len(dataset), {n: (c.dtype.str, c.shape[1:]) for n, c in columns.items()}, facts)
        logger.info(
            "Extracting %d images into %.3g MB of feature cache; about %.0f s of work at %.0f images/s.",
            entry.rows,
            entry.nbytes / 1e6,
            seconds * entry.rows / len(rows),
            len(rows) / max(seconds, 1e-9),
        )
        store, first = cache.create(key, entry), {0: columns}
    barrier()
    store = cache.open(key) if store is None else store
    if store is None:
        raise RuntimeError("Rank 0 made no feature store, or the ranks do not see the same folder.")
    return store, first


def _compute_chunks(
    store: FeatureStore,
    numbers: Sequence[int],
    dataset: Any,
    compute: Compute,
    first: Mapping[int, Columns],
    batch_size: int,
    workers: int,
    bar: Any,
) -> int:
    """Compute and write chunks; returns the number of rows."""
    batches = [batch for n in numbers for batch in _batches(store.entry.chunk(n), batch_size)]
    known = {batch.start: first[batch.start] for batch in batches if batch.start in first}
    reader = read_batches(dataset, [batch for batch in batches if batch.start not in known], workers)
    rows = 0
    for number in numbers:
        chunk = store.entry.chunk(number)
        table = np.zeros(len(chunk), store.entry.dtype)
        for batch in _batches(chunk, batch_size):
            columns = known.pop(batch.start, None)
            columns = _with_smaller_batches(compute, next(reader)) if columns is None else columns
            for name, values in columns.items():
                table[name][batch.start - chunk.start : batch.stop - chunk.start] = values
            bar.update(len(batch))
        store.write(number, table)
        rows += len(chunk)
    return rows


def _batches(chunk: range, batch_size: int) -> list[range]:
    """Batches of a chunk; the first of the store is never larger than what is computed before its rows are known."""
    first = min(BATCH_ROWS, batch_size) if chunk.start == 0 else batch_size
    starts = [chunk.start, *range(chunk.start + first, chunk.stop, batch_size)]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], chunk.stop], strict=True)]


def _with_smaller_batches(compute: Compute, rows: Sequence[Row]) -> Columns:
    """Compute a batch, in halves where the device has no memory for the whole."""
    try:
        return compute(rows)
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
        logger.warning("Out of memory with a batch of %d images; continuing with half of it.", len(rows))
    halves = [_with_smaller_batches(compute, part) for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :])]
    return {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}


@contextlib.contextmanager
def extracting(model: nn.Module, memory_format: str = "default") -> Iterator[torch.device]:
    """A model in eval mode, in inference mode and in a fast memory layout; restored afterwards.

    Yields:
        The device of its parameters.
    """
    weights = {parameter: parameter.data for parameter in model.parameters()}
    buffers = [(m, n, b) for m in model.modules() for n, b in m._buffers.items()]
    try:
        set_memory_format(model, memory_format)
        with eval_mode(model), torch.inference_mode():
            yield next(iter(weights)).device if weights else torch.device("cpu")
    finally:
        for parameter, data in weights.items():
            parameter.data = data
        for module, name, buffer in buffers:
            module._buffers[name] = buffer


def default_batch_size(device: torch.device) -> int:
    """Images at a time: 32 on a CPU, 128 on an accelerator; both fit into chunks."""
    return BATCH_ROWS if device.type == "cpu" else ACCELERATOR_BATCH
