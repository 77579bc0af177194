"""Evaluation: the scores agree with scikit-learn and with their definitions, and faults are named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from hf_transfer.errors import ArgumentError, DataError, NonFiniteLossError, OutputError
from hf_transfer.evaluation import (
    EvaluationReport,
    evaluate_predictions,
    make_compute_metrics,
    most_confident_errors,
    write_predictions,
)
from hf_transfer.evaluation.intervals import bootstrap_intervals, resample_count, wilson_interval
from hf_transfer.evaluation.scores import SCALARS, ece_of_sorted, row_blocks, score_images
from hf_transfer.evaluation.tables import metrics_table, per_class_table


def made_up(images: int = 300, classes: int = 8, signal: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of a model that is right rather often."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=images)
    logits = generator.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), labels] += signal
    return logits, labels


def names(classes: int) -> list[str]:
    return [f"class {i}" for i in range(classes)]


def probabilities(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@settings(max_examples=30, deadline=None)
@given(images=st.integers(1, 60), classes=st.integers(2, 12), signal=st.floats(-2, 5), seed=st.integers(0, 10_000))
def test_scores_agree_with_scikit_learn(images: int, classes: int, signal: float, seed: int) -> None:
    """Every score that scikit-learn has is the same there, also with classes that never occur."""
    logits, labels = made_up(images, classes, signal, seed)
    scores = score_images(logits, labels)
    predicted, every = logits.argmax(axis=1), np.arange(classes)
    assert SCALARS["accuracy"](scores) == pytest.approx(sk.accuracy_score(labels, predicted))
    assert SCALARS["log_loss"](scores) == pytest.approx(sk.log_loss(labels, probabilities(logits), labels=every))
    one_hot = np.eye(classes)[labels]
    brier = ((probabilities(logits) - one_hot) ** 2).sum(axis=1).mean()
    assert SCALARS["brier_score"](scores) == pytest.approx(brier)
    if classes > 5:
        expected = sk.top_k_accuracy_score(labels, logits, k=5, labels=every)
        assert SCALARS["top5_accuracy"](scores) == pytest.approx(expected)
    present = np.unique(labels)
    expected = sk.f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert SCALARS["macro_f1"](scores) == pytest.approx(expected)


def test_blocks_of_rows_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Working through the images in pieces gives what one piece gives."""
    logits, labels = made_up(101, 7)
    whole = score_images(logits, labels)
    monkeypatch.setattr("hf_transfer.evaluation.scores._BLOCK_SIZE", 70)
    assert len(list(row_blocks(101, 7))) == 11
    pieces = score_images(logits, labels)
    for field in ("predictions", "confidences", "losses", "squared_errors", "in_top5"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(pieces, field))


def test_ece_by_hand() -> None:
    """The ECE follows its definition: |correct - confidence| summed by bins of equal mass."""
    confidences = np.repeat([0.55, 0.65, 0.95], 15)
    correct = np.array([True] * 6 + [False] * 9 + [True] * 9 + [False] * 6 + [True] * 15)
    # Each confidence is one bin: |6 - 8.25|, |9 - 9.75|, |15 - 14.25| of 45 images.
    assert ece_of_sorted(confidences, correct) == pytest.approx((2.25 + 0.75 + 0.75) / 45)
    distinct = np.linspace(0.1, 0.9, 30)
    right = np.arange(30) % 2 == 0
    bins = [abs(right[i : i + 2].sum() - distinct[i : i + 2].sum()) for i in range(0, 30, 2)]
    assert ece_of_sorted(distinct, right) == pytest.approx(sum(bins) / 30)


def test_ece_does_not_depend_on_the_order_of_equal_confidences() -> None:
    """Images of one confidence share a bin, so that the order in which ranks deliver them does not matter."""
    generator = np.random.default_rng(3)
    logits = np.round(generator.normal(size=(400, 3)))
    labels = generator.integers(3, size=400)
    shuffled = generator.permutation(400)
    first = SCALARS["ece"](score_images(logits, labels))
    second = SCALARS["ece"](score_images(logits[shuffled], labels[shuffled]))
    assert first == pytest.approx(second, abs=1e-12)


def test_top5_of_equal_logits_is_not_flattered() -> None:
    """A model that gives all classes the same logit has the first five in its top five, no more."""
    scores = score_images(np.zeros((10, 10)), np.arange(10))
    assert SCALARS["top5_accuracy"](scores) == 0.5


