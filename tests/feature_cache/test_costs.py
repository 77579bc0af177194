"""What storing the frozen part saves, from the costs of its parts."""

from __future__ import annotations

import pytest

from hf_transfer.feature_cache.costs import Costs, row_seconds, speed_up


@pytest.mark.parametrize(
    ("costs", "epochs", "views", "missing", "expected"),
    [
        (Costs(1, 9, 30, 0), 10, 1, 1.0, 400 / 310),  # a store saves nine of ten prefixes
        (Costs(1, 9, 0, 0), 10, 1, 1.0, 10.0),  # a probe: as often as there are epochs
        (Costs(1, 9, 0, 0), 10, 2, 1.0, 5.0),  # two views are two passes
        (Costs(1, 9, 30, 0), 1, 1, 1.0, 1.0),  # one epoch gains nothing
        (Costs(1, 9, 30, 0), 1, 1, 0.0, 40 / 30),  # unless the store is there
        (Costs(1, 9, 0, 20), 10, 1, 0.5, 100 / 205),  # reading back may be dearer than computing
    ],
)
def test_speed_up(costs: Costs, epochs: float, views: int, missing: float, expected: float) -> None:
    """The ratio of the costs without and with a store, to the little that the loop itself takes."""
    assert speed_up(costs, epochs, views, missing) == pytest.approx(expected, rel=1e-3)


def test_a_store_larger_than_memory_is_read_from_disk() -> None:
    """Half of the memory is what the system is taken to keep."""
    assert row_seconds(10**6, 4 * 10**9, 10**10) == pytest.approx(1e-3)
    assert row_seconds(10**6, 6 * 10**9, 10**10) == pytest.approx(5e-3)
