"""Layers spread over the depth of a network: enough to see where features are best, few enough to keep them all."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from hf_transfer.errors import ArgumentError
from hf_transfer.features.taps import LAST, TapReader

DEPTHS = 12
"""Most layers that are looked at, the last one not counted: neighbouring blocks differ little."""


def layers_at_depths(model: nn.Module, depths: int = DEPTHS) -> tuple[str, ...]:
    """Layers evenly spread over the groups before the head, the first and the last of them included, and "last"."""
    if depths < 1:
        raise ArgumentError(f"depths must be at least 1, found {depths}.")
    body = [name for name in TapReader(model, "all").names if name != LAST]
    places: npt.NDArray[np.integer[Any]] | list[int] = (
        np.unique(np.rint(np.linspace(0, len(body) - 1, min(depths, len(body)))).astype(int)) if body else []
    )
    return (*(body[place] for place in places), LAST)
