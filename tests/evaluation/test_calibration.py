"""Temperature scaling finds the temperature that was put in, and measures it on other images than it was fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.evaluation.calibration import fit_temperature, measure_calibration
from hf_transfer.reporting.card import render_card
from tests.helpers.card_records import changed, record, section


def drawn(n: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times too sharp for the labels drawn from them."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(n, 4)) * 2
    chances = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    labels = (chances.cumsum(1) > rng.random((n, 1))).argmax(1)
    return true * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_finds_the_temperature(temperature: float) -> None:
    """Within the error of 4,000 images."""
    assert fit_temperature(*drawn(4000, temperature, 0)) == pytest.approx(temperature, rel=0.1)


def test_measures_elsewhere() -> None:
    """Another split is measured with the temperature of the first; alone, the halves are crossed; both improve."""
    fit, other = ("validation", *drawn(1000, 3.0, 0)), ("test", *drawn(1000, 3.0, 1))
    for found, where, crossed in (
        (measure_calibration(fit, other), "test", False),
        (measure_calibration(fit), "validation", True),
    ):
        assert found is not None and (found.fitted_on, found.measured_on, found.crossed) == (
            "validation",
            where,
            crossed,
        )
        assert found.ece_after < found.ece_before / 2 and found.log_loss_after < found.log_loss_before
    assert measure_calibration(("x", np.zeros((1, 2)), np.zeros(1, int))) is None


def test_in_the_card() -> None:
    """The card gives both values and says where they come from; without the measurement it says nothing."""
    found = measure_calibration(("validation", *drawn(200, 3.0, 0)))
    assert found is not None
    text = section(render_card(changed(record(), training={"calibration": found.to_dict()})), "Evaluation")
    assert f"from {found.ece_before:.3f} to {found.ece_after:.3f}" in text
    assert f"temperature of {found.temperature:.2f}" in text and "the other half" in text
    assert "temperature" not in render_card(record())
