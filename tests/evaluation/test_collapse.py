"""Predictions that say nothing are told in words, all others are not."""

from __future__ import annotations

import io

import numpy as np
import pytest

from hf_transfer.cli.terminal import Terminal
from hf_transfer.evaluation import EvaluationReport, evaluate_predictions
from hf_transfer.evaluation.collapse import collapse
from hf_transfer.reporting.card import render_card
from tests.helpers.card_records import record as recorded


def judged(confusion: list[list[int]], names: tuple[str, ...] = ("good", "defect", "scratch")) -> EvaluationReport:
    """The report of predictions with these counts, true class by predicted class."""
    pairs = [(t, p) for t, row in enumerate(confusion) for p, count in enumerate(row) for _ in range(count)]
    labels, predictions = np.array(pairs).T
    return evaluate_predictions(np.eye(len(confusion))[predictions] * 5, labels, names[: len(confusion)], "test")


@pytest.mark.parametrize(
    ("confusion", "said"),
    [
        ([[40, 0], [8, 0]], "'good' for all 48 images, and for all 8 images of other classes"),
        ([[39, 1], [8, 0]], "'good' for 47 of 48 images, and for all 8 images"),
        ([[0, 40], [0, 8]], "'defect' for all 48 images, and for all 40 images"),
        ([[20, 0, 0], [19, 1, 0], [20, 0, 0]], "'good' for 59 of 60 images"),
        ([[30, 10], [3, 5]], "accuracy of 0.729 is no higher than that of always naming the largest class, 'good'"),
        ([[40, 0], [7, 1]], None),
        ([[36, 4], [4, 4]], "no higher"),
        ([[40, 0], [4, 4]], None),
        ([[10, 10], [9, 11]], None),
        ([[40, 0], [0, 0]], None),  # no image of another class
    ],
)
def test_what_says_nothing(confusion: list[list[int]], said: str | None) -> None:
    """One class for nearly all images, or no better than the largest class, with the counts of it; nothing else."""
    found = collapse(judged(confusion))
    assert (found is None) if said is None else (found is not None and said in found)


def test_terminal_and_card_say_it() -> None:
    """Whoever reads the accuracy reads that it means nothing."""
    report = judged([[40, 0], [8, 0]])
    stream = io.StringIO()
    Terminal(stream).results([report])
    assert "! The model predicts 'good' for all 48 images" in stream.getvalue()
    record = recorded(labels=report.label_names)
    record["evaluation"] = {record["data"]["evaluation_split"]: report.to_dict()}
    assert "The model predicts" in render_card(record)
