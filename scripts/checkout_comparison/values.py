"""Exact differences of nested values: a number differs unless all of its bits are the same."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

_LONGEST = 120


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """All places in which two nested values differ, in words.

    Mappings are compared by key, whatever their order; sequences by position. Tensors and arrays must agree in dtype,
    shape and every bit, so that NaN equals the same NaN and 0.0 is not -0.0. An int is not the float of its value.

    Args:
        old: Mappings, sequences, tensors, arrays and plain values.
        new: The same.
        where: Name of the whole, which each line begins with.

    Returns:
        One line for each difference; empty where there is none.
    """
    return list(_differences(old, new, where))


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _of_mappings(old, new, where)
    elif isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        yield from _of_tensors(old, new, where)
    elif type(old) is not type(new):
        yield f"{where}: {_shown(old)} ({type(old).__name__}) became {_shown(new)} ({type(new).__name__})"
    elif isinstance(old, np.ndarray):
        yield from _of_arrays(old, new, where)
    elif isinstance(old, Sequence) and not isinstance(old, str | bytes):
        yield from _of_sequences(old, new, where)
    elif isinstance(old, float):
        if struct.pack("<d", old) != struct.pack("<d", new):
            yield f"{where}: {old!r} became {new!r}"
    elif old != new:
        yield f"{where}: {_shown(old)} became {_shown(new)}"


def _of_mappings(old: Mapping[Any, Any], new: Mapping[Any, Any], where: str) -> Iterator[str]:
    for key in dict.fromkeys((*old, *new)):
        place = f"{where}.{key}" if where else str(key)
        if key not in new:
            yield f"{place}: only in old, {_shown(old[key])}"
        elif key not in old:
            yield f"{place}: only in new, {_shown(new[key])}"
        else:
            yield from _differences(old[key], new[key], place)


def _of_sequences(old: Sequence[Any], new: Sequence[Any], where: str) -> Iterator[str]:
    if len(old) != len(new):
        yield f"{where}: {len(old)} items became {len(new)}"
    for index, (first, second) in enumerate(zip(old, new, strict=False)):
        yield from _differences(first, second, f"{where}[{index}]")


def _of_tensors(old: torch.Tensor, new: torch.Tensor, where: str) -> Iterator[str]:
    if old.dtype != new.dtype or old.shape != new.shape:
        yield f"{where}: {old.dtype} {tuple(old.shape)} became {new.dtype} {tuple(new.shape)}"
        return
    first, second = (value.detach().cpu().contiguous().reshape(-1) for value in (old, new))
    if not torch.equal(first.view(torch.uint8), second.view(torch.uint8)):
        yield f"{where}: {_spread(first.double().numpy(), second.double().numpy())}"


def _of_arrays(old: np.ndarray[Any, Any], new: np.ndarray[Any, Any], where: str) -> Iterator[str]:
    if old.dtype != new.dtype or old.shape != new.shape:
        yield f"{where}: {old.dtype} {old.shape} became {new.dtype} {new.shape}"
    elif old.tobytes() != new.tobytes():
        numbers = np.issubdtype(old.dtype, np.number)
        yield f"{where}: {_spread(old.ravel(), new.ravel()) if numbers else 'other values'}"


def _spread(old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> str:
    """How many numbers differ and by how much."""
    apart = np.abs(old.astype(np.float64) - new.astype(np.float64))
    known = apart[np.isfinite(apart)]
    largest = f"{known.max():.3g}" if known.size else "not finite"
    return f"{int((apart != 0).sum())} of {old.size} values differ, the largest difference is {largest}"


def _shown(value: Any) -> str:
    text = f"tensor {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
