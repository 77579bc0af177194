"""Linear support vector machine: squared hinge, one class against the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_transfer.solvers.choosing import solve_convex
from hf_transfer.solvers.convex import SquaredHingeLoss
from hf_transfer.solvers.head import SolvedHead
from hf_transfer.solvers.problem import Problem
from hf_transfer.solvers.ridge import checked_regularisations
from hf_transfer.solvers.rotation import Rotation
from hf_transfer.solvers.scaling import Scaling

SVM_REGULARISATIONS = tuple(float(10.0**exponent) for exponent in np.arange(2.0, -4.5, -0.5))


def svm(
    problem: Problem,
    regularisations: Sequence[float] = SVM_REGULARISATIONS,
    *,
    bias: bool = True,
    seed: int = 0,
    folds: int = 5,
    tolerance: float = 1e-5,
    rotation: Rotation | None = None,
    scaling: Scaling = "auto",
) -> SolvedHead:
    """Fit a linear SVM, with the regularisation of the best cross-validated accuracy.

    Minimises the mean squared hinge, summed over classes, plus `regularisation / 2 * |weight|**2` on scaled
    features; liblinear and scikit-learn's `LinearSVC` call `1 / (regularisation * images)` C, and penalise the bias,
    which is free here. All classes are fitted at once in the primal, where liblinear takes minutes for a hundred.

    Margins are no probabilities: scores are divided by a temperature that fits held-out labels, so that the
    checkpoint's softmax means something. Decisions do not change by it.

    Args:
        problem: Features and labels.
        regularisations: To choose from.
        bias: Whether the head has a bias.
        seed: Seed for the folds.
        folds: Number of cross-validation folds; twice as many, repeatedly, where images are few.
        tolerance: Tolerance of the last fit; see `hf_transfer.solvers.convex.minimise`.
        rotation: Rotation of the features, where it is known: `rotate(features, bias=bias, dtype=np.float32)`.
        scaling: See `hf_transfer.solvers.scaling.powers_of`.

    Raises:
        ArgumentError: A regularisation is not positive, or features are too many for a decomposition.
        DataError: Nothing can be held out.
    """
    values = checked_regularisations(regularisations)
    return solve_convex(
        SquaredHingeLoss(), "svm", problem, values,
        bias=bias, seed=seed, folds=folds, tolerance=tolerance, rotation=rotation, scaling=scaling, calibrate=True,
    )  # fmt: skip
