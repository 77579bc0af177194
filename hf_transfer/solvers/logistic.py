"""Multinomial logistic regression with an L2 penalty: the head that minimises the training loss itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_transfer.solvers.choosing import solve_convex
from hf_transfer.solvers.convex import SoftmaxLoss
from hf_transfer.solvers.head import SolvedHead
from hf_transfer.solvers.problem import Problem
from hf_transfer.solvers.ridge import checked_regularisations
from hf_transfer.solvers.rotation import Rotation
from hf_transfer.solvers.scaling import Scaling

REGULARISATIONS = tuple(float(10.0**exponent) for exponent in np.arange(1.0, -6.5, -0.5))


def logistic(
    problem: Problem,
    regularisations: Sequence[float] = REGULARISATIONS,
    *,
    bias: bool = True,
    seed: int = 0,
    folds: int = 5,
    tolerance: float = 1e-5,
    rotation: Rotation | None = None,
    scaling: Scaling = "auto",
) -> SolvedHead:
    """Fit a head by logistic regression, with the regularisation of the least cross-validated cross-entropy.

    Minimises the mean cross-entropy plus `regularisation / 2 * |weight|**2` on scaled features; scikit-learn's
    `LogisticRegression` calls `1 / (regularisation * images)` C. The path is followed from its middle to where
    held-out loss grows again.

    Args:
        problem: Features and labels.
        regularisations: To choose from.
        bias: Whether the head has a bias, which is not penalised.
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
        SoftmaxLoss(), "logistic", problem, values,
        bias=bias, seed=seed, folds=folds, tolerance=tolerance, rotation=rotation, scaling=scaling, calibrate=False,
    )  # fmt: skip
