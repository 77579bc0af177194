"""Ridge regression on class indicators: the whole path from one decomposition, and exact leave-one-out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_transfer.errors import ArgumentError
from hf_transfer.solvers.head import LinearHead, PathPoint, SolvedHead, accuracy_of, cross_entropy, fitted_temperature
from hf_transfer.solvers.problem import NEVER_HELD_OUT, FloatArray, Problem, stratified_folds
from hf_transfer.solvers.rotation import Rotation, rotate

# Per image and on standardised features: from next to none to so much that only the class means matter.
RIDGE_REGULARISATIONS = tuple(float(10.0**exponent) for exponent in np.arange(-5.0, 4.5, 0.5))
# Below this number of images a class, leave-one-out misjudges a layer by up to 14 points in both directions.
FEW_IMAGES = 20


@dataclass(frozen=True)
class HeldOut:
    """Scores of images by heads that were fitted without them, for each regularisation.

    Attributes:
        scores: `(regularisations, images, classes)`.
        rows: `(images,)`: true where an image was held out.
        estimate: How, in words.
    """

    scores: FloatArray
    rows: npt.NDArray[np.bool_]
    estimate: str


@dataclass(frozen=True)
class RidgePath:
    """Ridge regression for all regularisations.

    The head for regularisation r minimises `sum(weights * (scores - targets)**2) + r * sum(weights) * |head|**2`
    with targets 1 for an image's class and -1 for all others; the bias is not penalised.

    Attributes:
        rotation: Rotation of the features.
        targets: `(images, classes)`.
        weights: `(images,)`.
        bias: Whether the head has one.
    """

    rotation: Rotation
    targets: FloatArray
    weights: FloatArray
    bias: bool

    @classmethod
    def of(cls, problem: Problem, bias: bool = True) -> RidgePath:
        """Decompose the features of a problem."""
        weights = problem.image_weights
        targets = np.where(problem.labels[:, None] == np.arange(problem.classes), 1.0, -1.0)
        return cls(rotate(problem.features, weights, bias), targets, weights, bias)

    def coefficients(self, regularisation: float) -> tuple[FloatArray, FloatArray]:
        """Weight `(rank, classes)` and bias `(classes,)` on the rotated features."""
        centre = self._centre()
        moments = (self.rotation.coordinates * self.weights[:, None]).T @ (self.targets - centre)
        return moments / self._denominator(regularisation)[:, None], centre

    def leave_one_out(self, regularisations: Sequence[float]) -> FloatArray:
        """Scores `(regularisations, images, classes)` of each image by the head fitted to all others.

        Exact: removing an image with leverage h changes its residual e to e / (1 - h). Mean and scale of the features
        stay those of all images; a shift of the features changes nothing, as the bias is fitted again.
        """
        coordinates, centre = self.rotation.coordinates, self._centre()
        moments = (coordinates * self.weights[:, None]).T @ (self.targets - centre)
        squares = coordinates**2 * self.weights[:, None]
        own = self.weights / self.weights.sum() if self.bias else 0.0
        found = np.empty((len(regularisations), *self.targets.shape))
        for index, regularisation in enumerate(regularisations):
            inverse = 1 / self._denominator(regularisation)
            scores = coordinates @ (moments * inverse[:, None]) + centre
            leverage = squares @ inverse + own
            rest = np.maximum(1 - leverage, 1e-12)[:, None]
            found[index] = self.targets - (self.targets - scores) / rest
        return found

    def _centre(self) -> FloatArray:
        if not self.bias:
            return np.zeros(self.targets.shape[1])
        return self.weights @ self.targets / self.weights.sum()

    def _denominator(self, regularisation: float) -> FloatArray:
        return self.rotation.eigenvalues + regularisation * self.weights.sum()


def ridge(
    problem: Problem,
    regularisations: Sequence[float] = RIDGE_REGULARISATIONS,
    *,
    bias: bool = True,
    seed: int = 0,
    folds: int = 5,
) -> SolvedHead:
    """Fit a head by ridge regression, with the regularisation of the best held-out accuracy.

    With `FEW_IMAGES` or more images a class, accuracy is that of exact leave-one-out; with fewer, that of repeated
    stratified cross-validation. Scores are divided by a temperature that fits the held-out labels, so that the
    checkpoint's softmax means something.

    Args:
        problem: Features and labels.
        regularisations: To choose from, per image and on standardised features.
        bias: Whether the head has a bias.
        seed: Seed for the folds.
        folds: Number of cross-validation folds.

    Raises:
        ArgumentError: A regularisation is not positive, or features are too many for a decomposition.
        DataError: Nothing can be held out.
    """
    values = checked_regularisations(regularisations)
    path = RidgePath.of(problem, bias)
    held_out = ridge_held_out(problem, values, path=path, bias=bias, seed=seed, folds=folds)
    points, best = _choose(problem, path, values, held_out)
    temperature = fitted_temperature(
        held_out.scores[best][held_out.rows], problem.labels[held_out.rows], path.weights[held_out.rows]
    )
    head = path.rotation.head(*path.coefficients(values[best])).divided_by(temperature)
    scores = head.scores(problem.features)
    count = int(held_out.rows.sum())
    accuracy = points[best].accuracy
    return SolvedHead(
        head,
        "ridge",
        "regularisation",
        values[best],
        points,
        held_out.estimate,
        accuracy,
        float(np.sqrt(accuracy * (1 - accuracy) / count)),
        count,
        accuracy_of(scores, problem.labels),
        cross_entropy(scores, problem.labels),
        temperature,
    )


def ridge_held_out(
    problem: Problem,
    regularisations: Sequence[float],
    *,
    path: RidgePath | None = None,
    bias: bool = True,
    seed: int = 0,
    folds: int = 5,
    repeats: int = 2,
) -> HeldOut:
    """Held-out scores for each regularisation: leave-one-out, or cross-validation where images are few.

    Args:
        problem: Features and labels.
        regularisations: Checked.
        path: The path of the same problem, if there is one already.
        bias: Whether the head has a bias.
        seed: Seed for the folds.
        folds: Number of cross-validation folds.
        repeats: Repetitions of cross-validation with other folds; scores are the mean.
    """
    counts = np.bincount(problem.labels, minlength=problem.classes)
    # The image of a class with a single one cannot be right when it is left out.
    alone = counts[problem.labels] < 2
    if problem.images >= FEW_IMAGES * np.count_nonzero(counts):
        path = RidgePath.of(problem, bias) if path is None else path
        return HeldOut(path.leave_one_out(regularisations), ~alone, "leave-one-out")
    total = np.zeros((len(regularisations), problem.images, problem.classes))
    rows = np.zeros(problem.images, bool)
    for repeat in range(repeats):
        assigned = stratified_folds(problem.labels, folds, seed + repeat)
        for fold in np.unique(assigned[assigned != NEVER_HELD_OUT]):
            out = assigned == fold
            part = RidgePath.of(problem.subset(np.flatnonzero(~out)), bias)
            rows |= out
            for index, value in enumerate(regularisations):
                head = part.rotation.head(*part.coefficients(value))
                total[index][out] += head.scores(problem.features[out]) / repeats
    return HeldOut(total, rows, f"{folds}-fold cross-validation, {repeats} times")


def checked_regularisations(values: Sequence[float]) -> tuple[float, ...]:
    """The values as a tuple.

    Raises:
        ArgumentError: There is none, or one is not positive.
    """
    found = tuple(float(value) for value in values)
    if not found or not all(0 < value < np.inf for value in found):
        raise ArgumentError(f"Regularisations are positive numbers, at least one; found {list(values)!r}.")
    return found


def _choose(
    problem: Problem, path: RidgePath, values: Sequence[float], held_out: HeldOut
) -> tuple[tuple[PathPoint, ...], int]:
    """The path, and the index of the value with the best accuracy; of equal ones that with the least error."""
    rows = held_out.rows
    weights, labels = path.weights[rows], problem.labels[rows]
    points = []
    for value, scores in zip(values, held_out.scores, strict=True):
        error = np.average(((scores[rows] - path.targets[rows]) ** 2).mean(axis=1), weights=weights)
        points.append(PathPoint(value, accuracy_of(scores[rows], labels, weights), float(error)))
    best = min(range(len(points)), key=lambda i: (-points[i].accuracy, points[i].loss))
    return tuple(points), best


def ridge_head(problem: Problem, regularisation: float, bias: bool = True) -> LinearHead:
    """The head of one regularisation, without a choice or a temperature."""
    path = RidgePath.of(problem, bias)
    return path.rotation.head(*path.coefficients(regularisation))
