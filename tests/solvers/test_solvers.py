"""Exact heads: they reach the optimum that other libraries reach, and treat hard data soundly."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from hf_transfer.errors import ArgumentError, DataError
from hf_transfer.solvers import SOLVERS, Problem, logistic, ridge, solve, stratified_folds, svm
from hf_transfer.solvers.ridge import RidgePath


def problem(images: int, channels: int, classes: int = 3, seed: int = 0, weights: object = None) -> Problem:
    """Overlapping Gaussian classes of unequal size, on channels of unequal scale and mean."""
    generator = np.random.default_rng(seed)
    labels = np.sort(generator.choice(classes, images, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()))
    labels[:classes] = range(classes)
    centres = generator.normal(size=(classes, channels))
    features = centres[labels] + 2 * generator.normal(size=(images, channels))
    features = features * np.geomspace(0.1, 10, channels) + 5
    return Problem.of(features.astype(np.float32), labels, classes, weights)  # type: ignore[arg-type]


def standardised(p: Problem, weights: np.ndarray | None = None) -> np.ndarray:
    features = p.features.astype(np.float64)
    mean = np.average(features, axis=0, weights=weights)
    return (features - mean) / np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights))


@pytest.mark.parametrize(("images", "channels"), [(40, 6), (12, 30)], ids=["primal", "dual"])
@pytest.mark.parametrize("weights", [None, "balanced"])
def test_leave_one_out_is_what_refitting_without_each_image_gives(
    images: int, channels: int, weights: str | None
) -> None:
    """Exact leave-one-out equals brute force by scikit-learn, with more images than channels and the other way."""
    p = problem(images, channels, weights=weights)
    found = RidgePath.of(p).leave_one_out([0.03])[0]
    inputs, own = standardised(p, p.image_weights), p.image_weights
    targets = np.where(p.labels[:, None] == np.arange(3), 1.0, -1.0)
    for image in range(images):
        rest = np.arange(images) != image
        model = Ridge(alpha=0.03 * own.sum(), solver="svd").fit(inputs[rest], targets[rest], own[rest])
        np.testing.assert_allclose(found[image], model.predict(inputs[image : image + 1])[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("images", "channels"), [(200, 8), (40, 60)])
@pytest.mark.parametrize("weights", [None, "balanced"])
def test_logistic_reaches_the_optimum_of_scikit_learn(images: int, channels: int, weights: str | None) -> None:
    """The objective of the folded head, on plain features, is scikit-learn's to 1e-4."""
    p = problem(images, channels, weights=weights)
    solved = logistic(p, [0.01], scaling="standard")
    inputs = standardised(p)
    theirs = LogisticRegression(C=1 / (0.01 * images), tol=1e-10, max_iter=10_000)
    theirs.fit(inputs, p.labels, p.image_weights)
    scale = p.features.astype(np.float64).std(axis=0)

    def objective(scores: np.ndarray, weight: np.ndarray) -> float:
        each = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(images), p.labels]
        return float(np.average(each, weights=p.image_weights) + 0.005 * (weight**2).sum())

    best = objective(theirs.decision_function(inputs), theirs.coef_)
    ours = objective(solved.head.scores(p.features), solved.head.weight * scale)
    assert ours == pytest.approx(best, rel=1e-4)
    assert solved.details["objective"] == pytest.approx(ours, rel=1e-5)


def test_svm_decides_as_liblinear() -> None:
    """At the same penalty decisions are those of LinearSVC, and the temperature does not change them."""
    p = problem(300, 10)
    solved = svm(p, [0.01], scaling="standard")
    # A large scale of the bias makes its penalty, which ours has not, as good as none.
    theirs = LinearSVC(C=1 / (0.01 * 300), loss="squared_hinge", tol=1e-8, max_iter=200_000, intercept_scaling=30)
    theirs.fit(standardised(p), p.labels)
    scores = solved.head.scores(p.features)
    assert (scores.argmax(axis=1) == theirs.predict(standardised(p))).mean() >= 0.99
    np.testing.assert_allclose(scores * solved.temperature, theirs.decision_function(standardised(p)), atol=2e-2)
    assert solved.temperature != 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_classifies_unseen_images_and_repeats_itself(solver: str) -> None:
    """Held-out accuracy is near that on new images, well above chance, and the same seed gives the same head."""
    p, new = problem(600, 12), problem(600, 12, seed=1)
    generator = np.random.default_rng(0)
    generator.choice(3, 600, p=np.arange(1, 4) / 6)
    centres = generator.normal(size=(3, 12))
    noise = np.random.default_rng(9).normal(size=(600, 12))
    unseen = (centres[new.labels] + 2 * noise) * np.geomspace(0.1, 10, 12) + 5
    solved, again = (solve(p.features, p.labels, solver, seed=3) for _ in range(2))
    accuracy = (solved.head.scores(unseen).argmax(axis=1) == new.labels).mean()
    assert accuracy > 0.7 and abs(accuracy - solved.accuracy) < 0.1
    assert solved.head.weight.tobytes() == again.head.weight.tobytes()
    stated = solved.to_dict()
    assert stated["solver"] == solver and stated["value"] in [point["value"] for point in stated["path"]]


