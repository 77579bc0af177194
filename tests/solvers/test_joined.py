"""A head on several layers: its axes are folded into weights for the channels, and equal layers count once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hf_transfer.errors import DataError
from hf_transfer.solvers import SOLVERS
from hf_transfer.solvers.joined import MOST_AXES, distinct, solve_joined


def layers_of(images: int, *widths: int, classes: int = 3, noise: float = 2.0) -> tuple[list[Any], Any]:
    """Float32 layers that know the class the better the wider they are, one channel of each constant."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(images) % classes)
    parts = []
    for width in widths:
        centres = generator.standard_normal((classes, width))
        part = centres[labels] + noise * generator.standard_normal((images, width))
        part *= generator.uniform(0.1, 10, width)
        part[:, 0] = 1.5
        parts.append(part.astype(np.float32))
    return parts, labels


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "sgd"])
@pytest.mark.parametrize("images", [60, 2000])
def test_the_head_is_one_on_all_channels(solver: str, images: int) -> None:
    """Its scores of the channels side by side are what the solver reports, with few images and with many."""
    parts, labels = layers_of(images, 20, 700, 5)
    features = np.concatenate(parts, axis=1)
    solved = solve_joined(parts, labels, solver, classes=4, seed=1)
    assert solved.head.weight.shape == (4, 725)
    found = solved.head.scores(features)
    assert (found.argmax(axis=1) == labels).mean() == pytest.approx(solved.train_accuracy)
    shifted = found - np.log(np.exp(found - found.max(1, keepdims=True)).sum(1, keepdims=True)) - found.max(1)[:, None]
    assert -shifted[np.arange(images), labels].mean() == pytest.approx(solved.train_loss, rel=1e-3)
    assert solved.accuracy > 0.6
    # One channel of each layer is constant, and of the widest only a third of all axes are taken.
    assert solved.details.get("leading_axes") == (None if images == 60 else 19 + MOST_AXES // 3 + 4)


def test_an_order_of_layers_changes_rounding_alone() -> None:
    """Layers are treated alike."""
    parts, labels = layers_of(2000, 30, 400, noise=20.0)
    one, other = (solve_joined(each, labels) for each in (parts, parts[::-1]))
    assert one.details["objective"] == pytest.approx(other.details["objective"], rel=1e-5)
    found = one.head.scores(np.concatenate(parts, axis=1)), other.head.scores(np.concatenate(parts[::-1], axis=1))
    np.testing.assert_allclose(*found, atol=1e-2 * float(np.abs(found[0]).max()))


def test_equal_layers_are_found() -> None:
    """The first of equal layers stays; others of the same shape do, too."""
    one, other = np.zeros((4, 2)), np.ones((4, 2))
    assert distinct([one, other, one.copy(), np.zeros((4, 3))]) == [0, 1, 3]


def test_unusable_layers_are_named() -> None:
    """NaN in one of the layers is told before anything is decomposed."""
    parts, labels = layers_of(2000, 20, 20)
    parts[1][7, 3] = np.nan
    with pytest.raises(DataError, match="1 of 2000 images are not finite"):
        solve_joined(parts, labels)
    constant, labels = [np.ones((2000, 3), np.float32)] * 2, np.arange(2000) % 2
    assert np.isfinite(solve_joined(constant, labels).head.weight).all()


def test_a_layer_that_is_constant_has_no_weight() -> None:
    """Whether it has more channels than there are images, or fewer."""
    parts, labels = layers_of(420, *[20] * 12)
    few, many = (solve_joined([*parts, np.zeros((420, width), np.float32)], labels) for width in (30, 512))
    for solved in (few, many):
        assert "leading_axes" in solved.details and solved.train_accuracy > 0.9
        assert not solved.head.weight[:, 240:].any()
    np.testing.assert_allclose(few.head.weight[:, :240], many.head.weight[:, :240])
