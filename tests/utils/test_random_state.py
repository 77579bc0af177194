"""hf_transfer.utils.random_state: what draws in between changes nothing afterwards."""

from __future__ import annotations

import random

import numpy as np
import torch

from hf_transfer.utils.random_state import own_random_numbers, seed_random_numbers


def _drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_numbers_continue_as_if_nothing_had_been_drawn() -> None:
    """Python, NumPy and torch; with a seed the numbers inside are always the same."""
    seed_random_numbers(3)
    expected = [_drawn(), _drawn()]
    seed_random_numbers(3)
    found = [_drawn()]
    inside = []
    for _ in range(2):
        with own_random_numbers(7, torch.device("cpu")):
            inside.append(_drawn())
    found.append(_drawn())
    assert found == expected and inside[0] == inside[1]


def test_without_a_seed_they_continue_inside() -> None:
    """The numbers inside are those that would have come next, and come again afterwards."""
    seed_random_numbers(3)
    with own_random_numbers():
        inside = _drawn()
    assert _drawn() == inside
