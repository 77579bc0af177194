"""Which layer a solved head reads, judged by held-out images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_transfer.solvers import ClassWeights, Problem, ridge_held_out
from hf_transfer.solvers.ridge import RIDGE_REGULARISATIONS


@dataclass(frozen=True)
class LayerEvidence:
    """How well a ridge classifier on one layer does on held-out images.

    Attributes:
        layer: Name of the group, or "last".
        accuracy: Held-out accuracy.
        behind_best: By how much it is behind the best layer's.
        standard_error: Standard error of that difference, over the same images.
    """

    layer: str
    accuracy: float
    behind_best: float
    standard_error: float


@dataclass(frozen=True)
class LayerChoice:
    """Which layer the head reads, and why.

    Attributes:
        asked: "auto", "last", "all" or a group's name.
        layer: What the head reads: "last", or the group that the model was truncated after; with a probe file any
            group, or "all".
        reason: In words.
        evidence: By layer, from input to output; empty where none was gathered.
    """

    asked: str
    layer: str
    reason: str
    evidence: tuple[LayerEvidence, ...] = ()


def judge_layers(
    features: Mapping[str, Any],
    labels: Any,
    classes: int | None = None,
    class_weights: ClassWeights = None,
    seed: int = 0,
) -> tuple[LayerEvidence, ...]:
    """Held-out accuracy of a ridge classifier on each layer, compared with the best over the same images.

    Args:
        features: By layer, from input to output, `(images, channels)`.
        labels: `(images,)`.
        classes: Number of classes.
        class_weights: See `hf_transfer.solvers.solve`.
        seed: Seed for the folds, where images are few.
    """
    right = {}
    for name, values in features.items():
        problem = Problem.of(values, labels, classes, class_weights)
        held_out = ridge_held_out(problem, RIDGE_REGULARISATIONS, seed=seed)
        hits = (held_out.scores.argmax(axis=2) == problem.labels)[:, held_out.rows]
        weights = problem.image_weights[held_out.rows]
        right[name] = hits[np.average(hits, axis=1, weights=weights).argmax()]
    accuracies = {name: float(np.average(hits, weights=weights)) for name, hits in right.items()}
    best = max(accuracies, key=lambda name: accuracies[name])
    found = []
    for name, hits in right.items():
        difference = right[best].astype(float) - hits
        mean = float(np.average(difference, weights=weights))
        variance = float(np.average((difference - mean) ** 2, weights=weights))
        found.append(LayerEvidence(name, accuracies[name], mean, float(np.sqrt(variance / len(hits)))))
    return tuple(found)


def latest_within_one_error(evidence: Sequence[LayerEvidence]) -> str:
    """The layer closest to the output that is at most one standard error behind the best."""
    return next(e.layer for e in reversed(evidence) if e.behind_best <= e.standard_error)
