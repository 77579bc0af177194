"""Ridge regression on class indicators: the whole path from one decomposition, and exact leave-one-out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hf_transfer.errors import ArgumentError
from hf_transfer.solvers.head import (
    LinearHead,
    PathPoint,
    SolvedHead,
    accuracy_of,
    cross_entropy,
    fitted_temperature,
    standard_error_of,
)
from hf_transfer.solvers.problem import NEVER_HELD_OUT, FloatArray, Problem, kept_shares, stratified_folds
from hf_transfer.solvers.rotation import Rotation, rotate
from hf_transfer.solvers.scaling import Scaling, name_of, powers_of

# Per image and on standardised features: from next to none to so much that only the class means matter.
RIDGE_REGULARISATIONS = tuple(float(10.0**exponent) for exponent in np.arange(-5.0, 4.5, 0.5))
# Below this number of images a class, leave-one-out misjudges a layer by up to 14 points in both directions.
FEW_IMAGES = 20
# Beyond this number of images, repeats with a decomposition for each fold take seconds and tell nothing more.
_MOST_REPEATED = 1000
_MOST_REPEATS = 5


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
    def of(cls, problem: Problem, bias: bool = True, power: float = 1.0) -> RidgePath:
        """Decompose the features of a problem, scaled by a power of their standard deviations."""
        weights = problem.image_weights
        targets = np.where(problem.labels[:, None] == np.arange(problem.classes), 1.0, -1.0)
        return cls(rotate(problem.features, weights, bias, power=power), targets, weights, bias)

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
    scaling: Scaling = "auto",
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
        scaling: See `hf_transfer.solvers.scaling.powers_of`. "auto" chooses where images are few; elsewhere it is
            "standard", since each scaling would take a decomposition of its own.

    Raises:
        ArgumentError: A regularisation is not positive, or features are too many for a decomposition.
        DataError: Nothing can be held out.
    """
    values = checked_regularisations(regularisations)
    powers = powers_of(scaling)
    if len(powers) > 1:
        powers = (power_on_few_images(problem, powers, bias, seed),) if has_few_images(problem) else (1.0,)
    path = RidgePath.of(problem, bias, powers[0])
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
        standard_error_of(accuracy, count, has_few_images(problem)),
        count,
        accuracy_of(scores, problem.labels),
        cross_entropy(scores, problem.labels),
        temperature,
        details={"scaling": name_of(path.rotation.power)},
    )


def ridge_held_out(
    problem: Problem,
    regularisations: Sequence[float],
    *,
    path: RidgePath | None = None,
    bias: bool = True,
    seed: int = 0,
    folds: int = 5,
) -> HeldOut:
    """Held-out scores for each regularisation: leave-one-out, or cross-validation where images are few.

    Args:
        problem: Features and labels.
        regularisations: Checked.
        path: The path of the same problem, if there is one already; its scaling is that of the folds, too.
        bias: Whether the head has a bias.
        seed: Seed for the folds.
        folds: Number of cross-validation folds.
    """
    counts = np.bincount(problem.labels, minlength=problem.classes)
    # The image of a class with a single one cannot be right when it is left out.
    alone = counts[problem.labels] < 2
    if problem.images >= FEW_IMAGES * np.count_nonzero(counts):
        path = RidgePath.of(problem, bias) if path is None else path
        return HeldOut(path.leave_one_out(regularisations), ~alone, "leave-one-out")
    power = 1.0 if path is None else path.rotation.power
    repeats = repeats_for(problem.images)
    total, rows = _cross_validated(problem, regularisations, bias, power, seed, folds, repeats)
    return HeldOut(total, rows, f"{folds}-fold cross-validation, {repeats} times")


def repeats_for(images: int) -> int:
    """How often cross-validation of few images is repeated with other folds: about 500 images are judged in all."""
    return max(2, min(_MOST_REPEATS, 500 // images))


def has_few_images(problem: Problem) -> bool:
    """Whether one division into folds says too little, and to repeat it is cheap."""
    present = int(np.count_nonzero(np.bincount(problem.labels)))
    few: bool = problem.images < min(FEW_IMAGES * present, _MOST_REPEATED)
    return few


def power_on_few_images(problem: Problem, powers: Sequence[float], bias: bool, seed: int) -> float:
    """The scaling whose held-out scores have the least cross-entropy at their best regularisation and temperature.

    Deviations are those of each fold's own training images. Those of all images know which of the held-out images is
    alone in having a channel, and hide what a deviation of few images does to new ones: at five images a class they
    promise "standard" the loss of "none", where it has twice as much.
    """

    def loss(power: float) -> float:
        values = RIDGE_REGULARISATIONS[4:-2]
        found, rows = _cross_validated(problem, values, bias, power, seed, 5, repeats_for(problem.images))
        labels, weights = problem.labels[rows], problem.image_weights[rows]
        return min(
            cross_entropy(scores[rows] / fitted_temperature(scores[rows], labels, weights), labels, weights)
            for scores in found
        )

    losses = {power: loss(power) for power in powers}
    return min(powers, key=losses.__getitem__)


def _cross_validated(
    problem: Problem,
    regularisations: Sequence[float],
    bias: bool,
    power: float,
    seed: int,
    folds: int,
    repeats: int,
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Held-out scores `(regularisations, images, classes)`, means over repeats, and which images were held out."""
    total = np.zeros((len(regularisations), problem.images, problem.classes))
    rows = np.zeros(problem.images, bool)
    for repeat in range(repeats):
        assigned = stratified_folds(problem.labels, folds, seed + repeat)
        for fold in np.unique(assigned[assigned != NEVER_HELD_OUT]):
            out = assigned == fold
            part = RidgePath.of(_without(problem, out), bias, power)
            rows |= out
            coordinates = part.rotation.along(problem.features[out])
            for index, value in enumerate(regularisations):
                weight, centre = part.coefficients(value)
                total[index][out] += (coordinates @ weight + centre) / repeats
    return total, rows


def _without(problem: Problem, out: npt.NDArray[np.bool_]) -> Problem:
    """The problem of the other images, in which each class keeps its share."""
    shares = np.ones(problem.classes)
    kept = kept_shares(problem.labels, ~out)
    shares[: len(kept)] = kept
    return replace(problem.subset(np.flatnonzero(~out)), class_weights=problem.class_weights * shares)


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
    """The path, and the index of the value with the best accuracy; of equal ones that with the least error.

    On few images that with the least error: the best of many accuracies of 20 images is 8 points too high.
    """
    rows = held_out.rows
    weights, labels = path.weights[rows], problem.labels[rows]
    points = []
    for value, scores in zip(values, held_out.scores, strict=True):
        error = np.average(((scores[rows] - path.targets[rows]) ** 2).mean(axis=1), weights=weights)
        points.append(PathPoint(value, accuracy_of(scores[rows], labels, weights), float(error)))
    few = has_few_images(problem)
    best = min(range(len(points)), key=lambda i: (0.0 if few else -points[i].accuracy, points[i].loss))
    return tuple(points), best


def ridge_head(problem: Problem, regularisation: float, bias: bool = True) -> LinearHead:
    """The head of one regularisation, without a choice or a temperature."""
    path = RidgePath.of(problem, bias)
    return path.rotation.head(*path.coefficients(regularisation))
