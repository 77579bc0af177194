"""Which training images are held out: a part once where there are many, each in turn where there are few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_transfer.diagnosis.sampling import IntArray, image_keys
from hf_transfer.solvers import stratified_folds

ENOUGH = 1000
"""From this number of images on some are held out once; below, each is in its turn."""
FEW_FOLDS = 3
_SHARE, _FEWEST, _MOST = 0.1, 200, 2000
"""Of many images a tenth is held out, within these limits: 200 tell accuracies that differ by six points, paired ones
by three."""


@dataclass(frozen=True)
class HeldOutRows:
    """Rows to fit to and rows held out.

    Attributes:
        folds: Pairs of rows; one where images are many.
        labels: Labels of the held-out rows, in the order of the folds.
    """

    folds: tuple[tuple[IntArray, IntArray], ...]
    labels: IntArray

    @property
    def once(self) -> bool:
        """Whether the same images are held out for all that is decided, and no model is trained on them."""
        return len(self.folds) == 1


def hold_out(dataset: Any, labels: IntArray, seed: int = 0) -> HeldOutRows:
    """Choose the rows; each class is spread over all folds, and images of the same content are in the same fold.

    A class of a single image is never held out.

    Args:
        dataset: The images, for their content.
        labels: `(images,)`.
        seed: Seed for the draw.

    Raises:
        DataError: No class has two images.
    """
    many = len(labels) >= ENOUGH
    number = FEW_FOLDS
    if many:
        number = max(2, round(len(labels) / min(max(_SHARE * len(labels), _FEWEST), _MOST)))
    _, first, group = np.unique(image_keys(dataset, len(labels), 0), return_index=True, return_inverse=True)
    assigned = stratified_folds(labels[first], number, seed)[group.reshape(-1)]
    rows = np.arange(len(labels))
    folds = [(rows[assigned != fold], rows[assigned == fold]) for fold in range(1 if many else number)]
    folds = [(fit, held) for fit, held in folds if len(held)]
    return HeldOutRows(tuple(folds), np.concatenate([labels[held] for _, held in folds]))
