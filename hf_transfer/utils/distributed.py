"""What the processes of a run must do together; in a single process all of it is nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate.utils import gather_object
from torch import distributed

Value = TypeVar("Value")


def rank_and_world() -> tuple[int, int]:
    """Number of this process, and of all."""
    ready = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if ready else (0, 1)


def barrier() -> None:
    """Wait for all processes."""
    if rank_and_world()[1] > 1:
        distributed.barrier()


def from_first(value: Value) -> Value:
    """The first process's value, in all."""
    if rank_and_world()[1] == 1:
        return value
    box: list[Any] = [value]
    distributed.broadcast_object_list(box, src=0)
    first: Value = box[0]
    return first


def first_reason(reason: str | None) -> str | None:
    """The reason of the first process that has one, in all."""
    world = rank_and_world()[1]
    if world == 1:
        return reason
    found: list[Any] = [None] * world
    distributed.all_gather_object(found, reason)
    return next((each for each in found if each is not None), None)


def on_first_rank(compute: Callable[[], Value]) -> Value:
    """The first process's result, in all: the last digits of a solver may differ between machines."""
    rank, world = rank_and_world()
    if world == 1:
        return compute()
    result: list[Any] = [None]
    if rank == 0:
        try:
            result = [compute()]
        except Exception as error:  # all ranks must raise, or the others wait for ever
            result = [error]
    result = from_first(result)
    if isinstance(result[0], Exception):
        raise result[0]
    found: Value = result[0]
    return found


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gather_from_ranks(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks; all processes must call it."""
    gathered: list[Any] = gather_object([value]) if is_distributed() else [value]
    return gathered
