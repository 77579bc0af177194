"""The two axes of CS231n's four cases, similarity and size, and the scenario that they give.

Source: https://cs231n.github.io/transfer-learning/
"""

from __future__ import annotations

from typing import Literal

from hf_transfer.diagnosis.measurements import MeasuredInterval, Measurements

UNDECIDED: Literal["undecided"] = "undecided"
SCENARIOS = {
    1: "small data, similar to the pretraining",
    2: "large data, similar to the pretraining",
    3: "small data, different from the pretraining",
    4: "large data, different from the pretraining",
}

SMALL_PER_CLASS = 20.0
"""Below this number of images of each class data are small: the slope cannot be measured on so few."""
SMALL_IMAGES = 1_000
"""Below this number of images data are small. Source: https://arxiv.org/abs/1910.04867 (VTAB-1k)"""
LARGE_IMAGES = 20_000
"""From this number of images on data are large. Source: https://arxiv.org/abs/1912.11370 (BiT-HyperRule)"""
FLAT_SLOPE = 0.10
"""A linear classifier that loses a smaller share of its errors by twice the images is not short of images."""
NARROW_GAP = 0.05
"""Nor is one that is hardly better on the images that it was fitted to than on others."""
_NORMAL = 1.96


def is_similar(measurements: Measurements) -> bool | None:
    """Whether the images are similar to those of the pretraining; None where the measurements do not tell.

    Similar: the last layer is surely better than any layer of the network with random weights. Different: it is
    surely not; or it is not surely so, and an earlier layer of the pretrained network is surely better than it, where
    CS231n advises activations from earlier in the network. The second sign is needed because how good random features
    are depends on the draw: with it at least nine of ten samples of gratings are found different from shapes
    (tests/diagnosis/test_controlled.py), without it five or six were. Alone it is none: an earlier layer beats the
    last for EfficientNet-Lite0 on photographs of animals, which ImageNet has as well, as much as on clothes
    (`benchmarks/RESULTS.md`).
    """
    gain, earlier = measurements.gain_over_random, measurements.gain_of_earlier
    if not measurements.pretrained or gain is None:
        return None
    if gain.low > 0:
        return True
    if gain.high <= 0 or (earlier is not None and earlier.low > 0):
        return False
    return None


def is_large(measurements: Measurements) -> bool | None:
    """Whether more images would not help; None where neither their number nor the measurements tell.

    The number decides first, so that the data are the same for all networks: few images of each class or in all are
    small, very many are large. Between them slope and gap decide, where the intervals of both are clear and agree.
    """
    if measurements.images_per_class < SMALL_PER_CLASS or measurements.images < SMALL_IMAGES:
        return False
    if measurements.images >= LARGE_IMAGES:
        return True
    slope, gap = measurements.slope, gap_interval(measurements)
    if slope is None:
        return None
    if slope.high <= FLAT_SLOPE and gap.high <= NARROW_GAP:
        return True
    return False if slope.low > FLAT_SLOPE and gap.low > NARROW_GAP else None


def gap_interval(measurements: Measurements) -> MeasuredInterval:
    """By how much the classifier is better on the images it was fitted to, with the error of the held-out accuracy."""
    half = _NORMAL * max((point.standard_error for point in measurements.curve[-1:]), default=0.0)
    gap = measurements.gap
    return MeasuredInterval(gap, gap - half, gap + half)


def scenario(measurements: Measurements) -> Literal[1, 2, 3, 4, "undecided"]:
    """CS231n's case; "undecided" where similarity or size are not known."""
    similar, large = is_similar(measurements), is_large(measurements)
    if similar is None or large is None:
        return UNDECIDED
    if similar:
        return 2 if large else 1
    return 4 if large else 3


def what_is_known(measurements: Measurements) -> str:
    """Size and similarity in words, each known or not."""
    size = {True: "large data", False: "small data", None: "size not clear"}[is_large(measurements)]
    similar = is_similar(measurements)
    kind = {True: "similar to the pretraining", False: "different from the pretraining", None: "similarity not clear"}
    return f"{size}, {kind[similar]}"
