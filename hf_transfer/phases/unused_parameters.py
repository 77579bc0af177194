"""Parameters that never get a gradient, found by one forward pass.

CLIP's last norm, the mask token of DINOv2 and unused poolers are parameters of a classifier that its forward pass does
not read. Left trainable they make `DistributedDataParallel` fail, or search the graph in each step.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hf_transfer.utils.modules import modes_kept

logger = logging.getLogger(__name__)


def find_unused_parameters(model: nn.Module, inputs: Any) -> tuple[str, ...]:
    """Find the parameters that the loss of a model does not depend on.

    One forward pass in eval mode builds the autograd graph, which is then searched for parameters; no backward pass
    is run. Modes, `requires_grad`, gradients, buffers and the random state are afterwards as they were.

    Args:
        model: Any model.
        inputs: A small real batch: a mapping, as a data collator returns it, or a tensor of images
            `(batch, channels, height, width)`. Without labels the logits take the place of the loss.

    Returns:
        Names as in `model.named_parameters()`. Empty where the graph cannot tell: under reentrant activation
        checkpointing, which hides the parameters of what it recomputes, and where no output depends on a parameter.
    """
    batch = {"pixel_values": inputs} if isinstance(inputs, torch.Tensor) and _is_named(model) else inputs
    if isinstance(batch, Mapping) and "labels" in batch and not _takes(model, "labels"):
        batch = {name: value for name, value in batch.items() if name != "labels"}
    with _everything_differentiable(model):
        outputs = model(**batch) if isinstance(batch, Mapping) else model(batch)
        reached, complete = _reached_leaves(_roots(outputs))
    if not complete or not reached:
        logger.warning(
            "Parameters without a gradient cannot be found in %s: %s.",
            type(model).__name__,
            "its outputs depend on no parameter" if complete else "reentrant activation checkpointing hides them",
        )
        return ()
    return tuple(name for name, p in model.named_parameters() if p.is_floating_point() and id(p) not in reached)


def _is_named(model: nn.Module) -> bool:
    return _takes(model, "pixel_values")


def _takes(model: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters


@contextmanager
def _everything_differentiable(model: nn.Module) -> Iterator[None]:
    """Eval mode, gradients on, all parameters trainable; everything restored on exit."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    devices = sorted({p.device.index or 0 for p, _ in flags if p.device.type == "cuda"})
    with modes_kept(model):
        # Train mode first, and last: LeViT keeps its attention biases of an eval pass until then, so that stale ones
        # would hide a parameter now, and ours, which hold a graph, would be used later.
        _set_mode(model, True)
        _set_mode(model, False)
        try:
            for parameter, _ in flags:
                if parameter.is_floating_point():
                    parameter.requires_grad_(True)
            with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
                yield
        finally:
            _set_mode(model, True)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


def _set_mode(model: nn.Module, mode: bool) -> None:
    """Set the mode of all modules, also of frozen ones, whose `train` method is replaced on the instance."""
    for module in model.modules():
        type(module).train(module, mode)


def _roots(outputs: Any) -> list[Any]:
    """The graph nodes of the loss, or else of the logits, or else of all outputs."""
    if isinstance(outputs, Mapping):
        found = next((outputs[key] for key in ("loss", "logits") if outputs.get(key) is not None), None)
        outputs = list(outputs.values()) if found is None else found
    roots: list[Any] = []
    for item in outputs if isinstance(outputs, tuple | list) else [outputs]:
        if isinstance(item, torch.Tensor):
            roots += [item.grad_fn] if item.grad_fn is not None else []
        elif isinstance(item, tuple | list | Mapping):
            roots += _roots(item)
    return roots


def _reached_leaves(roots: list[Any]) -> tuple[set[int], bool]:
    """Ids of the leaf tensors in a graph, and whether it is complete."""
    seen: set[Any] = set()
    leaves: set[int] = set()
    complete = True
    todo = list(roots)
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        complete = complete and type(node).__name__ != "CheckpointFunctionBackward"
        todo += [following for following, _ in node.next_functions]
    return leaves, complete
