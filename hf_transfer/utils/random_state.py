"""Random numbers that are preserved while something else draws some."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def own_random_numbers(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """Random numbers of Python, NumPy and torch that start from a seed inside, and continue as before outside.

    Args:
        seed: None continues inside as outside, too.
        device: An accelerator whose random numbers are preserved as well; they continue inside. None, or a CPU: none.
    """
    python, numpy, own = random.getstate(), np.random.get_state(), torch.get_rng_state()
    if seed is not None:
        seed_random_numbers(seed)
    forked: Any = contextlib.nullcontext()
    if device is not None and device.type != "cpu":
        forked = torch.random.fork_rng([device], device_type=device.type)
    try:
        with forked:
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
