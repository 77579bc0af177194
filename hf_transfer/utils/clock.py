"""Time: measured on a device, and shown to people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device_time(device: torch.device) -> float:
    """The time in seconds when all work that a device was given is done, for differences."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def duration(seconds: float) -> str:
    """A measured time as a person reads it, such as "12.3 s", "4 min 5 s" or "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    if seconds < 3600:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"


def rough_duration(seconds: float) -> str:
    """An estimated time as a person reads it, such as "12 s", "4 min" or "2.2 h"."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