def test_log_loss_of_a_confident_error_is_not_clipped() -> None:
    """The loss of a probability that underflows is the difference of the logits."""
    assert SCALARS["log_loss"](score_images([[2000.0, 0.0]], [1])) == pytest.approx(2000.0)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (1, 3), (897, 1000)])
def test_wilson_interval_agrees_with_scipy(hits: int, n: int) -> None:
    """Wilson's interval is that of scipy, and holds the share itself."""
    from scipy.stats import binomtest

    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(hits, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert low <= hits / n <= high


@pytest.mark.slow
def test_bootstrap_agrees_with_plain_resampling() -> None:
    """The fast resampling gives the interval that resampling the images themselves gives."""
    logits, labels = made_up(120, 4, 1.0)
    scores = score_images(logits, labels)
    generator = np.random.default_rng(11)
    draws: dict[str, list[float]] = {
        name: [] for name in ("balanced_accuracy", "macro_f1", "log_loss", "ece", "brier_score")
    }
    for _ in range(600):
        chosen = generator.integers(120, size=120)
        sample = score_images(logits[chosen], labels[chosen])
        for name, values in draws.items():
            values.append(SCALARS[name](sample))
    for name, interval in bootstrap_intervals(scores).items():
        value = SCALARS[name](scores)
        low, high = 2 * value - np.quantile(draws[name], [0.975, 0.025])
        assert interval == pytest.approx((max(0.0, low), high), abs=0.25 * (high - low))


def test_bootstrap_is_reproducible_and_bounded() -> None:
    """The seed fixes the intervals; very many images are resampled less often."""
    scores = score_images(*made_up(50))
    assert bootstrap_intervals(scores) == bootstrap_intervals(scores)
    assert bootstrap_intervals(scores, seed=1) != bootstrap_intervals(scores)
    assert resample_count(1_000) == resample_count(100_000) == 1_000
    assert resample_count(200_000) == 500
    assert resample_count(10_000_000) == 200


def test_report_holds_every_metric_with_an_interval_around_it() -> None:
    """Each metric lies in its own interval, which narrows with more images."""
    small, large = (evaluate_predictions(*made_up(n), names(8), "test") for n in (60, 3000))
    rest = ("macro_f1", "log_loss", "ece", "brier_score")
    assert tuple(small.metrics) == ("accuracy", "balanced_accuracy", "top5_accuracy", *rest)
    for name, metric in small.metrics.items():
        other = large.metrics[name]
        assert metric.low is not None and metric.high is not None and other.low is not None and other.high is not None
        assert metric.low <= metric.value <= metric.high
        assert other.high - other.low < metric.high - metric.low


def test_few_classes_have_no_top5() -> None:
    """Top-5 accuracy is left out where it would always be 1."""
    report = evaluate_predictions(*made_up(40, 5), names(5), "test")
    assert "top5_accuracy" not in report.metrics
    assert "top5_accuracy" not in make_compute_metrics(names(5))(SimpleNamespace(**predicted(40, 5)))


def predicted(images: int, classes: int) -> dict[str, np.ndarray]:
    logits, labels = made_up(images, classes)
    return {"predictions": logits, "label_ids": labels}


def test_confusions_and_classes_by_hand() -> None:
    """Rows of the confusion matrix are true classes; an absent class has support 0 and crashes nothing."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    logits = np.eye(4)[[0, 1, 1, 2, 1, 0, 3]] * 4
    report = evaluate_predictions(logits, labels, ["cat", "dog", "cow", "owl"], "validation")
    assert report.confusion == ((1, 2, 1, 0), (1, 1, 0, 1), (0, 0, 0, 0), (0, 0, 0, 0))
    worst = report.worst_confusions
    assert (worst[0].true, worst[0].predicted, worst[0].count, worst[0].share) == ("cat", "dog", 2, 0.5)
    assert [(c.true, c.predicted) for c in worst[1:]] == [("dog", "cat"), ("dog", "owl"), ("cat", "cow")]
    cat, _, cow, _ = report.per_class
    assert (cat.precision, cat.recall, cat.support) == (0.5, 0.25, 4)
    assert (cow.precision, cow.recall, cow.f1, cow.support) == (0.0, 0.0, 0.0, 0)
    assert report.metrics["macro_f1"].value == pytest.approx((1 / 3 + 1 / 3) / 2)


def test_report_survives_json() -> None:
    """to_dict and from_dict are inverse over real JSON."""
    report = evaluate_predictions(*made_up(90, 12), names(12), "validation")
    assert EvaluationReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize("fault", [{"n": None}, {"metrics": {"accuracy": 0.5}}, {"confusion_cells": [[9, 0, 1]]}])
def test_faulty_json_is_named(fault: dict[str, object]) -> None:
    """A report with a missing or malformed part is a DataError that names the fault."""
    data = {**evaluate_predictions(*made_up(20, 3), names(3), "test").to_dict(), **fault}
    if data["n"] is None:
        del data["n"]
    with pytest.raises(DataError, match="to_dict"):
        EvaluationReport.from_dict(data)


def test_tables_show_names_as_they_are() -> None:
    """The tables hold every metric with its interval, and a label that looks like markup stays itself."""
    report = evaluate_predictions(*made_up(200, 3), ["[bold]x[/bold]", "y", "z"], "validation")
    assert "[bold]x[/bold]" in per_class_table(report)
    accuracy = report.metrics["accuracy"]
    line = next(line for line in metrics_table(report).splitlines() if "Accuracy" in line)
    assert f"{accuracy.value:.3f}" in line and f"{accuracy.low:.3f} to {accuracy.high:.3f}" in line
    assert "validation: 200 images, 3 classes" in metrics_table(report)


def test_long_class_tables_show_both_ends() -> None:
    """With more than 50 classes the table has the ten worst and the ten best."""
    logits, labels = made_up(3000, 60)
    labels[labels == 7] = 8
    report = evaluate_predictions(logits, labels, names(60), "test")
    shown = [line for line in per_class_table(report).splitlines() if line.strip().startswith("class ")]
    ranked = sorted((score for score in report.per_class if score.support), key=lambda score: score.f1)
    assert len(shown) == 1 + 20
    assert f"{ranked[0].name} " in shown[1] and f"{ranked[-1].name} " in shown[-1]
    assert len(per_class_table(evaluate_predictions(*made_up(100, 50), names(50), "test")).splitlines()) >= 50


@pytest.mark.parametrize(("value", "word"), [(np.nan, "3 NaN and 0 infinite"), (np.inf, "0 NaN and 3 infinite")])
def test_non_finite_logits_say_how_many_and_where(value: float, word: str) -> None:
    """NaN and infinite logits stop the evaluation with their count and the images."""
    logits, labels = made_up(30, 4)
    logits[[2, 2, 17], [0, 1, 3]] = value
    with pytest.raises(NonFiniteLossError, match=rf"{word} values in 2 of 30 images \(indices 2, 17\)"):
        evaluate_predictions(logits, labels, names(4), "test")


@pytest.mark.parametrize(
    ("logits", "labels", "label_names", "message"),
    [
        (np.zeros((3, 2)), [0, 1], ["a", "b"], r"found \(3, 2\) and \(2,\)"),
        (np.zeros((0, 2)), np.zeros(0, int), ["a", "b"], "at least one image"),
        (np.zeros((2, 1)), [0, 0], ["a"], "two classes"),
        (np.zeros((2, 2)), [0, 2], ["a", "b"], "found 1 of 2 outside"),
        (np.zeros((2, 2)), [0, -100], ["a", "b"], "values -100, images 1"),
        (np.zeros((2, 2)), [0.0, 1.0], ["a", "b"], "float64"),
        (np.zeros((2, 2)), [0, 1], ["a", "b", "c"], "found 3"),
    ],
)
def test_bad_input_is_named(logits: np.ndarray, labels: object, label_names: list[str], message: str) -> None:
    """Arguments that do not fit each other give one clear DataError."""
    with pytest.raises(DataError, match=message):
        evaluate_predictions(logits, np.asarray(labels), label_names, "test")


def test_trainer_metrics_are_plain_scalars() -> None:
    """compute_metrics returns floats equal to the report's, and takes logits from the front of a tuple."""
    logits, labels = made_up(150, 8)
    compute = make_compute_metrics(names(8), extra_metrics=("brier_score",))
    metrics = compute(SimpleNamespace(predictions=(logits, np.zeros((150, 2))), label_ids=labels))
    report = evaluate_predictions(logits, labels, names(8), "validation")
    assert metrics == {name: metric.value for name, metric in report.metrics.items()}
    assert all(type(value) is float for value in metrics.values())
    assert "brier_score" not in make_compute_metrics(names(8))(SimpleNamespace(**predicted(20, 8)))


def test_trainer_metrics_reject_another_head() -> None:
    """Logits of another number of classes than the label names are refused."""
    with pytest.raises(DataError, match="each of the 4 classes"):
        make_compute_metrics(names(3))(SimpleNamespace(**predicted(20, 4)))


def test_most_confident_errors_come_first() -> None:
    """Only wrong predictions are listed, by falling confidence, and no more than asked for."""
    logits = np.array([[5.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, 9.0], [2.0, 0.0]])
    labels = np.array([0, 0, 0, 1, 1])
    assert most_confident_errors(logits, labels) == (2, 4, 1)
    assert most_confident_errors(logits, labels, limit=1) == (2,)


def test_predictions_file_has_all_probabilities(tmp_path: Path) -> None:
    """Up to 100 classes every probability is stored, with the label names beside them."""
    logits, labels = made_up(25, 4)
    path = tmp_path / "new" / "predictions.parquet"
    write_predictions(path, [f"{i}.png" for i in range(25)], logits, labels, ["a", "b", "ü", "d"])
    table = pq.read_table(path)
    assert table.column_names == ["name", "label", "prediction", "confidence", "correct", "probabilities"]
    assert json.loads(table.schema.metadata[b"label_names"]) == ["a", "b", "ü", "d"]
    stored = np.array(table["probabilities"].to_pylist())
    np.testing.assert_allclose(stored, probabilities(logits), atol=1e-6)
    assert table["correct"].to_pylist() == (logits.argmax(1) == labels).tolist()
    np.testing.assert_allclose(table["confidence"].to_numpy(), stored.max(axis=1), atol=1e-6)
    assert [path.name for path in path.parent.iterdir()] == ["predictions.parquet"]


def test_predictions_file_of_many_classes_has_the_first_five(tmp_path: Path) -> None:
    """Beyond 100 classes the five most probable ones are stored, best first."""
    logits, labels = made_up(12, 101)
    path = tmp_path / "predictions.parquet"
    write_predictions(path, names(12), logits, labels, names(101))
    row = pq.read_table(path).to_pylist()[3]
    assert "probabilities" not in row
    assert row["top5_labels"] == [f"class {i}" for i in np.argsort(-logits[3])[:5]]
    assert row["top5_labels"][0] == row["prediction"]
    assert row["top5_probabilities"] == sorted(row["top5_probabilities"], reverse=True)


def test_predictions_file_tells_no_local_folder(tmp_path: Path) -> None:
    """Of absolute paths only the file's name is stored; relative ones stay."""
    logits, labels = made_up(3, 2)
    path = tmp_path / "predictions.parquet"
    write_predictions(path, ["/home/me/a.png", r"C:\me\b.png", "cat/c.png"], logits, labels, names(2))
    assert pq.read_table(path)["name"].to_pylist() == ["a.png", "b.png", "cat/c.png"]


def test_predictions_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails the earlier file is untouched, no half file stays, and the error says where."""
    logits, labels = made_up(3, 2)
    path = tmp_path / "predictions.parquet"
    path.write_bytes(b"earlier")

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", no_space)
    with pytest.raises(OutputError, match="No space left"):
        write_predictions(path, names(3), logits, labels, names(2))
    assert path.read_bytes() == b"earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.parquet"]


def test_predictions_file_needs_a_name_for_each_image(tmp_path: Path) -> None:
    """A list of names of another length is refused before anything is written."""
    with pytest.raises(DataError, match="3 images, found 2"):
        write_predictions(tmp_path / "p.parquet", names(2), *made_up(3, 2), names(2))
    assert not list(tmp_path.iterdir())


def test_import_is_cheap() -> None:
    """Importing the module loads neither evaluate nor torch nor scikit-learn."""
    code = (
        "import sys, hf_transfer.evaluation; print([m for m in ('evaluate', 'torch', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_unloadable_metric_message() -> None:
    """A metric that is not there is an ArgumentError that names it and the way out (no network is asked)."""
    with pytest.raises(ArgumentError, match=r"'/nowhere/never\.py'.*offline only local folders work"):
        make_compute_metrics(names(3), extra_metrics=("/nowhere/never.py",))
