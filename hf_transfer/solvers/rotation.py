"""Standardised features in the basis of their principal axes: one eigendecomposition serves all solvers.

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
    """Axes of standardised features.

    Attributes:
        mean: `(channels,)`; zero where the head has no bias to take it up.
        scale: `(channels,)`; standard deviations, infinite for constant channels, which thereby count for nothing.
        axes: `(channels, rank)`, orthonormal columns.
        eigenvalues: `(rank,)`: of the sum of (weighted) outer products of the rotated features, falling.
        coordinates: `(images, rank)`, float64 or float32: the standardised features along the axes.
    """

    mean: FloatArray
    scale: FloatArray
    axes: FloatArray
    eigenvalues: FloatArray
    coordinates: FloatArray

    def head(self, weight: FloatArray, bias: FloatArray) -> LinearHead:
        """The head on plain features that is `weight` `(rank, classes)` and `bias` `(classes,)` on coordinates."""
        plain = (self.axes @ weight) / self.scale[:, None]
        return LinearHead(np.ascontiguousarray(plain.T), bias - self.mean @ plain)


def rotate(
    features: FloatArray, weights: FloatArray | None = None, bias: bool = True, dtype: type = np.float64
) -> Rotation:
    """Standardise features and rotate them to their principal axes.

    Mean and scale are those of all images without their labels, also where some are held out later.

    Args:
        features: `(images, channels)`.
        weights: `(images,)`: weights of the images in mean, scale and axes; None weighs all alike.
        bias: Whether the head has a bias; without one features are scaled but not centred.
        dtype: Data type of the coordinates.

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
    mean, scale = mean_and_scale(features, weights, bias)
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
    return Rotation(mean, scale, axes, eigenvalues, coordinates)


def mean_and_scale(features: FloatArray, weights: FloatArray, centre: bool) -> tuple[FloatArray, FloatArray]:
    """Weighted mean (zero without centring) and standard deviation (infinite for constant channels)."""
    total = weights.sum()
    mean = np.zeros(features.shape[1])
    for rows in blocks(len(features)):
        mean += weights[rows] @ features[rows].astype(np.float64) / total
    offset = mean if centre else np.zeros_like(mean)
    variance = np.zeros_like(mean)
    for rows in blocks(len(features)):
        variance += weights[rows] @ np.square(features[rows] - offset) / total
    scale = np.sqrt(variance)
    # What differs by rounding alone is constant.
    constant = scale <= 1e-6 * np.abs(mean) if centre else scale == 0
    return offset, np.where(constant | (scale < 1e-30), np.inf, scale)


def leading_axes(gram: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues, falling, with their vectors; without the negligible ones."""
    eigenvalues, vectors = scipy.linalg.eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
    negligible = _NEGLIGIBLE_SINGLE if gram.dtype == np.float32 else _NEGLIGIBLE
    kept = eigenvalues > negligible * max(float(eigenvalues[-1]), 0.0)
    return eigenvalues[kept][::-1].copy(), np.ascontiguousarray(vectors[:, kept][:, ::-1])
