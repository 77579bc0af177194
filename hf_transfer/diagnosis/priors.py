"""What is assumed of fine-tuning before it was tried: its gain by the number of images, and the settings it takes.

A linear classifier is measured by fitting it; fine-tuning could only be measured by training. What it gains is
therefore an assumption, kept in one small table so that it can be looked at, and be replaced by trials (`budget`).

Source: `benchmarks/candidates.py` and `benchmarks/candidate_settings.py`: runs of EfficientNet-Lite0 at 96 pixels on
clothes (Fashion-MNIST) and on animals, three seeds each. It is one network and two data sets; other networks may gain
more or less. What each row rests on is said next to it, and rows that say nothing were not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class GainPrior:
    """What fine-tuning is expected to take away of the errors of a linear classifier on the last layer.

    Attributes:
        images_per_class: Number of training images of each class.
        last_part: Where the last half of the blocks is trained.
        all_layers: Where all layers are trained.
    """

    images_per_class: float
    last_part: float
    all_layers: float


GAINS = (
    GainPrior(5, 0.0, 0.0),
    # The last half 0.23 on clothes and 0.28 on animals; all layers, without the mean of the weights, 0.15 and 0.15.
    GainPrior(10, 0.25, 0.25),
    # The last half 0.24 and 0.46; all layers, without the mean, 0.20 and 0.40.
    GainPrior(50, 0.35, 0.35),
    # The last half 0.31 and 0.57, all layers 0.28 and 0.55; no mean is taken there.
    GainPrior(200, 0.40, 0.40),
    # Not measured: that all layers gain more where data are many is CS231n's advice.
    GainPrior(1000, 0.40, 0.50),
)
"""Rows in between are interpolated in the logarithm of the images of each class; outside, the nearest one holds."""
GAIN_ERROR = 0.10
"""Standard error of a share in the table: how far single runs were from it."""
UNSHARED = 0.7
"""Standard error of the difference between two columns of the table, over `GAIN_ERROR`: single runs on 1,000 test
images do not tell a smaller one."""

BATCH_SIZE = 16
"""Images in a step."""
_LENGTHS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"last_part": (6, 384), "most": (6, 384), "all_layers": (4, 256)}
)
"""Fewest epochs, and fewest steps: few images are seen more often. The last half takes more, for its steps are cheap:
without augmentation, what is frozen is computed once."""
COST_OF_PART = 0.4
"""What an epoch of a part costs, over one of all layers: its frozen part is computed once."""
ARGUMENTS: Mapping[str, Any] = MappingProxyType(
    {"train_batch_size": BATCH_SIZE, "weight_decay": 0.05, "lr_scheduler_type": "cosine", "warmup_steps": 0.1}
)
PARTS: Mapping[str, str] = MappingProxyType({"last_part": "part:half", "most": "part:most", "all_layers": "all"})
RATE, LOW_RATE = 1e-3, 3e-4
"""Learning rates that are tried. Half the first one gained nothing over the solved head in so few steps, where it did
not undo that head."""
_AVERAGED_AFTER, _EARLIEST, _HALF = 3, 0.1, 0.5
"""Epochs after which the mean of the weights is taken, at the earliest from the end of the warm-up on: before, the
network has not seen the images often enough to fit them. Of a training of up to twice as many epochs it is that of the
second half.
On images that were neither trained nor tested on, it is 3 points better with 10 images a class of clothes and 7 of
animals (`benchmarks/weight_averaging.py`); with 150 a mean from a tenth on was 2 points worse."""
_LAYER_DECAY = 0.85
"""For fine-tuning of all layers: without it 0.8 points worse at 200 images a class on clothes, 0.5 on animals."""


def expected_gain(images_per_class: float, part: str) -> float:
    """Expected share of the errors that fine-tuning takes away; never falls with the number of images.

    Args:
        images_per_class: Training images of each class.
        part: "last_part", "most" or "all_layers".
    """
    column = "all_layers" if part == "all_layers" else "last_part"
    rows = [(math.log(row.images_per_class), float(vars(row)[column])) for row in GAINS]
    at = math.log(max(images_per_class, 1.0))
    for (low, below), (high, above) in pairwise(rows):
        if at <= high:
            return below + (above - below) * max(at - low, 0.0) / (high - low)
    return rows[-1][1]


def epochs(images: int, part: str = "all_layers") -> int:
    """Epochs of fine-tuning."""
    fewest, steps = _LENGTHS[part]
    return max(fewest, math.ceil(steps / math.ceil(images / BATCH_SIZE)))


def lp_ft_options(part: str, images: int, rate: float = RATE) -> dict[str, Any]:
    """Options of the recipe `lp_ft`.

    Args:
        part: One of `PARTS`.
        images: Training images.
        rate: Learning rate of pretrained layers and head.
    """
    length = epochs(images, part)
    options = {"epochs": length, "learning_rate": rate, "head_lr_ratio": 1.0, "average_from": average_from(length)}
    decay = {"layer_decay": _LAYER_DECAY} if part == "all_layers" else {}
    return {"train": PARTS[part], **options, **decay}


def average_from(length: int) -> float:
    """The share of a training's epochs from which on weights are averaged."""
    return _HALF if length <= 2 * _AVERAGED_AFTER else max(round(_AVERAGED_AFTER / length, 2), _EARLIEST)


def from_scratch_options(images: int) -> dict[str, Any]:
    """Options of the recipe `from_scratch`."""
    return {"epochs": epochs(images), "learning_rate": 1e-3}
