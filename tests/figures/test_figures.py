"""Figures: every one is a PNG of sensible size, for ordinary and for extreme runs, and leaves no global state."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from hf_transfer.errors import ArgumentError, OutputError
from hf_transfer.evaluation import EvaluationReport, evaluate_predictions
from hf_transfer.figures import layer_plan as figures
from hf_transfer.figures.alt_text import ALT_TEXT
from hf_transfer.figures.confusion_matrix import confusion_matrix
from hf_transfer.figures.learning_curves import PhaseSpan, learning_curves
from hf_transfer.figures.mistakes import worst_mistakes
from hf_transfer.figures.style import new_figure, shortened
from tests.helpers.fast import slow_but


def report(classes: int, images: int = 200, absent: int = 0) -> EvaluationReport:
    generator = np.random.default_rng(0)
    labels = generator.integers(classes - absent, size=images)
    logits = generator.normal(size=(images, classes))
    logits[np.arange(images), labels] += 2
    return evaluate_predictions(logits, labels, [f"$class_{i}$ 猫" for i in range(classes)], "validation")


def plan(groups: int, phases: int = 3) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A plan that unfreezes from the head downwards, with a group of which a tenth trains."""
    rows = []
    for index in range(groups):
        parts = []
        for phase in range(phases):
            trains = index == groups - 1 or index > groups - groups * phase // phases
            trained = 100 if index == groups - 2 else 1000
            rate = 1e-3 * 0.9 ** (groups - index)
            parts.append(
                {"phase": phase, "trained_parameters": trained, "learning_rate": rate, "weight_decay": 0.05}
                if trains
                else {"phase": phase, "trained_parameters": 0, "learning_rate": None, "weight_decay": None}
            )
        rows.append({"index": index, "name": f"blocks.{index}", "role": "block", "parameters": 1000, "phases": parts})
    return rows, [{"name": f"phase {i}", "start_step": 10 * i, "end_step": 10 * i + 10} for i in range(phases)]


def history(evaluated: bool = True) -> list[dict[str, float]]:
    entries = [{"loss": 2.0 - step / 60, "learning_rate": 1e-3, "step": step} for step in range(5, 65, 5)]
    if evaluated:
        entries += [
            {"eval_loss": 1.8, "eval_accuracy": 0.6, "step": 30},
            {"eval_loss": 1.2, "eval_accuracy": 0.8, "step": 60},
        ]
    return [*entries, {"train_runtime": 1.0, "train_loss": 1.4, "step": 60}]


def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect every text that is drawn."""
    drawn: list[str] = []
    original = Text.draw

    def draw(self: Any, renderer: Any) -> None:
        drawn.append(self.get_text())
        original(self, renderer)

    monkeypatch.setattr(Text, "draw", draw)
    return drawn


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


SPANS = (PhaseSpan("head", 0, 20), PhaseSpan("all layers", 20, 60))


@pytest.mark.parametrize("evaluated", [True, False])
def test_learning_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluated: bool) -> None:
    """Loss, accuracy (where evaluated) and the names of the phases are drawn."""
    drawn = texts(monkeypatch)
    path = learning_curves(history(evaluated), tmp_path / "new" / "learning_curves.png", SPANS)
    assert path == tmp_path / "new" / "learning_curves.png"
    width, height = size(path)
    assert (width > 2 * height) is evaluated
    assert {"Loss", "train", "head", "all layers"} <= set(drawn)
    assert ("Evaluation accuracy" in drawn) is evaluated
    assert ("0.800" in drawn) is evaluated


def test_learning_curves_of_odd_runs(tmp_path: Path) -> None:
    """One point, a NaN, accuracy alone and a phase without steps are drawn; a run without logs gives no file."""
    path = tmp_path / "curves.png"
    assert learning_curves([{"loss": 1.0, "step": 1}], path, [PhaseSpan("none", 0, 0)]) == path
    broken = [{"loss": float("nan"), "step": 1}, {"loss": None, "step": 2}, {"loss": 1.0, "step": 3}]
    assert learning_curves(broken, path) == path
    assert learning_curves([{"eval_accuracy": 0.5, "step": 0}], path) == path
    assert learning_curves([{"train_runtime": 3.0}], tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_confusion_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    """Counts stand in the cells up to 20 classes; beyond, names are thinned out."""
    drawn = texts(monkeypatch)
    evaluation = report(classes)
    width, height = size(confusion_matrix(evaluation, tmp_path / "confusion_matrix.png"))
    assert 400 < height <= 1500 and width < 1.5 * height
    counts = [f"{value:,}" for row in evaluation.confusion for value in row if value]
    assert all(count in drawn for count in counts) is (classes <= 20)
    names = [text for text in set(drawn) if text.startswith("$class_")]
    assert len(names) == classes if classes <= 20 else 20 < len(names) <= 50


def test_confusion_matrix_without_some_classes(tmp_path: Path) -> None:
    """Classes without images are drawn as grey rows, without a division by zero."""
    with np.errstate(all="raise"):
        path = confusion_matrix(report(6, absent=2), tmp_path / "confusion_matrix.png")
    with Image.open(path) as image:
        colours = image.convert("RGB").getcolors(1_000_000)
    assert (236, 236, 236) in {colour for _, colour in colours or []}


@pytest.mark.parametrize("groups", slow_but((1, 21), (1, 21, 75, 160)))
def test_layer_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    """Names from input to output with learning rates; a tall model keeps a bounded height and shows its last group."""
    drawn = texts(monkeypatch)
    path = figures.layer_plan(*plan(groups), tmp_path / "layer_plan.png")
    assert path is not None
    assert size(path)[1] <= 2000
    assert f"blocks.{groups - 1}" in drawn and "blocks.0" in drawn and "1 k" in drawn
    assert "phase 1\nsteps 10 to 20" in drawn
    assert ("9.0e-04" in drawn) is (groups <= 60)
    assert ("frozen" in drawn) is (1 < groups <= 60)
    if groups == 21:
        assert "8.1e-04  (10%)" in drawn


def test_layer_plan_says_which_phase_was_not_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phase that the run stopped before has no steps to show."""
    drawn = texts(monkeypatch)
    groups, phases = plan(3)
    phases = [*phases[:-1], dict(phases[-1]) | {"start_step": 10, "end_step": 10, "planned_steps": 5}]
    figures.layer_plan(groups, phases, tmp_path / "layer_plan.png")
    assert any(text.endswith("\nnot reached") for text in drawn) and not any("10 to 10" in text for text in drawn)


