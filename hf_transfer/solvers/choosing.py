"""Choice of the regularisation of a convex head by stratified cross-validation along a path with warm starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_transfer.solvers.convex import Fits, HeadLoss, falling, minimise
from hf_transfer.solvers.head import PathPoint, SolvedHead, accuracy_of, cross_entropy, fitted_temperature
from hf_transfer.solvers.problem import NEVER_HELD_OUT, FloatArray, IntArray, Problem, stratified_folds
from hf_transfer.solvers.rotation import Rotation, rotate

# Images x axes x classes that one fit of the choice may have: seconds for each regularisation.
CHOICE_SIZE = 2e9
# A held-out loss needs few digits, the last fit many.
_CHOICE_TOLERANCE = 1e-3
# Where the search begins: what features of pretrained networks need is mostly in the stronger half of the path.
_FIRST = 1 / 3


@dataclass(frozen=True)
class Choice:
    """The result of cross-validation.

    Attributes:
        value: The regularisation for a fit to all images.
        points: Points of the path, as far as it was followed.
        scores: `(images, classes)`: held-out scores at the chosen value, where `rows` is true.
        rows: `(images,)`.
        images: Number of images that the choice was made with.
        fits: At the chosen value, one head for each fold.
    """

    value: float
    points: tuple[PathPoint, ...]
    best: PathPoint
    scores: FloatArray
    rows: npt.NDArray[np.bool_]
    images: int
    fits: Fits


def solve_convex(
    loss: HeadLoss,
    solver: str,
    problem: Problem,
    regularisations: Sequence[float],
    *,
    bias: bool,
    seed: int,
    folds: int,
    tolerance: float,
    calibrate: bool,
    rotation: Rotation | None = None,
) -> SolvedHead:
    """Choose the regularisation, then fit to all images; arguments and errors as in `logistic`."""
    values = falling(regularisations)
    weights = problem.image_weights
    # float32 holds what features are stored in; only the last fit's sums need more, see `minimise`.
    rotation = rotate(problem.features, bias=bias, dtype=np.float32) if rotation is None else rotation
    choice = _choose(loss, rotation, problem, weights, values, bias, seed, folds)
    # The folds' heads share most of their images with the last one: no start along the path is closer than their mean.
    fit = minimise(
        loss, rotation, None, problem.labels, weights[:, None], problem.classes, choice.value,
        start=choice.fits.mean(), bias=bias, tolerance=tolerance,
    )  # fmt: skip
    held_out = np.flatnonzero(choice.rows)
    temperature = 1.0
    if calibrate:
        temperature = fitted_temperature(choice.scores[held_out], problem.labels[held_out], weights[held_out])
    head = rotation.head(fit.weight[:, 0], fit.bias[0]).divided_by(temperature)
    scores = head.scores(problem.features)
    accuracy = choice.best.accuracy
    details = {"objective": fit.objective, "converged": fit.converged, "rank": len(rotation.eigenvalues)}
    if choice.images < problem.images:
        details["chosen_on_images"] = choice.images
    return SolvedHead(
        head,
        solver,
        "regularisation",
        choice.value,
        choice.points,
        f"{folds}-fold cross-validation",
        accuracy,
        float(np.sqrt(accuracy * (1 - accuracy) / len(held_out))),
        len(held_out),
        accuracy_of(scores, problem.labels),
        cross_entropy(scores, problem.labels),
        temperature,
        iterations=fit.iterations,
        details=details,
    )


@dataclass(frozen=True)
class _Look:
    """A point of the path, with the held-out scores `(images, classes)` and the folds' heads that gave it."""

    point: PathPoint
    scores: FloatArray
    fits: Fits


def _choose(
    loss: HeadLoss,
    rotation: Rotation,
    problem: Problem,
    weights: FloatArray,
    values: Sequence[float],
    bias: bool,
    seed: int,
    folds: int,
) -> Choice:
    assigned = stratified_folds(problem.labels, folds, seed)
    sample = _sample(assigned, problem, rotation, seed)
    rows = sample[assigned[sample] != NEVER_HELD_OUT]
    present = np.unique(assigned[rows])
    without = weights[:, None] * (assigned[:, None] != present)
    held_out = [sample[assigned[sample] == fold] for fold in present]

    def look(value: float, start: Fits | None) -> _Look:
        fits = minimise(
            loss, rotation, None if len(sample) == problem.images else sample, problem.labels, without,
            problem.classes, value, start=start, bias=bias, tolerance=_CHOICE_TOLERANCE,
        )  # fmt: skip
        scores = np.zeros((problem.images, problem.classes), np.float32)
        for head, out in enumerate(held_out):
            scores[out] = fits.scores(rotation.coordinates[out], head)
        return _Look(_point(loss, value, scores[rows], problem.labels[rows], weights[rows]), scores, fits)

    found = _along_path(values, look, patience=1 if loss.choose_by_loss else 2)
    best = min(found, key=lambda each: _order(each.point, loss.choose_by_loss))
    # What is held constant is the strength of the penalty against the sum over images, not their mean.
    value = best.point.value * len(sample) / problem.images
    points = tuple(each.point for each in found)
    return Choice(value, points, best.point, best.scores, _mask(rows, problem.images), len(sample), best.fits)


def _along_path(values: Sequence[float], look: Callable[[float, Fits | None], _Look], patience: int) -> list[_Look]:
    """Go downhill along the path, from a point in its middle.

    Held-out loss falls and grows once along it, but for noise; accuracy is too coarse to tell the way.

    Args:
        values: From strong to weak.
        look: Gives what is found at a value; begins with the heads of its neighbour.
        patience: How often loss must have grown in turn for the way to end.

    Returns:
        In the order of the values, as far as they were looked at.
    """
    first = int(_FIRST * len(values))
    found = {first: look(values[first], None)}
    for step in (1, -1):
        place, grown = first, 0
        while grown < patience and 0 <= place + step < len(values):
            last, place = found[place], place + step
            found[place] = look(values[place], last.fits)
            grown = grown + 1 if found[place].point.loss >= last.point.loss else 0
        if min(found, key=lambda each: found[each].point.loss) != first:
            break
    return [found[place] for place in sorted(found)]


def _point(loss: HeadLoss, value: float, scores: FloatArray, labels: IntArray, weights: FloatArray) -> PathPoint:
    held_out, _ = loss.value_and_gradient(scores.astype(np.float64), labels, weights / weights.sum())
    return PathPoint(value, accuracy_of(scores, labels, weights), held_out)


def _order(point: PathPoint, by_loss: bool) -> tuple[float, float]:
    """The least loss comes first; or the best accuracy, and of equal ones the least loss."""
    return 0.0 if by_loss else -point.accuracy, point.loss


def _sample(assigned: IntArray, problem: Problem, rotation: Rotation, seed: int) -> IntArray:
    """The images that the choice is made with: all, or of each class the same share where all would take too long."""
    size = problem.images * max(len(rotation.eigenvalues), 1) * problem.classes
    if size <= CHOICE_SIZE:
        return np.arange(problem.images)
    share = CHOICE_SIZE / size
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(problem.labels):
        rows = generator.permutation(np.flatnonzero(problem.labels == label))
        chosen.append(rows[: max(min(len(rows), 5), int(len(rows) * share))])
    return np.sort(np.concatenate(chosen))


def _mask(rows: IntArray, images: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(images, bool)
    mask[rows] = True
    return mask
