"""Random numbers that go on as before after something else has drawn some."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def own_random_numbers(seed: int | None = None) -> Iterator[None]:
    """Random numbers of Python, NumPy and torch that start from a seed inside, and go on as before outside.

    Args:
        seed: None goes on inside as outside, too.
    """
    python, numpy, own = random.getstate(), np.random.get_state(), torch.get_rng_state()
    if seed is not None:
        seed_random_numbers(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(own)


def seed_random_numbers(seed: int) -> None:
    """Let the global random numbers of Python, NumPy and torch (on the CPU) start from a seed."""
    seed %= 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
