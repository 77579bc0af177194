"""Alternative texts of the figures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


ALT_TEXT: Mapping[str, str] = MappingProxyType(
    {
        "learning_curves.png": "Line charts of training loss, evaluation loss and evaluation accuracy over the steps.",
        "confusion_matrix.png": "Heat map of true against predicted class; each row shows the shares of one class.",
        "layer_plan.png": "Table of layer groups from input to output against phases: learning rate, or frozen.",
        "learning_rate_range.png": "Line charts of training loss against learning rate; the chosen rate is marked.",
        "accuracy_by_depth.png": "Line chart of held-out accuracy by layer, with pretrained and with random weights.",
        "worst_mistakes.png": "Grid of wrongly classified images: prediction with its confidence, and true label.",
    }
)
"""What each figure shows, for readers who cannot see it, by file name."""
