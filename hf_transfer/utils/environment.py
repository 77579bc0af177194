"""Versions, hardware and time, as a record states them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RECORDED = (
    *("torch", "torchvision", "transformers", "timm", "datasets", "accelerate", "evaluate", "huggingface_hub"),
    "hf_transfer_learning",
)
"""Distributions that a result depends on; records and cards state their versions."""
COMPUTING = ("torch", "torchvision", "transformers", "timm", "pillow", "numpy")
"""Distributions whose versions change pixels or features in the last digits; the feature store keeps them apart."""


def utc_now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """Versions of distributions by name, without those that are not installed."""
    versions = {}
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def collect_versions() -> dict[str, str]:
    """Versions of Python and of what is `RECORDED`."""
    return {"python": platform.python_version()} | versions_of(RECORDED)


def collect_hardware(world_size: int = 1, device: str | None = None) -> dict[str, Any]:
    """What the run runs on, without the names of host and user.

    Args:
        world_size: Number of processes that train.
        device: Type of the device in use, such as `trainer.args.device.type`; None takes the accelerator that torch
            finds, else "cpu".

    Returns:
        "device", "processor" (its model where the system tells it, else its architecture), "cores" that this process
        may use, "accelerators" (names of those visible; empty on a CPU) and "world_size"; "machines" where these are
        several.
    """
    import torch

    if device is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        device = "cpu" if found is None else found.type
    # As torchrun and accelerate tell each process.
    machines = world_size // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or world_size))
    return {
        "device": device,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "accelerators": _accelerators(device),
        "world_size": world_size,
    } | ({"machines": machines} if machines > 1 else {})


def _processor() -> str:
    # On Linux platform.processor() gives the architecture or nothing.
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, models), "") or platform.processor() or platform.machine()


def _accelerators(device: str) -> list[str]:
    import torch

    if device == "cpu":
        return []
    backend = getattr(torch, device, None)
    count = getattr(backend, "device_count", lambda: 1)()
    named = getattr(backend, "get_device_name", None)
    return [named(index) if named is not None else device for index in range(count)]
