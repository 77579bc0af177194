"""Probes say what a linear classifier would do on images that it was not fitted to."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from hf_transfer.diagnosis import probing
from hf_transfer.diagnosis.probing import (
    FOLDS,
    LayerProbe,
    curve,
    leaves_one_out,
    probe,
    probe_layers,
    regularisations,
)
from hf_transfer.errors import DataError
from hf_transfer.solvers import Problem, ridge
from hf_transfer.solvers.ridge import RidgePath


def _blobs(per_class: int, classes: int = 4, channels: int = 12, spread: float = 0.6, seed: int = 0):  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(size=(classes, channels)) * spread
    labels = np.repeat(np.arange(classes), per_class)
    order = generator.permutation(len(labels))
    features = means[labels] + generator.normal(size=(len(labels), channels))
    return features[order].astype(np.float32), labels[order]


@pytest.mark.parametrize("channels", [12, 200])
def test_leave_one_out_is_that_of_refitting(channels: int) -> None:
    """Accuracy by one decomposition is that of fitting as many classifiers as there are images."""
    features, labels = _blobs(25, channels=channels, spread=0.25)
    found = probe(features, labels, 4)
    assert found.estimate == "leave-one-out"
    path = RidgePath.of(Problem.of(features, labels))
    exact = path.leave_one_out(regularisations(4)).argmax(axis=2) == labels
    assert abs(found.accuracy - exact.mean(axis=1).max()) <= 0.03
    assert any(np.array_equal(found.hits, hits) for hits in exact) or found.accuracy <= exact.mean(axis=1).max()


@pytest.mark.slow
@pytest.mark.parametrize("per_class", [5, 30])
def test_accuracy_is_that_on_new_images(per_class: int) -> None:
    """Over 40 draws the mean of the estimates is near that on fresh images; of 20 images in all it is too low."""
    fresh, their_labels = _blobs(300, seed=1000)
    estimated, true = [], []
    for seed in range(40):
        features, labels = _blobs(per_class, seed=seed)
        estimated.append(probe(features, labels, 4, seed).accuracy)
        head = ridge(Problem.of(features, labels), seed=seed).head
        true.append(float((head.scores(fresh).argmax(axis=1) == their_labels).mean()))
    assert (-0.1 if per_class == 5 else -0.03) < np.mean(estimated) - np.mean(true) < 0.03


def test_features_without_meaning_are_at_chance() -> None:
    """The choice of the regularisation does not lift noise above chance."""
    generator = np.random.default_rng(0)
    accuracies = []
    for _ in range(20):
        labels = generator.permutation(np.repeat(np.arange(2), 40))
        accuracies.append(probe(generator.normal(size=(80, 30)), labels, 2).accuracy)
    assert 0.35 < np.mean(accuracies) < 0.53


@pytest.mark.parametrize("per_class", [6, 25])
def test_degenerate_features(per_class: int) -> None:
    """Constant features and a single constant channel give finite numbers without a warning."""
    labels = np.arange(4 * per_class) % 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for features in (np.ones((len(labels), 5), np.float32), np.zeros((len(labels), 1), np.float32)):
            found = probe(features, labels, 4)
            assert found.accuracy <= 0.5
            assert 0 <= found.train_accuracy <= 0.5
            assert len(curve(features, labels, 4, found)) >= 1
            assert np.isfinite(probe_layers([features, features], labels, 4)[1]).all()


def test_an_only_image_of_a_class_does_not_count() -> None:
    """It is fitted to but never held out; with no other images there is an error."""
    features, labels = _blobs(25)
    labels = np.where(np.arange(100) == 7, 4, labels)
    found = probe(features, labels, 5)
    assert found.counted.sum() == 99
    assert found.hits[7] == 0
    with pytest.raises(DataError, match="more than one image"):
        probe(features[:4], np.arange(4), 4)


def test_the_curve_rises_to_the_whole() -> None:
    """A quarter, half and all: sizes double, accuracy rises where more images help, and the last is the full probe."""
    for per_class in (12, 40):
        features, labels = _blobs(per_class, channels=40, spread=0.3)
        full = probe(features, labels, 4)
        points = curve(features, labels, 4, full)
        assert [point.fitted for point in points] == [full.fitted // 4, full.fitted // 2, full.fitted]
        assert points[-1] is full
        assert points[0].accuracy < points[-1].accuracy
        assert full.fitted == (4 * per_class - 1 if per_class == 40 else round(4 * per_class * (1 - 1 / FOLDS)))


def test_sizes_with_too_few_images_have_no_point() -> None:
    """Below two images of each class there is nothing to fit to."""
    features, labels = _blobs(3)
    full = probe(features, labels, 4)
    assert [point.fitted for point in curve(features, labels, 4, full)] == [full.fitted]


def test_joined_layers_hold_equal_ones_once_and_few_axes_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that equals another adds nothing; wide layers come with their leading axes."""
    features, labels = _blobs(30, channels=20)
    found, joined = probe_layers([features, features.copy()], labels, 4)
    assert joined.shape == (120, 20) and found[0] is found[1]
    generator = np.random.default_rng(0)
    wide = features @ generator.normal(size=(20, 1000)).astype(np.float32)
    wide += generator.normal(size=wide.shape).astype(np.float32) * 0.1
    monkeypatch.setattr(probing, "MOST_AXES", 100)
    _, both = probe_layers([wide, wide[:, ::-1] + 0.0 * wide], labels, 4)
    assert both.shape[1] == 100
    assert probe(both, labels, 4, standardise=False).accuracy >= probe(features, labels, 4).accuracy - 0.05


def test_many_classes_are_left_out_singly() -> None:
    """Cross-validation of hundreds of classes would take longer than the pass."""
    assert leaves_one_out(1200, 600)
    assert not leaves_one_out(100, 10)
    assert len(regularisations(600)) < len(regularisations(10))


def test_a_probe_states_its_error() -> None:
    """The standard error is that of a share."""
    hits = np.r_[np.ones(75), np.zeros(25)]
    found = LayerProbe(hits, np.ones(100, bool), 1.0, 99, "")
    assert found.accuracy == 0.75
    assert found.standard_error == pytest.approx((0.75 * 0.25 / 100) ** 0.5)
