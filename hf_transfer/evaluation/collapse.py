"""Predictions that say nothing: one class for nearly all images, or no better than always naming the largest class."""

from __future__ import annotations

import numpy as np

from hf_transfer.evaluation.results import EvaluationReport

NEARLY_ALL = 0.9
"""From this share on, of the images of a class and of all others, a model names that class for nearly all images."""


def collapse(report: EvaluationReport) -> str | None:
    """What is wrong with predictions that say nothing, in a sentence; None for others.

    Args:
        report: The evaluation of a split.
    """
    confusion = np.array(report.confusion)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    total, right, largest = int(confusion.sum()), int(np.diag(confusion).sum()), int(support.argmax())
    named = int(predicted.argmax())
    others = total - int(support[named])
    if not total or not others:
        return None
    taken = int(predicted[named] - confusion[named, named])
    if taken >= NEARLY_ALL * others and confusion[named, named] >= NEARLY_ALL * support[named]:
        return (
            f"The model predicts {report.label_names[named]!r} for {_of(int(predicted[named]), total)} images, and "
            f"for {_of(taken, others)} images of other classes: it does not tell the classes apart. The share of "
            f"that class is {support[named] / total:.3f}, the accuracy {right / total:.3f}."
        )
    if right <= support[largest] and np.count_nonzero(support) > 1:
        return (
            f"The accuracy of {right / total:.3f} is no higher than that of always naming the largest class, "
            f"{report.label_names[largest]!r} with {support[largest] / total:.3f} of the images."
        )
    return None


def _of(part: int, whole: int) -> str:
    return f"all {whole:,}" if part == whole else f"{part:,} of {whole:,}"
