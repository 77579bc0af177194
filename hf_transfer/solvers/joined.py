"""A head on the features of several layers side by side: on all their channels, or on the leading axes of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_transfer.solvers import solve
from hf_transfer.solvers.head import LinearHead, SolvedHead
from hf_transfer.solvers.problem import ClassWeights, FloatArray, Problem
from hf_transfer.solvers.rotation import Rotation, rotate

# Axes of all layers together: layers repeat each other, and what is beyond costs more than it tells.
MOST_AXES = 1024
# With fewer images for an axis, nearly all axes of a layer are noise of the sample, and to bring them to one scale is
# to learn by heart: cross-validated accuracy is then better on the channels, and in the mean worse with more images
# (benchmarks/RESULTS.md).
_IMAGES_PER_AXIS = 5


def first_equals(parts: Sequence[FloatArray]) -> list[int]:
    """For each part, the position of the first that is equal: a pooling layer often gives just what the head reads."""
    found: list[int] = []
    for place, part in enumerate(parts):
        earlier = (
            at for at in sorted(set(found)) if part.shape == parts[at].shape and np.array_equal(part, parts[at])
        )
        found.append(next(earlier, place))
    return found


def distinct(parts: Sequence[FloatArray]) -> list[int]:
    """Positions of the parts that are equal to none before."""
    return sorted(set(first_equals(parts)))


def solve_joined(
    parts: Sequence[FloatArray],
    labels: Any,
    solver: str = "logistic",
    *,
    classes: int | None = None,
    class_weights: ClassWeights = None,
    seed: int = 0,
    known: Mapping[int, Rotation] | None = None,
) -> SolvedHead:
    """Fit a head to the features of several layers.

    Where there are images enough, the head is fitted to the leading axes of each layer, all brought to one scale, up
    to `MOST_AXES` in all: that takes a fraction of the time of all channels. The axes are folded into the head.

    Args:
        parts: The layers' features, each `(images, channels)`.
        labels: As in `hf_transfer.solvers.solve`, and so are the other arguments, but for `known`, and the errors.
        known: Rotations of parts by position, as `rotate(part, dtype=np.float32)` gives them.

    Returns:
        A head on all channels of all parts side by side.
    """

    def solved_on(features: FloatArray) -> SolvedHead:
        return solve(features, labels, solver, classes=classes, class_weights=class_weights, seed=seed)

    most = MOST_AXES // len(parts)
    if len(parts) == 1 or len(parts[0]) < _IMAGES_PER_AXIS * most:
        return solved_on(np.concatenate([np.asarray(part) for part in parts], axis=1))
    for part in parts:
        Problem.of(part, labels, classes, class_weights)  # unusable input is named before it is decomposed
    given = known or {}
    rotations = [
        _leading(given.get(place) or rotate(part, dtype=np.float32), most) for place, part in enumerate(parts)
    ]
    coordinates = np.concatenate([rotation.coordinates for rotation in rotations], axis=1)
    if not coordinates.shape[1]:  # all channels are constant
        return solved_on(np.concatenate([np.asarray(part) for part in parts], axis=1))
    solved = solved_on(coordinates)
    ends = np.cumsum([rotation.coordinates.shape[1] for rotation in rotations])
    weights = np.split(solved.head.weight.T, ends[:-1])
    zero = np.zeros(len(solved.head.bias))
    heads = [rotation.head(weight, zero) for rotation, weight in zip(rotations, weights, strict=True)]
    weight = np.concatenate([head.weight for head in heads], axis=1)
    bias = solved.head.bias + np.sum([head.bias for head in heads], axis=0)
    details = dict(solved.details) | {"leading_axes": int(ends[-1])}
    return replace(solved, head=LinearHead(weight, bias), details=details)


def _leading(rotation: Rotation, most: int) -> Rotation:
    """The leading axes alone; a copy, so that the coordinates along the others do not stay in memory."""
    return replace(
        rotation,
        axes=rotation.axes[:, :most],
        eigenvalues=rotation.eigenvalues[:most],
        coordinates=rotation.coordinates[:, :most].copy(),
    )