def test_layer_plan_of_odd_plans(tmp_path: Path) -> None:
    """Nothing trained, many frozen groups and phases of unknown length are drawn; an empty plan gives no file."""
    path = tmp_path / "layer_plan.png"
    frozen = [{"phase": 0, "trained_parameters": 0, "learning_rate": None, "weight_decay": None}]
    for count in (2, 80):
        groups = [{"name": "a", "parameters": 0, "phases": frozen}] * count
        assert figures.layer_plan(groups, [{"name": "nothing"}], path) == path
    assert figures.layer_plan([], [], tmp_path / "none.png") is None


def mistakes(count: int) -> tuple[list[Image.Image], list[dict[str, Any]]]:
    modes = ("RGB", "L", "RGBA", "P", "CMYK", "1")
    images = [Image.new(modes[i % len(modes)], (10 + 40 * (i % 3), 30)) for i in range(count)]
    rows = [
        {"name": f"{i}.png", "label": "cat", "prediction": "dog", "confidence": (i + 1) / 100} for i in range(count)
    ]
    return images, rows


def test_worst_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twelve most confident errors are drawn in order, right predictions left out, whatever the image mode."""
    drawn = texts(monkeypatch)
    images, rows = mistakes(15)
    rows[14]["prediction"] = "cat"
    path = worst_mistakes(images, rows, tmp_path / "worst_mistakes.png")
    assert path is not None and size(path)[0] > 1000
    captions = list(dict.fromkeys(text for text in drawn if "true: " in text))
    assert captions == [f"dog  {percent}%\ntrue: cat" for percent in range(14, 2, -1)]


def test_worst_mistakes_of_few(tmp_path: Path) -> None:
    """One error gives one picture, none gives no file, and images must match the rows."""
    images, rows = mistakes(1)
    path = worst_mistakes(images, rows, tmp_path / "one.png")
    assert path is not None and size(path)[0] < 500
    rows[0]["prediction"] = "cat"
    assert worst_mistakes(images, rows, tmp_path / "none.png") is None
    with pytest.raises(ArgumentError, match="each of 2 rows, found 1"):
        worst_mistakes(images, rows * 2, tmp_path / "none.png")


def test_settings_are_restored(tmp_path: Path) -> None:
    """Drawing changes no global setting of Matplotlib, also when it fails."""
    before = dict(matplotlib.rcParams)
    figures.layer_plan(*plan(5), tmp_path / "layer_plan.png")
    with pytest.raises(ZeroDivisionError), new_figure(tmp_path / "x.png", 2, 2):
        _ = 1 / 0
    assert dict(matplotlib.rcParams) == before
    assert not (tmp_path / "x.png").exists()


def test_unwritable_path_is_named(tmp_path: Path) -> None:
    """A figure that cannot be written is an OutputError with the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="layer_plan.png"):
        figures.layer_plan(*plan(3), tmp_path / "file" / "layer_plan.png")


def test_phase_span_must_go_forward() -> None:
    """A phase that ends before it starts is refused."""
    with pytest.raises(ArgumentError, match="'head'"):
        PhaseSpan("head", 5, 4)


def test_every_figure_has_an_alt_text() -> None:
    """The alternative texts are full sentences, one for each file."""
    of_training = ("learning_curves", "layer_plan", "learning_rate_range", "accuracy_by_depth")
    of_evaluation = ("confusion_matrix", "worst_mistakes")
    assert set(ALT_TEXT) == {f"{name}.png" for name in (*of_training, *of_evaluation)}
    assert all(len(text) > 40 and text.endswith(".") for text in ALT_TEXT.values())


def test_long_names_are_shortened() -> None:
    """Long texts lose their end, or their beginning where the end tells more."""
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 4) == "abc…"
    assert shortened("abcdefg", 4, keep_end=True) == "…efg"
    assert shortened("abc", 1) == shortened("abc", 1, keep_end=True) == "…"


def test_import_is_cheap_and_pyplot_is_never_loaded(tmp_path: Path) -> None:
    """Importing loads no Matplotlib; drawing loads no pyplot."""
    code = (
        "import sys, json, pathlib; from hf_transfer.figures import learning_curves; a = 'matplotlib' in sys.modules;"
        f"learning_curves.learning_curves([dict(loss=1.0, step=1)], pathlib.Path({str(tmp_path / 'a.png')!r}));"
        "print(json.dumps([a, 'matplotlib.pyplot' in sys.modules, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, False, False]
