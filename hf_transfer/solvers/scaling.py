"""By which power of its standard deviation each channel is divided before a head is penalised.

A penalty treats all channels alike, so that their scale says how much each may count. To bring all to one scale helps
where channels have different units, and makes as much of noise as of the rest where a deviation of few images is
itself noise; the square root lies between. All are folded into the head: the checkpoint stays an ordinary one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from hf_transfer.errors import ArgumentError

Scaling = Literal["auto", "sqrt", "none", "standard"]
# In the order in which they are tried: the first is the best or near it on most features (benchmarks/RESULTS.md).
POWERS: Mapping[str, float] = {"sqrt": 0.5, "none": 0.0, "standard": 1.0}


def powers_of(scaling: Scaling) -> tuple[float, ...]:
    """The powers that a scaling leaves to choose from.

    Args:
        scaling: "standard" divides each channel by its standard deviation, "sqrt" by the root of that, "none" all by
            the same number; "auto" chooses among these on held-out images.

    Raises:
        ArgumentError: It is none of these.
    """
    if scaling not in get_args(Scaling):
        raise ArgumentError(f"scaling is one of {', '.join(get_args(Scaling))}; found {scaling!r}.")
    return tuple(POWERS.values()) if scaling == "auto" else (POWERS[scaling],)


def name_of(power: float) -> str:
    """The scaling that has this power."""
    return next(name for name, value in POWERS.items() if value == power)
