"""Scaled features in the basis of their principal axes: one eigendecomposition serves all solvers.

The loss of a linear head does not change under a rotation of the features, and neither does the L2 norm of its
weights. In this basis ridge regression is diagonal, and the curvature of the other losses nearly so, which spares
L-BFGS most of its steps. With fewer images than channels there are only as many axes as images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from hf_transfer.errors import ArgumentError
from hf_transfer.solvers.head import LinearHead
from hf_transfer.solvers.problem import FloatArray, blocks

# An eigendecomposition of this size takes minutes and gigabytes.
LARGEST_DECOMPOSITION = 16_384
# Axes with less of the variance than this are rounding errors of float32 features.
_NEGLIGIBLE = 1e-10
# In float32 so much cannot be told from rounding in the sums themselves.
_NEGLIGIBLE_SINGLE = 1e-6


@dataclass(frozen=True)
class Rotation:
    """Axes of scaled features.

    Attributes:
        mean: `(channels,)`; zero where the head has no bias to take it up.
        scale: `(channels,)`; as `mean_and_scale` gives it: infinite for constant channels, which thereby count for
            nothing.
        axes: `(channels, rank)`, orthonormal columns.
        eigenvalues: `(rank,)`: of the sum of (weighted) outer products of the rotated features, falling.
        coordinates: `(images, rank)`, float64 or float32: the scaled features along the axes.
        power: Of the standard deviation in `scale`.
    """

    mean: FloatArray
    scale: FloatArray
    axes: FloatArray
    eigenvalues: FloatArray
    coordinates: FloatArray
    power: float = 1.0

    def along(self, features: FloatArray) -> FloatArray:
        """Coordinates `(images, rank)` of other features."""
        projected: FloatArray = ((features - self.mean) / self.scale) @ self.axes
        return projected

    def head(self, weight: FloatArray, bias: FloatArray) -> LinearHead:
        """The head on plain features that is `weight` `(rank, classes)` and `bias` `(classes,)` on coordinates."""
        plain = (self.axes @ weight) / self.scale[:, None]
        return LinearHead(np.ascontiguousarray(plain.T), bias - self.mean @ plain)


def rotate(
    features: FloatArray,
    weights: FloatArray | None = None,
    bias: bool = True,
    dtype: type = np.float64,
    power: float = 1.0,
) -> Rotation:
    """Scale features and rotate them to their principal axes.

    Mean and scale are those of all images without their labels, also where some are held out later.

    Args:
        features: `(images, channels)`.
        weights: `(images,)`: weights of the images in mean, scale and axes; None weighs all alike.
        bias: Whether the head has a bias; without one features are scaled but not centred.
        dtype: Data type of the coordinates.
        power: Of the standard deviation by which each channel is divided; see `mean_and_scale`.

    Raises:
        ArgumentError: There are too many images and channels for an eigendecomposition.
    """
    images, channels = features.shape
    if min(images, channels) > LARGEST_DECOMPOSITION:
        raise ArgumentError(
            f"{images} images with {channels} channels are too many for an exact solver (at most "
            f'{LARGEST_DECOMPOSITION} of one of the two). Use solver="sgd".'
        )
    weights = np.ones(images) if weights is None else weights
    mean, scale = mean_and_scale(features, weights, bias, power)
    if images > channels:
        gram: FloatArray = np.zeros((channels, channels), dtype)
        roots = np.sqrt(weights)[:, None]
        for rows in blocks(images):
            weighted: FloatArray = ((features[rows] - mean) / scale * roots[rows]).astype(dtype)
            gram += weighted.T @ weighted
        eigenvalues, axes = leading_axes(gram)
    else:
        # Axes are made of eigenvectors divided by small numbers here: they need all digits to be orthonormal.
        standardised = (features - mean) / scale * np.sqrt(weights)[:, None]
        eigenvalues, vectors = leading_axes(standardised @ standardised.T)
        axes = standardised.T @ (vectors / np.sqrt(eigenvalues))
    coordinates: FloatArray = np.empty((images, len(eigenvalues)), dtype)
    cast_axes: FloatArray = axes.astype(dtype)
    for rows in blocks(images):
        coordinates[rows] = ((features[rows] - mean) / scale).astype(dtype) @ cast_axes
    return Rotation(mean, scale, axes, eigenvalues, coordinates, power)


def mean_and_scale(
    features: FloatArray, weights: FloatArray, centre: bool, power: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Weighted mean and the scale that features are divided by.

    Args:
        features: `(images, channels)`.
        weights: `(images,)`.
        centre: Whether the mean is taken off; without, it is zero, and deviations are those from zero.
        power: The scale is the standard deviation to this power, times what brings the mean variance of all channels
            to 1: with 1 each channel has variance 1, with 0 all channels are divided by the same number.

    Returns:
        `(channels,)` each; the scale is infinite for constant channels.
    """
    total = weights.sum()
    mean = np.zeros(features.shape[1])
    for rows in blocks(len(features)):
        mean += weights[rows] @ features[rows].astype(np.float64) / total
    offset = mean if centre else np.zeros_like(mean)
    variance = np.zeros_like(mean)
    for rows in blocks(len(features)):
        variance += weights[rows] @ np.square(features[rows] - offset) / total
    deviation = np.sqrt(variance)
    # What differs by rounding alone is constant.
    constant = (deviation <= 1e-6 * np.abs(mean) if centre else deviation == 0) | (deviation < 1e-30)
    scale = np.where(constant, np.inf, deviation**power)
    left = np.square(deviation / scale)[~constant]
    return offset, scale * np.sqrt(left.mean()) if len(left) else scale


def leading_axes(gram: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues, falling, with their vectors; without the negligible ones."""
    eigenvalues, vectors = scipy.linalg.eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
    negligible = _NEGLIGIBLE_SINGLE if gram.dtype == np.float32 else _NEGLIGIBLE
    kept = eigenvalues > negligible * max(float(eigenvalues[-1]), 0.0)
    return eigenvalues[kept][::-1].copy(), np.ascontiguousarray(vectors[:, kept][:, ::-1])
