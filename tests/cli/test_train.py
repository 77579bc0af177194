"""hf-transfer train and evaluate: the main job from images to a described model, and what it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

import hf_transfer as ht
from hf_transfer.cli import main
from hf_transfer.reporting.record import RunRecord
from tests.helpers.checkpoints import save_timm_resnet
from tests.helpers.image_files import write_classes
from tests.helpers.quick_train import LABELS, train


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm_resnet(tmp_path_factory.mktemp("models") / "tiny-resnet")


@pytest.fixture(scope="module")
def finished(resnet: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a timm model in two phases."""
    output = tmp_path_factory.mktemp("runs") / "resnet"
    assert train(resnet, photos, output, "--recipe", "lp_ft", "--recipe_options", '{"probe_epochs": 1}') == 0
    return output


@dataclass(frozen=True)
class Probe:
    """A finished linear probe of a ViT by steps, two epochs long: its flags, its folder, and what it printed."""

    flags: tuple[str, ...]
    folder: Path
    shown: str


TOKEN = "hf_" + "x" * 30


@pytest.fixture(scope="module")
def probe(vit: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """It ran where the environment held `TOKEN`."""
    folder = tmp_path_factory.mktemp("runs") / "probe"
    flags = ("--recipe", "linear_probe", "--solver", "none", "--num_train_epochs", "2", "--save_total_limit", "2")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as shown:
        patch.setenv("HF_TOKEN", TOKEN)
        assert train(vit, photos, folder, *flags) == 0
    return Probe(flags, folder, shown.getvalue())


def test_output_folder_holds_what_the_contract_says(finished: Path) -> None:
    """Model, card, plan, record, results, predictions, figures and report are there, and no pickle."""
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    top = {name for name in names if not name.startswith("checkpoint-")}
    assert top >= {
        "config.json",
        "model.safetensors",
        "README.md",
        "transfer_plan.json",
        "run.json",
        "all_results.json",
        "train_results.json",
        "eval_results.json",
        "test_results.json",
        "predictions.parquet",
        "predictions_test.parquet",
        "report.html",
        "figures/learning_curves.png",
        "figures/layer_plan.png",
        "figures/confusion_matrix.png",
        "figures/worst_mistakes.png",
    }
    assert not [name for name in top if name.endswith((".bin", ".pt", ".pth", ".pkl", ".tmp"))]


def test_record_tells_the_run_and_nothing_private(finished: Path, photos: Path) -> None:
    """run.json reads back, agrees with eval_results.json and the plan, and holds no absolute path."""
    record = RunRecord.load(finished / "run.json")
    results = json.loads((finished / "eval_results.json").read_text())
    assert record.evaluation["validation"]["metrics"]["accuracy"]["value"] == results["eval_accuracy"]
    assert record.evaluation["test"]["n"] == 12
    assert record.data["label_names"] == list(LABELS)
    assert record.training["steps"] == 8
    assert record.base_model["id"] == "tiny-resnet"
    plan = ht.TransferPlan.load(finished / "transfer_plan.json")
    assert [phase.name for phase in plan.phases] == ["linear probe", "fine-tune"]
    for name in ("run.json", "README.md", "transfer_plan.json", "report.html", "config.json"):
        text = (finished / name).read_text()
        assert str(photos.parent) not in text
        assert str(Path.home()) not in text


def test_card_shows_the_rates_of_the_plan(finished: Path) -> None:
    """The card says which group was frozen in the probe and at which rate the head trained."""
    card = (finished / "README.md").read_text()
    head = next(line for line in card.splitlines() if line.startswith("|") and "| head |" in line)
    stem = next(line for line in card.splitlines() if line.startswith("|") and "| stem |" in line)
    assert "frozen" in stem
    assert "0.02" in head
    assert "0.002" in head


_LOADS_WITHOUT_US = """
import json, sys
sys.modules["hf_transfer"] = None  # any import of it fails
import numpy as np, timm, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
folder, image = sys.argv[1:3]
model = AutoModelForImageClassification.from_pretrained(folder).eval()
pixels = AutoImageProcessor.from_pretrained(folder)(Image.open(image), return_tensors="pt")["pixel_values"]
with torch.inference_mode():
    logits = {"transformers": model(pixels).logits[0]}
    if model.config.model_type == "timm_wrapper":
        logits["timm"] = timm.create_model("local-dir:" + folder, pretrained=True).eval()(pixels)[0]
scores = {row["label"]: row["score"] for row in pipeline("image-classification", folder)(image, top_k=4)}
print(json.dumps({
    "probabilities": {name: value.softmax(-1).tolist() for name, value in logits.items()},
    "pipeline": scores, "labels": [model.config.id2label[i] for i in range(4)],
}))
"""


def _loaded_without_us(folder: Path, image: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", _LOADS_WITHOUT_US, str(folder), str(image)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_model_loads_everywhere_without_hf_transfer(
    kind: str, finished: Path, vit: Path, photos: Path, tmp_path: Path
) -> None:
    """transformers, pipeline and timm load the folder without this library and give the trainer's probabilities."""
    folder = finished
    if kind == "transformers":
        folder = tmp_path / "vit"
        assert train(vit, photos, folder, "--recipe", "linear_probe") == 0
    rows = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pylist()
    found = _loaded_without_us(folder, photos / "validation" / rows[5]["name"].removeprefix("validation/"))
    assert found["labels"] == list(LABELS)
    expected = rows[5]["probabilities"]
    assert set(found["probabilities"]) == ({"transformers", "timm"} if kind == "timm" else {"transformers"})
    for probabilities in found["probabilities"].values():
        assert probabilities == pytest.approx(expected, abs=1e-5)
    assert [found["pipeline"][label] for label in LABELS] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_launcher_config_and_command_do_the_same(vit: Path, photos: Path, tmp_path: Path) -> None:
    """`accelerate launch -m hf_transfer train --config` gives the same weights as `hf-transfer train` with flags."""
    assert train(vit, photos, tmp_path / "flags", "--recipe", "last_blocks", "--recipe_options", '{"k": 1}') == 0
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model_name_or_path: {vit}\ndataset: {photos}\noutput_dir: {tmp_path / 'launched'}\nnum_train_epochs: 1\n"
        "per_device_train_batch_size: 8\nlearning_rate: 1e-3\nrecipe: last_blocks\nrecipe_options: {k: 1}\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command = [*launch, "-m", "hf_transfer", "train", "--config", str(config)]
    # Sums over another number of threads differ in the last bit.
    threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, env=threads)
    assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("flags", "launched"))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)


