"""How a run uses the feature cache, and what was decided for each phase."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

CacheMode = Literal["auto", "on", "off"]
WORTHWHILE = 1.1


def pays(mode: CacheMode, gain: float) -> bool:
    """Whether a phase is to use the cache, given how many times as fast it should become; "on" takes any gain."""
    return mode != "auto" or gain >= WORTHWHILE


@dataclass(frozen=True)
class CacheSettings:
    """How a run uses the feature cache.

    Attributes:
        mode: "auto" where it pays, "on" wherever it is possible, "off" never.
        cap_gb: Most that the cache folder may take, in GB; None takes the default.
        views: Stored views of each image where the transform is random; 0 stores nothing then.
        seed: Seed for the views.
        workers: Processes that read images.
        autocast: Type of mixed precision; None for none.
        progress: Show a bar.
        folder: None takes the default.
    """

    mode: CacheMode = "auto"
    cap_gb: float | None = None
    views: int = 0
    seed: int = 0
    workers: int = 0
    autocast: torch.dtype | None = None
    progress: bool = True
    folder: str | Path | None = None


@dataclass(frozen=True)
class CacheDecision:
    """What was decided for a phase; part of the run's record.

    Attributes:
        phase: Its name.
        used: Whether the frozen part is computed once.
        reason: Why not, or how.
        cut: Module that the stored tensors are fed to.
        images: Number of training images.
        views: Stored views of each image.
        megabytes: Size of the store of the training images.
        epochs: Length of the phase.
        expected_speed_up: How many times as fast the phase should become, from costs measured on a few images; None
            where the store was there and nothing had to be measured.
        reused: Whether the store was there already.
        extraction_seconds: What filling it took.
    """

    phase: str
    used: bool
    reason: str
    cut: str | None = None
    images: int = 0
    views: int = 0
    megabytes: float = 0.0
    epochs: float = 0.0
    expected_speed_up: float | None = None
    reused: bool = False
    extraction_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.used:
            return f"Phase {self.phase!r}: the frozen part is computed in every epoch; {self.reason}."
        gain = f", about {self.expected_speed_up:.1f} times as fast" if self.expected_speed_up else ""
        views = f" in {self.views} views" if self.views > 1 else ""
        return (
            f"Phase {self.phase!r}: what is in front of {self.cut} is computed once for {self.images:,} images{views} "
            f"({self.megabytes:,.1f} MB, {self.reason}); {self.epochs:.3g} epochs{gain}."
        )
