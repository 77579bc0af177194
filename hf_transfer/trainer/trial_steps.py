"""Optimizer steps on trial: made as the training makes them, and then undone bit for bit."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import Trainer

from hf_transfer.feature_cache.rows import PackedRows, SeededCollator
from hf_transfer.features.reading import read_batches
from hf_transfer.utils.distributed import rank_and_world
from hf_transfer.utils.foreign import inner_optimizer
from hf_transfer.utils.modules import modes_kept
from hf_transfer.utils.random_state import own_random_numbers


@contextlib.contextmanager
def undone(trainer: Any, seed: int) -> Iterator[None]:
    """Let a trainer make steps, and give model, optimizer, loss scaling and random numbers back as they were.

    Args:
        trainer: In training, between two optimizer steps; its gradients are dropped.
        seed: Seed for the random numbers inside; each rank draws its own.
    """
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    optimizer = inner_optimizer(trainer.optimizer)
    scaler = getattr(trainer.accelerator, "scaler", None)
    sync = trainer.accelerator.gradient_state
    weights = {p: p.detach().clone() for p in model.parameters() if p.requires_grad}
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    moments = {parameter: _copied(values) for parameter, values in optimizer.state.items()}
    scaling = None if scaler is None else copy.deepcopy(scaler.state_dict())
    micro_batches, accumulated = trainer.losses.snapshot(), vars(trainer).get("current_gradient_accumulation_steps")
    syncing = sync.sync_gradients
    try:
        with modes_kept(model), own_random_numbers(seed + rank_and_world()[0], trainer.args.device):
            yield
    finally:
        with torch.no_grad():
            for parameter, value in weights.items():
                parameter.copy_(value)
            for module, name, buffer, value in buffers:
                buffer.copy_(value)
                module._buffers[name] = buffer
        for group, values in zip(optimizer.param_groups, groups, strict=True):
            group.update(values)
        optimizer.state.clear()
        optimizer.state.update(moments)
        if scaler is not None and scaling is not None:
            scaler.load_state_dict(scaling)
        model.zero_grad(set_to_none=True)
        trainer.losses.restore(micro_batches)
        trainer.current_gradient_accumulation_steps = accumulated
        sync._set_sync_gradients(syncing)


def trial_batches(dataloader: Any, size: int, count: int, seed: int, workers: int = 0) -> Iterator[Any]:
    """Batches of the training data that leave the order of the training's own batches as it is.

    Args:
        dataloader: The data loader of the training, for its data set and collator.
        size: Rows in a batch of one process.
        count: Number of batches; data that are fewer are read again, in another order.
        seed: Seed for the order, the same on all ranks; each reads its share.
        workers: Processes that read.
    """
    rank, world = rank_and_world()
    dataset, generator = _own_rows(dataloader.dataset), torch.Generator()
    generator.manual_seed(seed)
    rows: list[int] = []
    while len(rows) < size * world * count:
        rows += torch.randperm(len(dataset), generator=generator).tolist()
    starts = range(rank * size, size * world * count, size * world)
    collate = dataloader.collate_fn
    # Not with the numbers of the training's last batch, which a resumed run has not read.
    collate = collate.collator if isinstance(collate, SeededCollator) else collate
    for start, batch in zip(
        starts, read_batches(dataset, [rows[start : start + size] for start in starts], workers), strict=True
    ):
        with own_random_numbers(seed + start):
            collated = collate(batch)
        yield collated


def trial_step(trainer: Any, micro_batches: Sequence[Any]) -> float:
    """One optimizer step as Trainer's loop makes it, with accumulation and clipping.

    Args:
        trainer: Inside `undone`; the optimizer's groups have the rates to try.
        micro_batches: As the collator makes them.

    Returns:
        The mean of the loss over all processes, before the step.
    """
    accelerator, model = trainer.accelerator, trainer.model_wrapped
    batches, items = trainer.get_batch_samples(iter(micro_batches), len(micro_batches), trainer.args.device)
    trainer.current_gradient_accumulation_steps = len(batches)
    loss = torch.zeros((), device=trainer.args.device)
    for number, batch in enumerate(batches, 1):
        is_last = number == len(batches)
        accelerator.gradient_state._set_sync_gradients(is_last)
        with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
            loss += trainer.training_step(model, batch, items).float()
    if trainer.args.max_grad_norm > 0:
        trainer._clip_grad_norm(model)
    trainer.optimizer.step()
    model.zero_grad()
    mean: torch.Tensor = accelerator.reduce(loss, "mean")
    return float(mean)


def cannot_try(trainer: Trainer, dataloader: Any) -> str | None:
    """Why steps of a trainer cannot be tried and undone; None where they can."""
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return "with DeepSpeed or FSDP weights and optimizer are not whole in any process"
    dataset = getattr(dataloader, "dataset", None)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return "streamed data would be used up"
    return None


def _own_rows(dataset: Any) -> Any:
    """The rows as the phase reads them from its next epoch on; what the training reads stays as it is."""
    if not isinstance(dataset, PackedRows):
        return dataset
    rows = PackedRows(dataset.dataset, dataset.seed)
    rows.packer = dataset.next_packer
    return rows


def _copied(values: Any) -> Any:
    """A deep copy of one parameter's optimizer state."""
    if isinstance(values, torch.Tensor):
        return values.clone()
    if isinstance(values, dict):
        return {key: _copied(value) for key, value in values.items()}
    return copy.deepcopy(values)
