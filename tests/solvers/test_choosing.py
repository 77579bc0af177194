"""The choice of a regularisation: downhill along the path, from its middle, without looking at all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hf_transfer.solvers.choosing import _along_path, _Look
from hf_transfer.solvers.head import PathPoint


def followed(losses: Sequence[float], patience: int) -> tuple[list[int], list[int], dict[int, int | None]]:
    """Places in the order of the path and of looking, and for each place the neighbour whose heads it began with."""
    order: list[int] = []
    starts: dict[int, int | None] = {}

    def look(place: float, start: Any) -> _Look:
        order.append(int(place))
        starts[int(place)] = start
        return _Look(PathPoint(place, 0.0, losses[int(place)]), Any, int(place))  # type: ignore[arg-type]

    found = _along_path(list(range(len(losses))), look, patience)
    return [int(each.point.value) for each in found], order, starts


@pytest.mark.parametrize("patience", [1, 2])
@pytest.mark.parametrize("least", range(9))
def test_the_least_loss_is_found_wherever_it_is(least: int, patience: int) -> None:
    """On a path with one valley; only as much is looked at as it takes to see the loss grow on both sides."""
    losses = [abs(place - least) + 0.0 for place in range(9)]
    path, order, starts = followed(losses, patience)
    assert path == sorted(order) and least in path
    assert max(path) <= max(least, 3) + patience
    assert min(path) >= min(least, 3) - patience
    assert [place for place, start in starts.items() if start is None] == [3]
    assert all(start is None or abs(place - start) == 1 for place, start in starts.items())


def test_noise_ends_the_way_as_late_as_asked() -> None:
    """A single value that is worse by chance ends an impatient search, and not one that waits for two."""
    losses = [9.0, 8.0, 7.0, 5.0, 5.5, 3.0, 2.0, 4.0, 6.0]
    assert followed(losses, patience=1)[0] == [2, 3, 4]
    assert followed(losses, patience=2)[0] == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_paths(length: int) -> None:
    """A path of a single value, or of a few, is followed to its ends."""
    path, order, _ = followed([1.0 / (place + 1) for place in range(length)], patience=1)
    assert length - 1 in path and len(order) == len(set(order))
