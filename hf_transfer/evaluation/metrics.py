"""Our scores as metrics of the `evaluate` library, for evaluation loops of one's own on one or several ranks.

Each takes `predictions`, the logits `(images, classes)`, and `references`, the class indices `(images,)`. Nothing is
downloaded. As with every metric of the library, `num_process`, `process_id`, `experiment_id`, `cache_dir`,
`keep_in_memory` and so on go to the constructor; `compute` gathers over the ranks by files in `cache_dir` (which all
ranks must share) and returns the result on rank 0, None on the others:

    metric = ClassificationScores(num_process=world_size, process_id=rank, experiment_id="run-7")
    for batch in loader:
        metric.add_batch(predictions=model(**batch).logits, references=batch["labels"])
    result = metric.compute()

A distributed sampler that repeats images to fill the last batch counts them twice; split the images without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import evaluate
import numpy as np
import numpy.typing as npt
from datasets import Features, List, Value

from hf_transfer.evaluation.scores import SCALARS, scalar_names, score_images

__all__ = [
    "Accuracy",
    "BalancedAccuracy",
    "BrierScore",
    "ClassificationScores",
    "Ece",
    "LogLoss",
    "MacroF1",
    "Top5Accuracy",
]

_INPUTS = """
Args:
    predictions: Logits (images, classes).
    references: Class indices (images,).
Returns:
    A dictionary of floats by the names of the scores.
"""


class ClassificationScores(evaluate.Metric):
    """All scalar scores at once: the logits are gathered a single time."""

    score_names: ClassVar[Sequence[str] | None] = None
    """The scores to compute; None stands for all that make sense for the number of classes."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description=_INPUTS,
            features=Features({"predictions": List(Value("float32")), "references": Value("int64")}),
        )

    def _compute(self, *, predictions: npt.ArrayLike, references: npt.ArrayLike) -> dict[str, float]:
        scores = score_images(np.asarray(predictions, np.float32), np.asarray(references))
        return {name: SCALARS[name](scores) for name in self.score_names or scalar_names(scores.classes)}


class Accuracy(ClassificationScores):
    """Share of the images whose prediction is right."""

    score_names = ("accuracy",)


class BalancedAccuracy(ClassificationScores):
    """Mean over the classes of the share of their images whose prediction is right."""

    score_names = ("balanced_accuracy",)


class Top5Accuracy(ClassificationScores):
    """Share of the images whose true class is among the five largest logits."""

    score_names = ("top5_accuracy",)


class MacroF1(ClassificationScores):
    """Mean F1 over the classes that occur in the references."""

    score_names = ("macro_f1",)


class LogLoss(ClassificationScores):
    """Mean cross-entropy in nats."""

    score_names = ("log_loss",)


class Ece(ClassificationScores):
    """Expected calibration error over 15 bins of equal mass."""

    score_names = ("ece",)


class BrierScore(ClassificationScores):
    """Mean squared distance between probabilities and one-hot label, 0 (best) to 2."""

    score_names = ("brier_score",)
