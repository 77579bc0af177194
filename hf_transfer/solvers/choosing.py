"""Choice of the regularisation of a convex head by stratified cross-validation along a path with warm starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_transfer.solvers.convex import Fits, HeadLoss, falling, minimise
from hf_transfer.solvers.head import (
    PathPoint,
    SolvedHead,
    accuracy_of,
    cross_entropy,
    fitted_temperature,
    standard_error_of,
)
from hf_transfer.solvers.problem import NEVER_HELD_OUT, FloatArray, IntArray, Problem, kept_shares, stratified_folds
from hf_transfer.solvers.ridge import has_few_images, power_on_few_images, repeats_for
from hf_transfer.solvers.rotation import Rotation, rotate
from hf_transfer.solvers.scaling import Scaling, name_of, powers_of

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
        scores: `(held out, classes)`: held-out scores at the chosen value.
        rows: `(held out,)`: of which images; with repeats an image comes several times.
        images: Number of images that the choice was made with.
        fits: At the chosen value, one head for each fold.
    """

    value: float
    points: tuple[PathPoint, ...]
    best: PathPoint
    scores: FloatArray
    rows: IntArray
    images: int
    fits: Fits

    @property
    def least_loss(self) -> float:
        """On the path."""
        return min(point.loss for point in self.points)


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
    scaling: Scaling = "auto",
) -> SolvedHead:
    """Choose the regularisation, then fit to all images; arguments and errors as in `logistic`."""
    values = falling(regularisations)
    weights = problem.image_weights
    few = has_few_images(problem)
    # Nine tenths of few images to fit to: at ten a class it matters, and costs nothing.
    folds, repeats = (2 * folds, repeats_for(problem.images)) if few else (folds, 1)
    powers = powers_of(scaling)
    if few and len(powers) > 1:
        powers = (power_on_few_images(problem, powers, bias, seed),)
    rotation, choice = _over_scalings(loss, problem, weights, values, bias, seed, folds, repeats, powers, rotation)
    # The folds' heads share most of their images with the last one: no start along the path is closer than their mean.
    fit = minimise(
        loss, rotation, None, problem.labels, weights[:, None], problem.classes, choice.value,
        start=choice.fits.mean(), bias=bias, tolerance=tolerance,
    )  # fmt: skip
    temperature = 1.0
    if calibrate:
        temperature = fitted_temperature(choice.scores, problem.labels[choice.rows], weights[choice.rows])
    head = rotation.head(fit.weight[:, 0], fit.bias[0]).divided_by(temperature)
    scores = head.scores(problem.features)
    accuracy, held_out = choice.best.accuracy, len(np.unique(choice.rows))
    details = {
        "scaling": name_of(rotation.power),
        "objective": fit.objective,
        "converged": fit.converged,
        "rank": len(rotation.eigenvalues),
    }
    if choice.images < problem.images:
        details["chosen_on_images"] = choice.images
    return SolvedHead(
        head,
        solver,
        "regularisation",
        choice.value,
        choice.points,
        f"{folds}-fold cross-validation" + (f", {repeats} times" if repeats > 1 else ""),
        accuracy,
        standard_error_of(accuracy, held_out, few),
        held_out,
        accuracy_of(scores, problem.labels),
        cross_entropy(scores, problem.labels),
        temperature,
        iterations=fit.iterations,
        details=details,
    )


@dataclass(frozen=True)
class _Look:
    """A point of the path, with the held-out scores `(held out, classes)` and the folds' heads that gave it."""

    point: PathPoint
    scores: FloatArray
    fits: Fits


def _over_scalings(
    loss: HeadLoss,
    problem: Problem,
    weights: FloatArray,
    values: Sequence[float],
    bias: bool,
    seed: int,
    folds: int,
    repeats: int,
    powers: Sequence[float],
    known: Rotation | None,
) -> tuple[Rotation, Choice]:
    """The scaling with the least held-out loss on the same folds, and the choice made in it."""
    found: tuple[Rotation, Choice] | None = None
    for power in powers:
        # float32 holds what features are stored in; only the last fit's sums need more, see `minimise`.
        same = known is not None and known.power == power
        rotation = known if known is not None and same else rotate(
            problem.features, bias=bias, dtype=np.float32, power=power
        )  # fmt: skip
        best = None if found is None else found[1]
        choice = _choose(loss, rotation, problem, weights, values, bias, seed, folds, repeats, best)
        if found is None or choice.least_loss < found[1].least_loss:
            found = rotation, choice
    assert found is not None
    return found


def _choose(
    loss: HeadLoss,
    rotation: Rotation,
    problem: Problem,
    weights: FloatArray,
    values: Sequence[float],
    bias: bool,
    seed: int,
    folds: int,
    repeats: int = 1,
    best_so_far: Choice | None = None,
) -> Choice:
    """The choice along the path; where another scaling came before, from its best value on and only if better there.

    All scalings have one mean variance: what is best in one is near the best in the next.
    """
    divisions = [stratified_folds(problem.labels, folds, seed + repeat) for repeat in range(repeats)]
    sample = _sample(divisions[0], problem, rotation, seed)
    pairs = [(each, fold) for each in divisions for fold in np.unique(each[sample]) if fold != NEVER_HELD_OUT]
    without = np.stack(
        [_weights_without(assigned == fold, problem.labels, weights) for assigned, fold in pairs], axis=1
    )
    held_out = [sample[assigned[sample] == fold] for assigned, fold in pairs]
    rows = np.concatenate(held_out)

    def look(value: float, start: Fits | None) -> _Look:
        fits = minimise(
            loss, rotation, None if len(sample) == problem.images else sample, problem.labels, without,
            problem.classes, value, start=start, bias=bias, tolerance=_CHOICE_TOLERANCE,
        )  # fmt: skip
        scores = np.concatenate([fits.scores(rotation.coordinates[out], at) for at, out in enumerate(held_out)])
        return _Look(_point(loss, value, scores, problem.labels[rows], weights[rows]), scores, fits)

    patience = 1 if loss.choose_by_loss else 2
    if best_so_far is None:
        found = _along_path(values, look, patience)
    else:
        found = _along_path(values, look, patience, values.index(best_so_far.best.value), best_so_far.least_loss)
    best = min(found, key=lambda each: _order(each.point, loss.choose_by_loss))
    # What is held constant is the strength of the penalty against the sum over images, not their mean.
    value = best.point.value * len(sample) / problem.images
    points = tuple(each.point for each in found)
    return Choice(value, points, best.point, best.scores, rows, len(sample), best.fits)


def _weights_without(out: npt.NDArray[np.bool_], labels: IntArray, weights: FloatArray) -> FloatArray:
    found: FloatArray = weights * kept_shares(labels, ~out)[labels] * ~out
    return found


def _along_path(
    values: Sequence[float],
    look: Callable[[float, Fits | None], _Look],
    patience: int,
    first: int | None = None,
    to_beat: float = np.inf,
) -> list[_Look]:
    """Go downhill along the path, from a point in its middle.

    Held-out loss falls and grows once along it, but for noise; accuracy is too coarse to tell the way.

    Args:
        values: From strong to weak.
        look: Gives what is found at a value; begins with the heads of its neighbour.
        patience: How often loss must have grown in turn for the way to end.
        first: Where to begin; None begins where most features need it.
        to_beat: A loss above which, at the beginning, the path is not followed.

    Returns:
        In the order of the values, as far as they were looked at.
    """
    first = int(_FIRST * len(values)) if first is None else first
    found = {first: look(values[first], None)}
    if found[first].point.loss > to_beat:
        return [found[first]]
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
