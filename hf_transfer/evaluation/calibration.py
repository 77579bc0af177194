"""Temperature scaling: how far one number that divides all logits would correct the confidence of a model.

Source: https://arxiv.org/abs/1706.04599 (Guo et al., 2017).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from hf_transfer.evaluation.scores import check_predictions, ece, log_loss, log_softmax, score_images

# Beyond this a temperature says that the logits are useless, not that they are badly scaled.
_LOG_BOUNDS = (-3.0, 3.0)


@dataclass(frozen=True)
class Calibration:
    """Calibration before and after dividing the logits by a temperature.

    Attributes:
        temperature: Fitted on all images of `fitted_on`.
        fitted_on: Name of a split.
        measured_on: Name of the split that the four scores are of.
        crossed: The two are the same: then each half was scored with the temperature of the other half.
        ece_before: Calibration error of the logits as they are.
        ece_after: The same at the temperature.
        log_loss_before: Log loss of the logits as they are.
        log_loss_after: The same at the temperature.
    """

    temperature: float
    fitted_on: str
    measured_on: str
    crossed: bool
    ece_before: float
    ece_after: float
    log_loss_before: float
    log_loss_after: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The temperature with the lowest log loss.

    Args:
        logits: Shape `(images, classes)`.
        labels: Shape `(images,)`.
    """
    values, wanted = check_predictions(logits, labels)
    rows = np.arange(len(wanted))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(values / np.exp(log_temperature))[rows, wanted].mean())

    found = minimize_scalar(loss, bounds=_LOG_BOUNDS, method="bounded")
    return float(np.exp(found.x))


def measure_calibration(
    fit: tuple[str, npt.ArrayLike, npt.ArrayLike], measure: tuple[str, npt.ArrayLike, npt.ArrayLike] | None = None
) -> Calibration | None:
    """Fit a temperature on one split and measure what it does on another.

    Args:
        fit: Name, logits of shape `(images, classes)` and labels of the split to fit on.
        measure: The same of the split to measure on; None crosses two halves of the first.

    Returns:
        None for fewer than two images.
    """
    name, logits, labels = fit[0], np.asarray(fit[1], np.float64), np.asarray(fit[2])
    if len(labels) < 2:
        return None
    temperature = fit_temperature(logits, labels)
    if measure is None:
        before, after, wanted = logits, logits.copy(), labels
        halves = (np.arange(len(labels)) % 2 == 0, np.arange(len(labels)) % 2 == 1)
        for own, other in (halves, halves[::-1]):
            after[own] = logits[own] / fit_temperature(logits[other], labels[other])
    else:
        before, wanted = np.asarray(measure[1], np.float64), np.asarray(measure[2])
        after = before / temperature
    scores = [score_images(values, wanted) for values in (before, after)]
    return Calibration(
        temperature,
        name,
        name if measure is None else measure[0],
        measure is None,
        *(ece(score) for score in scores),
        *(log_loss(score) for score in scores),
    )
