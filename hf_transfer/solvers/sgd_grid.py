"""A grid of learning rates trained at once, for features that do not fit into memory or a decomposition.

Source: https://github.com/facebookresearch/dinov2, `eval/linear.py`
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hf_transfer.errors import ArgumentError, DataError
from hf_transfer.solvers.head import LinearHead, PathPoint, SolvedHead, accuracy_of, cross_entropy
from hf_transfer.solvers.problem import FloatArray, IntArray, Problem, stratified_folds
from hf_transfer.solvers.rotation import mean_and_scale

# DINOv2's, for a batch of 256.
LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
BATCH = 128
EPOCHS = 10
# One image in ten is held out to choose by, as DINOv2 does for its logistic regression.
_HELD_OUT_FOLDS = 10


def sgd_grid(
    problem: Problem,
    learning_rates: Sequence[float] = LEARNING_RATES,
    *,
    bias: bool = True,
    seed: int = 0,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
) -> SolvedHead:
    """Train one head for each learning rate, all in the same passes over the features, and take the best.

    SGD with momentum 0.9, cosine decay and no weight decay on standardised features; each batch is read once for all
    heads. The learning rate is chosen on a stratified tenth of the images; the head is then trained again on all.

    Args:
        problem: Features and labels; features are read in batches and may be mapped from a disk.
        learning_rates: For a batch of 256 images; scaled by the batch size.
        bias: Whether the head has a bias.
        seed: Seed for the held-out part and of the order of images.
        epochs: Passes over the features.
        batch_size: Images in one step.

    Raises:
        ArgumentError: A number is not positive.
        DataError: No head's loss is finite, or nothing can be held out.
    """
    rates = tuple(sorted({float(rate) for rate in learning_rates}))
    if not rates or not all(0 < rate < np.inf for rate in rates) or epochs < 1 or batch_size < 1:
        raise ArgumentError(
            f"learning_rates, epochs and batch_size must be positive, found {list(learning_rates)!r}, {epochs} and "
            f"{batch_size}."
        )
    mean, scale = mean_and_scale(problem.features, np.ones(problem.images), bias)
    out = stratified_folds(problem.labels, _HELD_OUT_FOLDS, seed) == 0
    if not out.any():
        raise DataError("No image can be held out to choose the learning rate by.")
    training, held_out = np.flatnonzero(~out), np.flatnonzero(out)
    heads = _train(problem, training, rates, mean, scale, bias, seed, epochs, batch_size)
    points = [
        _point(rate, _folded(head, mean, scale), problem, held_out) for rate, head in zip(rates, heads, strict=True)
    ]
    finite = [point for point in points if np.isfinite(point.loss)]
    if not finite:
        raise DataError("The loss became infinite at every learning rate. Give smaller ones.")
    best = min(finite, key=lambda point: (-point.accuracy, point.loss))
    rows = np.arange(problem.images)
    (trained,) = _train(problem, rows, (best.value,), mean, scale, bias, seed, epochs, batch_size)
    head = _folded(trained, mean, scale)
    scores = head.scores(problem.features)
    if not np.isfinite(scores).all():
        raise DataError(f"The loss became infinite at the learning rate {best.value}. Give smaller ones.")
    return SolvedHead(
        head,
        "sgd",
        "learning_rate",
        best.value,
        tuple(points),
        "a stratified tenth held out",
        best.accuracy,
        float(np.sqrt(best.accuracy * (1 - best.accuracy) / len(held_out))),
        len(held_out),
        accuracy_of(scores, problem.labels),
        cross_entropy(scores, problem.labels),
        iterations=epochs * -(-problem.images // batch_size),
        details={"epochs": epochs, "batch_size": batch_size, "momentum": 0.9},
    )


def _train(
    problem: Problem,
    rows: IntArray,
    rates: Sequence[float],
    mean: FloatArray,
    scale: FloatArray,
    bias: bool,
    seed: int,
    epochs: int,
    batch_size: int,
) -> list[tuple[FloatArray, FloatArray]]:
    """Weight `(channels, classes)` and bias of one head for each rate."""
    channels, classes = problem.features.shape[1], problem.classes
    weight = torch.zeros(channels, len(rates), classes)
    offset = torch.zeros(len(rates), classes)
    speeds = [torch.zeros_like(weight), torch.zeros_like(offset)]
    # As DINOv2 scales them; a batch cannot be larger than the data.
    peak = torch.tensor(rates) * min(batch_size, len(rows)) / 256
    image_weights = torch.from_numpy(problem.image_weights).float()
    generator = np.random.default_rng(seed)
    steps, step = epochs * -(-len(rows) // batch_size), 0
    with torch.inference_mode():
        for _ in range(epochs):
            order = generator.permutation(rows)
            for start in range(0, len(order), batch_size):
                batch = np.sort(order[start : start + batch_size])
                inputs = torch.from_numpy(((problem.features[batch] - mean) / scale).astype(np.float32))
                labels = torch.from_numpy(problem.labels[batch])
                logits = torch.einsum("bc,cgk->bgk", inputs, weight) + offset
                slope = logits.softmax(-1)
                slope[torch.arange(len(batch)), :, labels] -= 1
                slope *= (image_weights[batch] / len(batch))[:, None, None]
                rate = peak[:, None] * (1 + np.cos(np.pi * step / steps)) / 2
                gradients = (torch.einsum("bc,bgk->cgk", inputs, slope), slope.sum(0))
                for parameter, speed, gradient in zip((weight, offset), speeds, gradients, strict=True):
                    speed.mul_(0.9).add_(gradient)
                    if bias or parameter is weight:
                        parameter.sub_(rate * speed)
                step += 1
    return [(weight[:, index].double().numpy(), offset[index].double().numpy()) for index in range(len(rates))]


def _folded(head: tuple[FloatArray, FloatArray], mean: FloatArray, scale: FloatArray) -> LinearHead:
    weight = head[0] / scale[:, None]
    return LinearHead(np.ascontiguousarray(weight.T), head[1] - mean @ weight)


def _point(rate: float, head: LinearHead, problem: Problem, held_out: IntArray) -> PathPoint:
    weights, labels = problem.image_weights[held_out], problem.labels[held_out]
    scores = head.scores(problem.features[held_out])
    if not np.isfinite(scores).all():
        return PathPoint(rate, 0.0, float("inf"))
    return PathPoint(rate, accuracy_of(scores, labels, weights), cross_entropy(scores, labels, weights))
