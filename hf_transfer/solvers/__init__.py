"""Exact linear heads on features: ridge regression, logistic regression, linear SVM, and a grid of SGD heads.

Pure functions of arrays: nothing here knows a model. All take a `Problem` and give a `SolvedHead`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from hf_transfer.errors import ArgumentError
from hf_transfer.solvers.head import LinearHead, PathPoint, SolvedHead
from hf_transfer.solvers.logistic import logistic
from hf_transfer.solvers.problem import ClassWeights, Problem, stratified_folds
from hf_transfer.solvers.ridge import ridge, ridge_held_out
from hf_transfer.solvers.rotation import Rotation
from hf_transfer.solvers.scaling import Scaling
from hf_transfer.solvers.sgd_grid import sgd_grid
from hf_transfer.solvers.svm import svm

__all__ = [
    "SOLVERS",
    "ClassWeights",
    "LinearHead",
    "PathPoint",
    "Problem",
    "Scaling",
    "SolvedHead",
    "Solver",
    "logistic",
    "ridge",
    "ridge_held_out",
    "sgd_grid",
    "solve",
    "stratified_folds",
    "svm",
]

Solver = Literal["logistic", "svm", "ridge", "sgd"]
SOLVERS: Mapping[str, Callable[..., SolvedHead]] = {
    "logistic": logistic,
    "svm": svm,
    "ridge": ridge,
    "sgd": sgd_grid,
}
# A class without images gets a score so far below the lowest that no softmax shows it.
_NEVER = 10.0


def solve(
    features: Any,
    labels: Any,
    solver: str = "logistic",
    *,
    classes: int | None = None,
    class_weights: ClassWeights = None,
    bias: bool = True,
    seed: int = 0,
    rotation: Rotation | None = None,
    scaling: Scaling = "auto",
) -> SolvedHead:
    """Fit a linear head to features, with whatever the solver chooses chosen on held-out images.

    Args:
        features: `(images, channels)`, finite; may be mapped from a disk.
        labels: `(images,)`: class indices.
        solver: "logistic", "svm", "ridge" or "sgd".
        classes: Number of classes; None takes the highest label's. A class without images gets weights of zero and
            is never predicted.
        class_weights: None, "balanced", or a mapping from class index to weight.
        bias: Whether the head has a bias.
        seed: Seed for all random draws: the same seed gives the same head.
        rotation: Rotation of the features, as "logistic" and "svm" make it, where it is known; other solvers make
            their own.
        scaling: See `hf_transfer.solvers.scaling.powers_of`; "sgd" standardises.

    Raises:
        ArgumentError: The solver is unknown, or an argument is not as described.
        DataError: A feature is not finite, a label is none of the classes, there are fewer than two classes, or no
            class has two images.
    """
    if solver not in SOLVERS:
        raise ArgumentError(f"The solvers are {', '.join(SOLVERS)}; found {solver!r}.")
    problem = Problem.of(features, labels, classes, class_weights)
    present, compact = np.unique(problem.labels, return_inverse=True)
    reduced = replace(problem, labels=compact, classes=len(present), class_weights=problem.class_weights[present])
    known: dict[str, Any] = {} if solver == "sgd" else {"scaling": scaling}
    if solver in ("logistic", "svm"):
        known["rotation"] = rotation
    solved = SOLVERS[solver](reduced, bias=bias, seed=seed, **known)
    if len(present) < problem.classes:
        solved = replace(solved, head=_spread(solved.head, problem, present, bias))
    return replace(solved, class_weights=class_weights)


def _spread(head: LinearHead, problem: Problem, present: Any, bias: bool) -> LinearHead:
    """The head of the classes with images as one of all classes."""
    weight = np.zeros((problem.classes, head.weight.shape[1]))
    lowest = float(head.scores(problem.features).min()) - _NEVER if bias else 0.0
    offset = np.full(problem.classes, lowest)
    weight[present], offset[present] = head.weight, head.bias
    return LinearHead(weight, offset)
