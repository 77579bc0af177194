"""`--recipe auto`, and `diagnose`: from measurements to a recipe that is trained, recorded and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hf_transfer as ht
from hf_transfer.cli import auto, main
from hf_transfer.cli.flags import TrainDataOptions
from hf_transfer.diagnosis import running
from hf_transfer.diagnosis.candidates import Candidate
from hf_transfer.diagnosis.decide import decide
from hf_transfer.diagnosis.measurements import Measurements
from hf_transfer.diagnosis.result import Diagnosis
from hf_transfer.diagnosis.trials import Trial, Trials
from hf_transfer.errors import ArgumentError
from hf_transfer.phases.kept_weights import Member
from hf_transfer.reporting.record import RunRecord
from tests.helpers.diagnosed import measured
from tests.helpers.image_files import write_classes
from tests.helpers.training import arguments

LABELS = ("ant", "bee", "cat", "dog")
PROBE = {"per_class": 5, "last": 0.99, "earlier": (-0.3, 0.01)}
TUNED = {"per_class": 1000, "last": 0.5, "random": 0.1}


@pytest.fixture(scope="module")
def photos_without_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for split, count, seed in (("train", 8, 0), ("validation", 4, 1000)):
        write_classes(folder / split, dict.fromkeys(LABELS, count), seed)
    return folder


@pytest.fixture
def measure_as(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make `measure` return given measurements, and count its calls."""
    calls: list[dict[str, Any]] = []

    def set_to(**given: Any) -> list[dict[str, Any]]:
        def measure(model: Any, dataset: Any, processor: Any = None, **options: Any) -> Measurements:
            calls.append(options)
            return _of_the_model(measured(**given))

        monkeypatch.setattr(running, "measure", measure)
        return calls

    return set_to


def _of_the_model(measurements: Measurements) -> Measurements:
    """Hand-built measurements with the names of the model's own blocks, which trials look up."""
    layers = tuple(replace(each, layer=each.layer.replace("block.", "vit.layers.")) for each in measurements.layers)
    return replace(measurements, layers=layers)


def train(model: Path, images: Path, output: Path, *flags: str) -> int:
    words = ("--model_name_or_path", str(model), "--dataset", str(images), "--output_dir", str(output))
    return main(["train", *words, "--recipe", "auto", *flags])


def _as_chosen(tried: Any, chosen: Candidate, *_: Any) -> Trials:
    """In the place of trials: what was chosen is right, and best after three quarters of its steps."""
    trials = tuple(Trial(each.name, 1.0, 0.9, 0.9, 0.01, 0.3, 1.0) for each in tried if each.name == chosen.name)
    return Trials(trials, chosen.name, 32, None, 1.0, True, follow=Member(0.75), temperature=2.0)


