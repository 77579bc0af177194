"""A linear head and what is known of how it was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.optimize
from scipy.special import logsumexp

from hf_transfer.solvers.problem import FloatArray, IntArray, blocks


@dataclass(frozen=True)
class PathPoint:
    """One value of what the solver chooses among, and how well it does on held-out images.

    Attributes:
        value: Regularisation, or the learning rate of `sgd`.
        accuracy: Share of held-out images that are right; with class weights, weighted by them.
        loss: Mean loss of held-out images, weighted likewise; of `ridge` the squared error.
    """

    value: float
    accuracy: float
    loss: float


@dataclass(frozen=True)
class LinearHead:
    """Scores are `features @ weight.T + bias`.

    Attributes:
        weight: `(classes, channels)`, float64; standardisation is folded into it.
        bias: `(classes,)`, float64.
    """

    weight: FloatArray
    bias: FloatArray

    def scores(self, features: FloatArray) -> FloatArray:
        """Scores `(images, classes)` of features `(images, channels)`, in float64."""
        return np.concatenate(
            [features[rows].astype(np.float64) @ self.weight.T + self.bias for rows in blocks(len(features))]
        )

    def divided_by(self, temperature: float) -> LinearHead:
        """The head whose scores are smaller by a factor; decisions stay."""
        return LinearHead(self.weight / temperature, self.bias / temperature)


@dataclass(frozen=True)
class SolvedHead:
    """The result of a solver.

    Attributes:
        head: The head.
        solver: "logistic", "svm", "ridge" or "sgd".
        parameter: What was chosen: "regularisation" or "learning_rate".
        value: The chosen value.
        path: All values that were tried, from strong to weak, or from the lowest rate.
        estimate: "5-fold cross-validation", "leave-one-out", ...: how held-out images were made.
        accuracy: Accuracy on held-out images at the chosen value; the best of several, hence slightly too good.
        standard_error: Standard error of that accuracy; see `standard_error_of`.
        held_out: Number of images that were held out once.
        train_accuracy: Share of the training images that are right.
        train_loss: Mean cross-entropy of the training images under the head's softmax.
        temperature: By which scores were divided to make their softmax fit held-out labels; 1 for "logistic".
        class_weights: As asked for: None, "balanced" or a mapping.
        iterations: Number of iterations of the last fit.
        details: What else is to be known of the solver.
    """

    head: LinearHead
    solver: str
    parameter: str
    value: float
    path: tuple[PathPoint, ...]
    estimate: str
    accuracy: float
    standard_error: float
    held_out: int
    train_accuracy: float
    train_loss: float
    temperature: float = 1.0
    class_weights: Any = None
    iterations: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the weights."""
        weights = self.class_weights
        return {
            "solver": self.solver,
            "parameter": self.parameter,
            "value": self.value,
            "estimate": self.estimate,
            "accuracy": self.accuracy,
            "standard_error": self.standard_error,
            "held_out": self.held_out,
            "train_accuracy": self.train_accuracy,
            "train_loss": self.train_loss,
            "temperature": self.temperature,
            "class_weights": {str(k): v for k, v in weights.items()} if isinstance(weights, Mapping) else weights,
            "iterations": self.iterations,
            "details": dict(self.details),
            "path": [{"value": p.value, "accuracy": p.accuracy, "loss": p.loss} for p in self.path],
        }


def cross_entropy(scores: FloatArray, labels: IntArray, weights: FloatArray | None = None) -> float:
    """Mean negative log-likelihood under the softmax of scores, weighted where weights are given."""
    each = logsumexp(scores, axis=1) - scores[np.arange(len(labels)), labels]
    return float(np.average(each, weights=weights))


def accuracy_of(scores: FloatArray, labels: IntArray, weights: FloatArray | None = None) -> float:
    """Share of images whose highest score is that of their label, weighted where weights are given."""
    return float(np.average(scores.argmax(axis=1) == labels, weights=weights))


def standard_error_of(accuracy: float, images: int, few: bool) -> float:
    """Standard error of a held-out accuracy as an estimate of that on new images.

    Args:
        accuracy: Held-out accuracy.
        images: Number of images that were held out; one that repeats judged several times counts once.
        few: Whether images are so few that what is fitted to them differs from draw to draw about as much as the
            held-out images do: the variance is then twice that of a share. Over draws of 10 + 10, 4 x 5 and 30 + 30
            synthetic images estimates were off by 1.5, 1.25 and 1.3 times the standard error of a share.
    """
    return float(np.sqrt((2 if few else 1) * accuracy * (1 - accuracy) / images))


def fitted_temperature(scores: FloatArray, labels: IntArray, weights: FloatArray | None = None) -> float:
    """The number to divide scores by, so that their softmax has the least cross-entropy.

    Args:
        scores: `(images, classes)` of images that the scores' head was not fitted to.
        labels: `(images,)`.
        weights: `(images,)`.

    Source: https://arxiv.org/abs/1706.04599
    """
    spread = float(np.abs(scores - scores.mean(axis=1, keepdims=True)).max())
    if not spread:
        return 1.0
    # Convex in the inverse temperature, and a softmax of scores of this spread needs no more than these bounds.
    found = scipy.optimize.minimize_scalar(
        lambda log_inverse: cross_entropy(scores * np.exp(log_inverse), labels, weights),
        bounds=(np.log(1e-3 / spread), np.log(1e3 / spread)),
        method="bounded",
    )
    return float(np.exp(-found.x))
