"""Exact minimisation of convex losses of a linear head, for a path of regularisations, with warm starts."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.optimize

from hf_transfer.errors import DataError
from hf_transfer.solvers.problem import FloatArray, IntArray, blocks
from hf_transfer.solvers.rotation import Rotation

logger = logging.getLogger(__name__)

MAX_ITERATIONS = 2000


class HeadLoss(ABC):
    """A convex loss of scores, summed over images."""

    name: str
    # An upper bound of the second derivative in a score, which sets the scale of L-BFGS's first step.
    curvature: float
    # Whether its held-out value is what to choose by: less noisy than accuracy, where it measures probabilities.
    choose_by_loss: bool

    @abstractmethod
    def value_and_gradient(
        self, scores: FloatArray, labels: IntArray, weights: FloatArray
    ) -> tuple[float, FloatArray]:
        """Weighted sum of the loss, and its gradient `(images, classes)` in the scores."""


class SoftmaxLoss(HeadLoss):
    """Cross-entropy of the softmax: multinomial logistic regression."""

    name = "cross-entropy"
    curvature = 0.25
    choose_by_loss = True

    def value_and_gradient(
        self, scores: FloatArray, labels: IntArray, weights: FloatArray
    ) -> tuple[float, FloatArray]:
        rows = np.arange(len(labels))
        # One exponential for value and gradient: next to a few classes it is what costs.
        shifted = scores - scores.max(axis=1, keepdims=True)
        gradient = np.exp(shifted)
        total = gradient.sum(axis=1)
        value = float(weights @ (np.log(total) - shifted[rows, labels]))
        gradient *= (weights / total)[:, None]
        gradient[rows, labels] -= weights
        return value, gradient


class SquaredHingeLoss(HeadLoss):
    """Squared hinge of one class against the rest, summed over classes: a linear SVM as in liblinear."""

    name = "squared hinge"
    curvature = 2.0
    choose_by_loss = False

    def value_and_gradient(
        self, scores: FloatArray, labels: IntArray, weights: FloatArray
    ) -> tuple[float, FloatArray]:
        signs = np.where(labels[:, None] == np.arange(scores.shape[1]), scores.dtype.type(1), scores.dtype.type(-1))
        slack = np.maximum(1 - signs * scores, 0)
        value = float(weights @ (slack**2).sum(axis=1))
        return value, -2 * signs * slack * weights[:, None]


@dataclass(frozen=True)
class Fits:
    """Minima on rotated features, of one head or of several.

    Attributes:
        weight: `(rank, heads, classes)`.
        bias: `(heads, classes)`.
        objective: Sum of their values.
        iterations: Number of iterations of L-BFGS.
        converged: Whether the tolerance was reached.
    """

    weight: FloatArray
    bias: FloatArray
    objective: float
    iterations: int
    converged: bool

    def scores(self, coordinates: FloatArray, head: int = 0) -> FloatArray:
        """Scores of rotated features."""
        kind = coordinates.dtype
        return coordinates @ self.weight[:, head].astype(kind) + self.bias[head].astype(kind)

    def mean(self) -> Fits:
        """The mean of the heads, as a start for a single one."""
        return replace(self, weight=self.weight.mean(1, keepdims=True), bias=self.bias.mean(0, keepdims=True))


def minimise(
    loss: HeadLoss,
    rotation: Rotation,
    rows: IntArray | None,
    labels: IntArray,
    weights: FloatArray,
    classes: int,
    regularisation: float,
    *,
    start: Fits | None = None,
    bias: bool = True,
    tolerance: float = 1e-7,
) -> Fits:
    """Minimise `sum(weights * loss) / sum(weights) + regularisation / 2 * |weight|**2`; the bias is not penalised.

    Several heads, one for each column of the weights, are fitted at once: their objectives are added, which does not
    change where each has its minimum, and the images are read once for all of them.

    Args:
        loss: The loss.
        rotation: Rotation of the features.
        rows: Which images to fit to; None takes all.
        labels: `(images,)`, of all images.
        weights: `(images, heads)`, of all images; 0 for those that a head is not fitted to.
        classes: Number of classes.
        regularisation: Positive.
        start: Where to start from.
        bias: Whether the heads have one.
        tolerance: Largest entry of the gradient in preconditioned coordinates at which the minimum is taken as
            reached, and relative change of the objective at which no more is to be gained.

    Raises:
        DataError: The objective is not finite.
    """
    coordinates = rotation.coordinates if rows is None else rotation.coordinates[rows]
    labels, weights = (labels, weights) if rows is None else (labels[rows], weights[rows])
    weights = (weights / weights.sum(axis=0)).astype(coordinates.dtype)
    rank, heads = coordinates.shape[1], weights.shape[1]
    # L-BFGS starts from a multiple of the identity: close to the true curvature in these units.
    curvature = loss.curvature * rotation.eigenvalues / len(rotation.coordinates) + regularisation
    unit = np.append(1 / np.sqrt(curvature), 1 / np.sqrt(loss.curvature))[:, None]

    def objective(flat: FloatArray) -> tuple[float, FloatArray]:
        parameters = flat.reshape(rank + 1, heads * classes) * unit
        value, gradient = 0.0, np.zeros_like(parameters)
        weight, offset = parameters[:rank], parameters[rank] if bias else np.zeros(heads * classes)
        cast_weight, cast_offset = weight.astype(coordinates.dtype), offset.astype(coordinates.dtype)
        for part in blocks(len(labels)):
            here = coordinates[part]
            scores = (here @ cast_weight + cast_offset).reshape(-1, classes)
            one, slope = loss.value_and_gradient(scores, np.repeat(labels[part], heads), weights[part].ravel())
            slope = slope.reshape(len(here), -1)
            value += one
            gradient[:rank] += here.T @ slope
            gradient[rank] += slope.sum(axis=0) if bias else 0
        gradient[:rank] += regularisation * weight
        return value + regularisation / 2 * float((weight**2).sum()), (gradient * unit).ravel()

    initial = np.zeros((rank + 1, heads * classes))
    if start is not None:
        initial = np.vstack([start.weight.reshape(rank, heads * classes), start.bias.reshape(1, -1)]) / unit
    found: Any = scipy.optimize.minimize(
        objective,
        initial.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_ITERATIONS, "ftol": tolerance * 1e-2, "gtol": tolerance, "maxcor": 20},
    )
    if not np.isfinite(found.fun):
        raise DataError(f"The {loss.name} became {found.fun}: the features are too large or not finite.")
    if found.nit >= MAX_ITERATIONS:
        logger.warning("The %s did not reach its minimum in %d iterations.", loss.name, found.nit)
    parameters = (found.x.reshape(rank + 1, heads * classes) * unit).reshape(rank + 1, heads, classes)
    offset = parameters[rank] if bias else np.zeros((heads, classes))
    return Fits(parameters[:rank], offset, float(found.fun), int(found.nit), bool(found.nit < MAX_ITERATIONS))


def falling(values: Sequence[float]) -> tuple[float, ...]:
    """Regularisations from strong to weak, in which order each minimum is a good start for the next."""
    return tuple(sorted(set(values), reverse=True))