@pytest.mark.slow
def test_a_probe_is_chosen_solved_and_recorded(
    photos_without_test: Path, vit: Path, tmp_path: Path, measure_as: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reasons are printed; run.json, transfer_plan.json, diagnosis.json and the figures tell of the diagnosis."""
    calls = measure_as(**PROBE)
    run = tmp_path / "run"
    assert train(vit, photos_without_test, run) == 0
    assert len(calls) == 1 and len(calls[0]["evaluation_dataset"]) == 16
    printed = capsys.readouterr().out
    assert "Diagnosis\nScenario 1" in printed and "Choice: linear probe on the last layer" in printed
    record = RunRecord.load(run / "run.json")
    assert record.training["solved_head"]["solver"] == "logistic"
    assert record.diagnosis is not None and record.diagnosis["recipe"] == "linear_probe"
    found = Diagnosis.load(run / "diagnosis.json")
    assert record.diagnosis == json.loads(json.dumps(found.to_dict()))
    assert record.diagnosis == json.loads((run / "transfer_plan.json").read_text())["diagnosis"]
    assert ht.TransferPlan.load(run / "transfer_plan.json").recipe == "linear_probe"
    assert (run / "figures" / "accuracy_by_depth.png").is_file()
    assert "Accuracy by depth" in (run / "report.html").read_text()


@pytest.mark.slow
def test_fine_tuning_takes_its_options_and_resumes_with_the_stored_decision(
    photos_without_test: Path, vit: Path, tmp_path: Path, measure_as: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice is trained and its weights followed, flags win, and resuming neither measures nor tries again."""
    calls = measure_as(**TUNED)
    monkeypatch.setattr(running, "verify", _as_chosen)
    run = tmp_path / "run"
    flags = ("--num_train_epochs", "2", "--per_device_train_batch_size", "16", "--save_total_limit", "9")
    assert train(vit, photos_without_test, run, *flags) == 0
    record = RunRecord.load(run / "run.json")
    assert record.training["plan"]["plan"]["recipe"] == "lp_ft"
    assert record.training["held_out"] == {
        "followed": "after 75% of the steps",
        "metric": "accuracy",
        "temperature": 2.0,
        "slowed_at": None,
    }
    assert record.training["plan"]["plan"]["phases"][-1]["epochs"] is None  # the flag's
    assert record.training["batch_size_per_device"] == 16
    chosen = decide(measured(**TUNED)).chosen
    assert record.training["plan"]["plan"]["phases"][-1]["learning_rate"] == chosen.options["learning_rate"]
    assert record.preprocessing["augmentation"] == chosen.arguments["augmentation"]
    assert len(calls) == 1
    measure_as(**PROBE)  # would choose another recipe
    first = min(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert train(vit, photos_without_test, run, *flags, "--resume_from_checkpoint", str(first)) == 0
    assert len(calls) == 1
    resumed = RunRecord.load(run / "run.json")
    assert resumed.training["plan"] == record.training["plan"] and resumed.diagnosis == record.diagnosis
    assert resumed.evaluation == record.evaluation


@pytest.mark.slow
def test_two_diagnoses_do_not_compute_twice(
    photos_without_test: Path, vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring and the probe that follows run each training image through the model once."""
    from hf_transfer.diagnosis import measuring
    from hf_transfer.features import extraction

    counted: list[int] = []
    compute = extraction._compute_chunks

    def counting(*args: Any) -> int:
        counted.append(compute(*args))
        return counted[-1]

    monkeypatch.setattr(extraction, "_compute_chunks", counting)
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(running, "decide", lambda *_: decide(_of_the_model(measured(**PROBE))))
    # Tiny networks have random weights, which would make a second pass through a twin pointless.
    monkeypatch.setattr(measuring, "looks_untrained", lambda _: True)
    assert train(vit, photos_without_test, tmp_path / "run") == 0
    assert sum(counted) == 32 + 16  # training and evaluation images


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--layer", "last"), "chooses by itself what --layer"),
        (("--recipe_options", "{}"), "chooses by itself"),
        (("--budget", "-5"), "budget is a number of seconds"),
        (("--prefer", "cheap"), "prefer"),
    ],
)
def test_flags_that_contradict_it(
    flags: tuple[str, ...],
    message: str,
    photos_without_test: Path,
    vit: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the diagnosis decides cannot be given beside it."""
    try:
        assert train(vit, photos_without_test, tmp_path / "run", *flags) != 0
    except SystemExit as error:
        assert error.code == 2
    assert message in capsys.readouterr().err


def test_its_flags_need_it(
    photos_without_test: Path, vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--budget without --recipe auto says so."""
    words = [
        "--model_name_or_path",
        str(vit),
        "--dataset",
        str(photos_without_test),
        "--output_dir",
        str(tmp_path / "run"),
    ]
    assert main(["train", *words, "--budget", "60"]) == 1
    assert "give --recipe auto" in capsys.readouterr().err


def test_trainers_say_where_auto_is_made(tmp_path: Path) -> None:
    """A trainer alone has no diagnosis; the error names the function that makes one."""
    with pytest.raises(ArgumentError, match=r"ht\.diagnose"):
        ht.TransferTrainer(args=arguments(tmp_path, recipe="auto"))


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    """A folder without a stored diagnosis is named with what to do."""
    (tmp_path / "transfer_plan.json").write_text(json.dumps({"recipe": "lp_ft"}))
    with pytest.raises(ArgumentError, match="no stored diagnosis"):
        auto.stored_diagnosis(tmp_path, True)


def test_stored_diagnosis_in_a_downloaded_checkpoint(tmp_path: Path) -> None:
    """The diagnosis is found in the checkpoint itself, where nothing of the run is around it."""
    evidence = measured(**TUNED)
    found = Diagnosis(evidence, decide(evidence))
    checkpoint = tmp_path / "cache" / "checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "transfer_plan.json").write_text(json.dumps({"recipe": "lp_ft"}))
    found.save(checkpoint / "diagnosis.json")
    assert auto.stored_diagnosis(tmp_path / "out", str(checkpoint)) == found


def test_batch_size_is_that_of_all_processes(tmp_path: Path) -> None:
    """The chosen number of images in a step is shared out over accumulation."""
    evidence = measured(**TUNED)
    found = Diagnosis(evidence, decide(evidence))
    args = arguments(tmp_path, gradient_accumulation_steps=2)
    auto.apply(found, args, TrainDataOptions("x"), frozenset())
    assert args.per_device_train_batch_size * 2 == found.decision.chosen.arguments["train_batch_size"]


def test_diagnose_prints_and_writes(
    photos_without_test: Path, vit: Path, tmp_path: Path, measure_as: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scenario, reasons, cost and the command to go on are printed; JSON and figure are written where asked."""
    measure_as(**PROBE)
    words = [
        "--model_name_or_path",
        str(vit),
        "--dataset",
        str(photos_without_test),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert main(["diagnose", *words, "--json", str(tmp_path / "d.json"), "--prefer", "fast"]) == 0
    printed = capsys.readouterr().out
    for expected in ("Scenario 1", "Choice:", "Expected cost", "--recipe linear_probe --output_dir RESULTS"):
        assert expected in printed
    assert Diagnosis.load(tmp_path / "d.json") == Diagnosis.load(tmp_path / "out" / "diagnosis.json")
    assert (tmp_path / "out" / "figures" / "accuracy_by_depth.png").is_file()


@pytest.mark.parametrize(
    ("epochs", "given", "expected"),
    [
        (55, frozenset(), ("steps", 0.1)),
        (6, frozenset(), ("epoch", None)),
        (55, frozenset({"eval_strategy"}), ("epoch", None)),
        (55, frozenset({"num_train_epochs"}), ("epoch", None)),
    ],
)
def test_many_short_epochs_are_not_all_evaluated(
    epochs: int, given: frozenset[str], expected: tuple[str, float | None], tmp_path: Path
) -> None:
    """More than ten chosen epochs are evaluated and saved ten times, unless the user says when."""
    args = ht.TransferArguments(str(tmp_path), recipe="auto", eval_strategy="epoch", save_strategy="epoch")
    chosen = Candidate("LP-FT", "lp_ft", {"epochs": epochs})
    found: Any = SimpleNamespace(decision=SimpleNamespace(chosen=chosen))
    auto.apply(found, args, TrainDataOptions("images"), given)
    assert (args.eval_strategy, args.eval_steps) == expected
    assert args.save_strategy == expected[0]
