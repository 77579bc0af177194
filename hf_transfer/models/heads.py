"""New heads, and the account of what a checkpoint did not bring along."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hf_transfer.architectures.lookup import wrap
from hf_transfer.errors import ModelError
from hf_transfer.models.rebuilding import remake

logger = logging.getLogger(__name__)


def head_tensors(model: nn.Module) -> frozenset[str]:
    """Names, as in `state_dict()`, of the parameters and buffers of a model's head, or of all its heads.

    Raises:
        LayerGroupError: The model has no head.
    """
    head = wrap(model).head
    modules = dict(model.named_modules())
    inside = (
        f"{path}.{name}" if path else name
        for path in head.module_names
        for name in modules[path].state_dict(keep_vars=True)
    )
    return frozenset(head.parameter_names) | frozenset(inside)


def draw_new_head(model: nn.Module, seed: int) -> None:
    """Give a model a new head of random weights, as its own class draws them.

    Args:
        model: Changed in place; all but the head stays as it is.
        seed: Seed for the draw; the global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # `remake` leaves the random state as it found it.
        fresh = remake(model, {}).state_dict()
    own = model.state_dict()
    for name in head_tensors(model):
        own[name].copy_(fresh[name])


def check_loaded(model: nn.Module, name: str, info: Mapping[str, Iterable[Any]]) -> bool:
    """Account for every weight that a checkpoint did not have, or had in another shape.

    A new head is what transfer learning starts with. Parameters that no forward pass uses, and a norm behind the
    blocks that some checkpoints leave out, are reported. Anything else would be random in the midst of pretrained
    layers.

    Args:
        model: As loaded.
        name: Name of the checkpoint, for the message.
        info: As `from_pretrained(output_loading_info=True)` returns it.

    Returns:
        Whether any part of the head is new.

    Raises:
        ModelError: Other weights than the head's are missing or have another shape.
    """
    missing = set(info["missing_keys"])
    other_shape = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    parameters = {parameter for parameter, _ in model.named_parameters()}
    wrapper, head = wrap(model), head_tensors(model)
    absent = (missing | other_shape) - head
    unused = absent & set(wrapper.unused_parameters)
    neck = (absent - other_shape) & {
        n for group in wrapper.layer_groups if group.role == "neck" for n in group.parameter_names
    }
    wrong = sorted((absent & parameters) - unused - neck)
    if wrong:
        raise ModelError(
            f"{name!r} lacks weights of {type(model).__name__} other than the head, which would be random: "
            f"{_few(wrong)}. Expected a complete pretrained checkpoint. Check that its config.json (model type, "
            "sizes) belongs to its weights."
        )
    for what, names in (("no forward pass uses", unused), ("stand behind the blocks", neck)):
        if names:
            logger.warning("%r lacks weights that %s; they are random now: %s.", name, what, _few(sorted(names)))
    if info["unexpected_keys"]:
        left = sorted(map(str, info["unexpected_keys"]))
        logger.info("%r has weights that this classifier does not use: %s.", name, _few(left))
    return bool((missing | other_shape) & head)


def _few(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
