"""The recipes linear_probe and svm on the command line: solved heads, and a record and card that say so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from transformers import AutoModelForImageClassification

from hf_transfer.cli import main
from tests.helpers.checkpoints import save_vit


@pytest.fixture(scope="module")
def dark_and_light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for label, shade in (("dark", 40), ("light", 190)):
            for index in range(count):
                pixels = generator.integers(0, 60, (36, 36, 3)) + shade
                path = folder / split / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def _train(images: Path, model: Path, output: Path, *flags: str) -> int:
    words = ("--model_name_or_path", str(model), "--dataset", str(images), "--output_dir", str(output))
    return main(["train", *words, *flags])


@pytest.mark.parametrize("recipe", ["linear_probe", "svm"])
def test_a_solved_head_is_recorded_as_what_it_is(recipe: str, dark_and_light: Path, tmp_path: Path) -> None:
    """Solver, choice and estimate are in run.json and on the card; no learning rate is invented."""
    assert _train(dark_and_light, save_vit(tmp_path / "vit"), tmp_path / "run", "--recipe", recipe) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    solved = run["training"]["solved_head"]
    assert solved["solver"] == ("svm" if recipe == "svm" else "logistic")
    assert solved["value"] > 0 and solved["estimate"] == "10-fold cross-validation, 5 times"
    assert solved["layer"]["layer"] == "last"
    plan = json.loads((tmp_path / "run" / "transfer_plan.json").read_text())
    assert {phase["learning_rate"] for group in plan["groups"] for phase in group["phases"]} == {None}
    assert run["preprocessing"]["augmentation"] == "none"
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| Solver | " in card and "solved exactly" in card and "earning rate" not in card.split("## Data")[0]
    assert "learning_curves" not in card, "one point is no curve"
    AutoModelForImageClassification.from_pretrained(tmp_path / "run")


def test_flags_that_contradict_a_solved_head(
    dark_and_light: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Augmentation cannot be solved with, and solver flags need a recipe that solves."""
    vit = save_vit(tmp_path / "vit")
    assert _train(dark_and_light, vit, tmp_path / "a", "--recipe", "linear_probe", "--augmentation", "light") == 1
    assert "--solver none" in capsys.readouterr().err
    assert _train(dark_and_light, vit, tmp_path / "b", "--recipe", "fine_tune", "--solver", "svm") == 1
    assert "--solver are for a head that is solved" in capsys.readouterr().err


def test_a_probe_file_and_its_evaluation(
    dark_and_light: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All layers with the flag: a probe file, whose evaluation and card are of it, and which evaluate runs again."""
    run = tmp_path / "run"
    flags = ("--recipe", "linear_probe", "--layer", "all")
    assert _train(dark_and_light, save_vit(tmp_path / "vit"), run, *flags) == 1
    assert "--allow_probe_file" in capsys.readouterr().err
    flags = (*flags, "--allow_probe_file", "--learning_rate", "auto")
    assert _train(dark_and_light, tmp_path / "vit", run, *flags) == 0
    assert "hf_transfer.load_probe(" in capsys.readouterr().out
    record = json.loads((run / "run.json").read_text())
    assert record["training"]["solved_head"]["probe_file"]["layers"][-1] == "last"
    assert "learning_rate_range" not in record["training"]
    assert "needs hf_transfer to load" in (run / "README.md").read_text()
    assert main(["evaluate", str(run), "--dataset", str(dark_and_light), "--output_dir", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    trained = record["evaluation"][again["split"]]
    assert again["confusion_cells"] == trained["confusion_cells"]
    assert again["metrics"]["log_loss"]["value"] == pytest.approx(trained["metrics"]["log_loss"]["value"], abs=1e-5)
    capsys.readouterr()
    assert main(["publish", str(run), "someone/probe", "--dry_run"]) == 1
    assert "another classifier" in capsys.readouterr().err
    # A run that replaces it leaves no probe behind.
    assert _train(dark_and_light, tmp_path / "vit", run, "--recipe", "linear_probe", "--overwrite_output_dir") == 0
    assert not (run / "probe.json").exists() and not (run / "probe.safetensors").exists()


def test_a_probe_file_is_not_pushed(dark_and_light: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --push_to_hub the flag is refused before anything is loaded; without a solved head as well."""
    flags = ("--recipe", "linear_probe", "--allow_probe_file", "--push_to_hub")
    assert _train(dark_and_light, tmp_path / "none", tmp_path / "run", *flags) == 1
    assert "is not published" in capsys.readouterr().err
    assert _train(dark_and_light, tmp_path / "none", tmp_path / "run", "--allow_probe_file") == 1
    assert "--allow_probe_file are for a head that is solved" in capsys.readouterr().err


@pytest.mark.slow
def test_learning_rates_that_are_measured(
    dark_and_light: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--learning_rate auto: table in multiples, rates in plan, record, card and figure, as they were used."""
    flags = ("--recipe", "lp_ft", "--learning_rate", "auto", "--num_train_epochs", "1", "--augmentation", "none")
    flags = (*flags, "--recipe_options", '{"probe_epochs": 1}')
    assert _train(dark_and_light, save_vit(tmp_path / "vit"), tmp_path / "run", *flags) == 0
    out = capsys.readouterr().out
    assert "measured by a range test" in out and "20x" in out and "Learning rate of fine-tune: " in out
    plan = json.loads((tmp_path / "run" / "transfer_plan.json").read_text())
    tests = json.loads((tmp_path / "run" / "run.json").read_text())["training"]["learning_rate_range"]
    head = plan["groups"][-1]["phases"]
    # Images that are told apart at once leave the second phase nothing to measure.
    assert tests[0]["chosen"]
    measured = ["range test" if test["chosen"] else None for test in tests]
    assert [phase.get("learning_rate_from") for phase in plan["phases"]] == measured
    for phase, test, ratio in zip(head, tests, (20, 2), strict=True):
        assert phase["learning_rate"] == pytest.approx(ratio * test["learning_rate"])
    card = (tmp_path / "run" / "README.md").read_text()
    assert "chosen by a range test" in card and "figures/learning_rate_range.png" in card
    assert (tmp_path / "run" / "figures" / "learning_rate_range.png").is_file()
    assert "Learning rate range" in (tmp_path / "run" / "report.html").read_text()


def test_layers_are_trained_below_an_earlier_end(
    dark_and_light: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --layer a recipe that trains layers ends the model there first, and the card says so; no layer, no run."""
    vit = save_vit(tmp_path / "vit")
    words = ("--recipe", "lp_ft", "--num_train_epochs", "1", "--report_to", "none")
    assert _train(dark_and_light, vit, tmp_path / "run", *words, "--layer", "vit.layers.0") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    assert "| Model ends after | vit.layers.0 |" in (tmp_path / "run" / "README.md").read_text().replace("`", "")
    capsys.readouterr()
    assert _train(dark_and_light, vit, tmp_path / "b", *words, "--layer", "auto") == 1
    assert "--layer are for a head that is solved" in capsys.readouterr().err
    assert _train(dark_and_light, vit, tmp_path / "c", *words, "--layer", "stem") == 1
    assert "cannot be truncated after 'stem'" in capsys.readouterr().err