@pytest.mark.parametrize("solver", SOLVERS)
def test_hard_data_give_finite_heads(solver: str) -> None:
    """Constant channels, a class of one image, an absent class: finite scores, and the absent class never wins."""
    p = problem(60, 5, classes=2)
    features = np.hstack([p.features, np.full((60, 2), 7.0, np.float32)])
    labels = p.labels.copy()
    labels[0] = 3
    solved = solve(features, labels, solver, classes=4, class_weights="balanced")
    scores = solved.head.scores(features)
    assert np.isfinite(scores).all() and scores.shape == (60, 4)
    assert 2 not in scores.argmax(axis=1)
    np.testing.assert_array_equal(solved.head.weight[:, 5:], 0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_constant_features_give_the_most_frequent_class(solver: str) -> None:
    """With nothing to learn from, the head falls back on how frequent the classes are."""
    solved = solve(np.ones((30, 4), np.float32), np.array([0] * 20 + [1] * 10), solver)
    assert (solved.head.scores(np.ones((2, 4))).argmax(axis=1) == 0).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_head_without_bias(solver: str) -> None:
    """Where the model's classifier has no bias, the solver uses none and does as well as it can without."""
    p = problem(300, 8)
    solved = solve(p.features - 5, p.labels, solver, bias=False)
    np.testing.assert_array_equal(solved.head.bias, 0)
    assert solved.train_accuracy > 0.6


def test_balanced_weights_help_the_rare_class() -> None:
    """With class_weights="balanced" the rare class is found more often."""
    p = problem(600, 4, seed=2)
    rare = p.labels == 0
    plain, balanced = (
        solve(p.features, p.labels, class_weights=w).head.scores(p.features) for w in (None, "balanced")
    )
    assert (balanced[rare].argmax(1) == 0).mean() > (plain[rare].argmax(1) == 0).mean() + 0.05


def test_folds_are_stratified_and_repeat() -> None:
    """Each class is spread over the folds, a lone image is never held out, and the seed decides."""
    labels = np.array([0] * 11 + [1] * 5 + [2])
    folds = stratified_folds(labels, 5, seed=1)
    assert folds[-1] == -1
    assert np.bincount(folds[labels == 0]).tolist() in [[3, 2, 2, 2, 2]] and sorted(folds[labels == 1]) == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert (folds == stratified_folds(labels, 5, seed=1)).all() and (
        folds != stratified_folds(labels, 5, seed=2)
    ).any()


def test_few_images_are_judged_by_cross_validation() -> None:
    """Below 20 images a class leave-one-out is not trusted, and one division into folds says too little."""
    assert ridge(problem(30, 5)).estimate == "5-fold cross-validation, 5 times"
    assert logistic(problem(30, 5)).estimate == "10-fold cross-validation, 5 times"
    assert ridge(problem(90, 5)).estimate == "leave-one-out"


@pytest.mark.parametrize(
    ("features", "labels", "options", "error", "message"),
    [
        (np.ones((4, 2)), [0, 0, 0, 0], {}, DataError, "at least two classes, found 1"),
        (np.array([[1.0], [np.nan], [2.0]]), [0, 1, 0], {}, DataError, "1 of 3 images are not finite"),
        (np.ones((3, 2)), [0, 1, 5], {"classes": 3}, DataError, "from 0 to 2; 1 are not, the first is 5 of image 2"),
        (np.ones((3, 2)), [0, 1], {}, ArgumentError, "one whole number for each of 3 images"),
        (np.ones((3, 2, 2)), [0, 1, 1], {}, ArgumentError, r"\(images, channels\), found \(3, 2, 2\)"),
        (np.ones((2, 2)), [0, 1], {}, DataError, "nothing can be held out"),
        (np.ones((3, 2)), [0, 1, 1], {"solver": "magic"}, ArgumentError, "logistic, svm, ridge, sgd; found 'magic'"),
        (np.ones((3, 2)), [0, 1, 1], {"class_weights": "equal"}, ArgumentError, '"balanced" or a mapping'),
        (np.ones((3, 2)), [0, 1, 1], {"class_weights": {7: 1.0}}, ArgumentError, "index from 0 to 1"),
        (np.ones((3, 2)), [0, 1, 1], {"class_weights": {0: -1.0}}, ArgumentError, "positive number"),
    ],
)
def test_unusable_input_is_named(
    features: np.ndarray, labels: list[int], options: dict[str, object], error: type[Exception], message: str
) -> None:
    """Each error says what was found."""
    with pytest.raises(error, match=message):
        solve(features, np.array(labels), **options)  # type: ignore[arg-type]
