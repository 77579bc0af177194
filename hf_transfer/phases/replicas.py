"""The replicas of a distributed run: kept equal when what is trained changes, and compared."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hf_transfer.errors import ReplicasDifferError
from hf_transfer.phases.unused_parameters import find_unused_parameters
from hf_transfer.utils.distributed import gather_from_ranks, is_distributed
from hf_transfer.utils.random_state import own_random_numbers

logger = logging.getLogger(__name__)


def rebuild_reducer(wrapped: nn.Module, ddp_handler: Any = None) -> bool:
    """Make DDP look again at what is trained; without that the ranks diverge without a word.

    DDP decides at construction which gradients it averages. It is constructed again in place, so that all who hold
    the wrapper (Trainer's loop, which passes it from epoch to epoch, accelerate, a compiled module) keep it, and
    a phase may begin in the middle of an epoch.

    Args:
        wrapped: What Trainer trains: the model, or the model in DDP, in a compiled module, or in both.
        ddp_handler: accelerate's settings of DDP.

    Returns:
        Whether there was a DDP to rebuild; FSDP and single processes need nothing.
    """
    ddp = getattr(wrapped, "_orig_mod", wrapped)
    if not isinstance(ddp, DistributedDataParallel):
        return False
    module, group, device_ids, output_device = ddp.module, ddp.process_group, ddp.device_ids, ddp.output_device
    # The old reducer takes its hooks off the parameters when nobody holds it any more; the logger holds it, too.
    del ddp.logger, ddp.reducer
    settings = {} if ddp_handler is None else ddp_handler.to_kwargs()
    DistributedDataParallel.__init__(ddp, module, device_ids, output_device, process_group=group, **settings)
    if ddp_handler is not None:
        ddp_handler.register_comm_hook(ddp)
    return True


def unused_of_samples(model: nn.Module, dataset: Any, collator: Any, device: torch.device) -> tuple[str, ...] | None:
    """Parameters that get no gradient from two images of the training data.

    Returns:
        Their names; None where that cannot be found out, as for streamed data and models without a loss. All processes
        get the same answer.
    """
    found: tuple[str, ...] | None = None
    try:
        with own_random_numbers():
            batch = collator([dataset[0], dataset[min(1, len(dataset) - 1)]])
            inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            found = find_unused_parameters(model, inputs)
    except Exception as error:  # whatever data set or model do, it is left to DDP then
        logger.info("Unused parameters could not be found beforehand: %s", error)
    answers = gather_from_ranks(found)
    if any(answer is None for answer in answers):
        return None
    return tuple(name for name in answers[0] if all(name in answer for answer in answers))


def copy_from_first_rank(tensors: Mapping[str, torch.Tensor]) -> None:
    """Give all processes the values of the first."""
    if not is_distributed():
        return
    for tensor in tensors.values():
        if not _is_sharded(tensor):
            dist.broadcast(tensor.detach(), src=0)


def check_replicas(tensors: Mapping[str, str], when: str) -> None:
    """Check that all processes hold the same tensors, bit for bit.

    Args:
        tensors: A digest of each tensor, by name.
        when: For the message: "after phase 'probe'".

    Raises:
        ReplicasDifferError: On every process; names the first tensor that differs.
    """
    if not is_distributed():
        return
    total = hashlib.blake2b("".join(f"{name}{digest}" for name, digest in tensors.items()).encode()).hexdigest()
    if len(set(gather_from_ranks(total))) == 1:
        return
    ranks = gather_from_ranks(dict(tensors))
    names = [n for n in ranks[0] if len({rank.get(n) for rank in ranks}) > 1]
    first = names[0] if names else "the set of parameters"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    raise ReplicasDifferError(
        f"The {len(ranks)} processes hold different weights {when}: {first}{more} differ. Something changes them on "
        "one process alone, such as a callback that depends on the rank or unfreezes layers behind DDP's back."
    )


def replicated(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out tensors that are sharded over the processes (FSDP2)."""
    return {name: tensor for name, tensor in tensors.items() if not _is_sharded(tensor)}


def _is_sharded(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "to_local")