def test_terminal_shows_the_plan_before_and_the_metrics_after(probe: Probe) -> None:
    """stdout has the data, the table of what is trained, the metrics with intervals, and the line that loads."""
    order = ["photos", "What will be trained", "frozen", "vit.layers.0", "95 % interval", "Accuracy", "pipeline("]
    positions = [probe.shown.index(words) for words in order]
    assert positions == sorted(positions)


def test_evaluate_gives_the_runs_own_metrics(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """evaluate on the same split finds the accuracy that the run recorded, and writes predictions and figures."""
    output = tmp_path / "evaluation"
    words = ["evaluate", str(finished), "--dataset", str(photos), "--split", "test", "--output_dir", str(output)]
    assert main(words) == 0
    found = json.loads((output / "evaluation.json").read_text())
    recorded = RunRecord.load(finished / "run.json").evaluation["test"]
    assert found["metrics"].keys() == recorded["metrics"].keys()
    for name, value in recorded["metrics"].items():  # the memory format differs, and with it the last digits
        assert found["metrics"][name] == pytest.approx(value, abs=1e-6)
    assert (output / "figures" / "confusion_matrix.png").is_file()
    assert "Accuracy" in capsys.readouterr().out


def test_inspect_shows_groups_and_rates(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """inspect prints the groups, and with a recipe the rates, as a table and as JSON; no weights are read."""
    assert main(["inspect", str(finished), "--recipe", "last_blocks", "--learning_rate", "0.5"]) == 0
    table = capsys.readouterr().out
    assert "frozen" in table
    assert "head   " in table
    assert main(["inspect", "--model_name_or_path", str(finished), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["architecture"] == "timm:resnet18"
    assert shown["groups"][-1]["role"] == "head"


def test_evaluate_measures_all_images_of_an_unseen_folder(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without splits that the model was not trained on is evaluated whole; `validation` is its fifth."""
    photos = write_classes(tmp_path / "new", dict.fromkeys(LABELS, 5), seed=5000)
    assert main(["evaluate", str(finished), "--dataset", str(photos)]) == 0
    assert "all: 20 images" in capsys.readouterr().out
    assert main(["evaluate", str(finished), "--dataset", str(photos), "--split", "validation"]) == 0
    assert ": 4 images" in capsys.readouterr().out


def test_evaluate_does_not_write_into_a_run(finished: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """evaluate --output_dir refuses the folder of a training run."""
    words = ["evaluate", str(finished), "--dataset", str(photos), "--output_dir", str(finished)]
    assert main(words) == 1
    assert "holds another run" in capsys.readouterr().err


_OWN_METRIC = """
import datasets
import evaluate

class Sevens(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", features=features)
    def _compute(self, predictions, references):
        return {"sevens": 0.777}
"""


def test_metrics_of_others_are_in_the_table_and_the_record(
    vit: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--metrics with a local folder: the value is shown, and is in run.json and the card."""
    metric = tmp_path / "sevens"
    metric.mkdir()
    (metric / "sevens.py").write_text(_OWN_METRIC)
    output = tmp_path / "run"
    assert train(vit, photos, output, "--recipe", "linear_probe", "--metrics", str(metric)) == 0
    assert "0.777" in capsys.readouterr().out
    record = RunRecord.load(output / "run.json")
    assert record.evaluation["validation"]["metrics"]["sevens"] == {"value": 0.777, "low": None, "high": None}
    assert "0.777" in (output / "README.md").read_text()


def test_token_is_in_no_file(
    probe: Probe, vit: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Hub token of the environment reaches no file of the run, checkpoints included; one given is not repeated."""
    files = [path for path in probe.folder.rglob("*") if path.is_file()]
    assert any("checkpoint-" in str(path) for path in files)
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert train(vit, photos, tmp_path / "other", "--hub_token", TOKEN) == 1
    assert TOKEN not in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_failed_start_leaves_the_earlier_run(probe: Probe, vit: Path, photos: Path, tmp_path: Path) -> None:
    """--overwrite_output_dir removes nothing when the new run cannot start."""
    output = shutil.copytree(probe.folder, tmp_path / "run")
    before = sorted(path.name for path in output.iterdir())
    assert train(vit, photos, output, "--overwrite_output_dir", "--learning_rate", "-1") == 1
    assert sorted(path.name for path in output.iterdir()) == before


def test_resume_goes_on_with_the_same_run(probe: Probe, vit: Path, photos: Path, tmp_path: Path) -> None:
    """--resume_from_checkpoint true goes on in the folder and ends where an uninterrupted run ends."""
    broken = tmp_path / "broken"
    shutil.copytree(probe.folder / "checkpoint-4", broken / "checkpoint-4")
    assert train(vit, photos, broken, *probe.flags, "--resume_from_checkpoint", "true") == 0
    first, second = load_file(probe.folder / "model.safetensors"), load_file(broken / "model.safetensors")
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.slow
def test_overwrite_replaces_a_run_and_nothing_else(probe: Probe, vit: Path, photos: Path, tmp_path: Path) -> None:
    """--overwrite_output_dir removes the files of the earlier run; a stranger's file stays."""
    output = shutil.copytree(probe.folder, tmp_path / "run")
    (output / "notes.txt").write_text("mine")
    assert train(vit, photos, output, "--recipe", "linear_probe", "--overwrite_output_dir") == 0
    assert (output / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_plan_of_a_run_repeats_it(finished: Path, resnet: Path, photos: Path, tmp_path: Path) -> None:
    """--plan with a run's transfer_plan.json, on the same model and data, gives the same weights."""
    assert train(resnet, photos, tmp_path / "again", "--plan", str(finished / "transfer_plan.json")) == 0
    first, second = load_file(finished / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert all((first[name] == second[name]).all() for name in first)


def test_plan_for_another_architecture_is_refused(
    finished: Path, vit: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The resolved plan of a timm run is not used on a ViT; together with --recipe it is refused, too."""
    plan = ("--plan", str(finished / "transfer_plan.json"))
    assert train(vit, photos, tmp_path / "run", *plan) == 1
    assert "made for timm:resnet18" in capsys.readouterr().err
    assert train(vit, photos, tmp_path / "run", *plan, "--recipe", "lp_ft") == 1
    assert "give either --plan" in capsys.readouterr().err


def test_folder_of_another_run_is_refused(
    finished: Path, vit: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output folder of a finished run is not written into, and stays as it was."""
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert train(vit, photos, finished) == 1
    assert "holds another run" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
