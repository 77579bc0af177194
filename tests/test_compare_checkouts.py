"""The comparison of two checkouts: it finds each difference, and hides nothing but what is volatile by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from scripts.checkout_comparison import reporting, runs, volatile
from scripts.checkout_comparison.cards import card_differences, report_differences
from scripts.checkout_comparison.folders import ASPECTS, Allowed, Comparison, aspect_of, compare_folders
from scripts.checkout_comparison.values import differences

SCRIPT = Path(__file__).parent.parent / "scripts" / "compare_checkouts.py"
CARD = """---
license: mit
model-index:
- value: 0.886
---

The accuracy is 0.886 on 1,000 images.

| Setting | Value |
| --- | ---: |
| Date | 2026-01-01T00:00:00+00:00 |
| Training time | 0.6 s |
| Evaluation time | 0.1 s |
| Weight decay | 0.05 |
"""
REPORT = "<p>Run of 2026-01-01T00:00:00+00:00</p><dl><dt>Training time</dt><dd>0.6 s</dd></dl><p>0.886 reached</p>"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of the same content, with one file of each kind."""
    old = tmp_path / "old"
    checkpoint = old / "run" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    save_file({"a": torch.arange(4.0)}, old / "run" / "model.safetensors")
    log = {"log_history": [{"loss": 1.5, "train_runtime": 2.0, "step": 1}]}
    for path in (old / "run" / "trainer_state.json", checkpoint / "trainer_state.json"):
        path.write_text(json.dumps(log))
    (old / "run" / "README.md").write_text(CARD)
    (old / "run" / "run.json").write_text(json.dumps({"created": "now", "seed": 3, "timing": {"train_seconds": 0.5}}))
    torch.save({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}, checkpoint / "optimizer.pt")
    torch.save({"numpy": np.random.RandomState(0).get_state(), "cpu": torch.zeros(3)}, checkpoint / "rng_state.pth")
    torch.save({"x": 1}, checkpoint / "training_args.bin")
    pq.write_table(pa.table({"p": [0.25, 0.75]}), old / "run" / "predictions.parquet")
    return old, Path(shutil.copytree(old, tmp_path / "new"))


def rewrite(path: Path, before: str, after: str) -> None:
    """Replace text in a file, which must be there."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def found_in(folders: tuple[Path, Path], allowed: Allowed | None = None) -> dict[str, list[str]]:
    """Differences by aspect, without aspects that are equal."""
    compared = compare_folders(*folders, allowed or Allowed())
    return {aspect: lines for aspect, lines in compared.differences.items() if lines}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (0.1, np.nextafter(0.1, 1).item()),
        (0.0, -0.0),
        (1, 1.0),
        (True, 1),
        (None, 0),
        ("a", "b"),
        ([1], [1, 2]),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        (torch.zeros(2), torch.tensor([0.0, -0.0])),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.ones(2, dtype=torch.bfloat16), torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16)),
        (np.zeros(2), np.array([0.0, 1e-300])),
    ],
)
def test_the_smallest_difference_is_found(old: Any, new: Any) -> None:
    """One bit, a type, a shape or a key more: each is one difference, at whatever depth."""
    assert len(differences({"x": [old]}, {"x": [new]}, "whole")) >= 1
    assert differences({"x": [old]}, {"x": [new]}, "whole")[0].startswith("whole.x[0]")


@pytest.mark.parametrize(
    "value", [float("nan"), torch.tensor([float("nan"), 1.0]), np.array([np.nan]), {"b": (1, "x")}]
)
def test_equal_values_have_no_difference(value: Any) -> None:
    """NaN is the same NaN, and the order of keys does not count."""
    assert differences({"a": value, "c": 1}, {"c": 1, "a": value}) == []


def test_a_difference_of_tensors_tells_how_many_and_how_large() -> None:
    """Both numbers are in the line."""
    assert differences(torch.zeros(3), torch.tensor([0.0, 0.5, 0.25]), "w") == [
        "w: 2 of 3 values differ, the largest difference is 0.5"
    ]


def test_equal_folders_are_equal(folders: tuple[Path, Path]) -> None:
    """A copy has no difference, and each aspect has its files."""
    compared = compare_folders(*folders)
    assert compared.is_equal
    assert compared.files == {"losses": 1, "weights": 1, "checkpoints": 4, "card": 1, "record": 2}


def test_volatile_entries_are_no_difference(folders: tuple[Path, Path]) -> None:
    """Times and speeds may differ: in logs, in the record and in the card; so may the pickled arguments."""
    new = folders[1] / "run"
    rewrite(new / "trainer_state.json", "2.0", "7.0")
    rewrite(new / "checkpoint-3" / "trainer_state.json", "2.0", "8.0")
    rewrite(new / "run.json", "now", "later")
    rewrite(new / "run.json", "0.5", "0.7")
    rewrite(new / "README.md", "0.6 s", "99 s")
    rewrite(new / "README.md", "0.1 s", "2 min 3 s")
    (new / "checkpoint-3" / "training_args.bin").write_bytes(b"other")
    assert found_in(folders) == {}


@pytest.mark.parametrize(
    ("file", "before", "after", "aspect"),
    [
        ("trainer_state.json", "1.5", "1.5000000000000002", "losses"),
        ("trainer_state.json", ', "train_runtime": 2.0', "", "losses"),
        ("checkpoint-3/trainer_state.json", '"step": 1', '"step": 2', "checkpoints"),
        ("run.json", '"seed": 3', '"seed": 4', "record"),
        ("run.json", "train_seconds", "seconds", "record"),
        ("README.md", "0.05", "0.06", "card"),
        ("README.md", "| Date ", "| Day ", "card"),
    ],
)
def test_a_changed_text_file_is_found(
    file: str, before: str, after: str, aspect: str, folders: tuple[Path, Path]
) -> None:
    """A number, or an entry whose value is volatile and that is missing, shows in the aspect of its file alone."""
    rewrite(folders[1] / "run" / file, before, after)
    assert list(found_in(folders)) == [aspect]


def test_a_changed_card_is_a_diff_below_its_path(folders: tuple[Path, Path]) -> None:
    """So that it reads as a diff, whatever folder the card is in."""
    rewrite(folders[1] / "run" / "README.md", "| Weight decay | 0.05 |", "| Weight decay | 0.06 |")
    lines = found_in(folders)["card"]
    assert lines[0] == "run/README.md:" and lines[1].startswith("@@ ")
    assert lines[-2:] == ["-| Weight decay | 0.05 |", "+| Weight decay | 0.06 |"]


def test_a_changed_binary_file_is_found(folders: tuple[Path, Path]) -> None:
    """Weights, the optimizer's state, a random state and predictions."""
    new = folders[1] / "run"
    save_file({"a": torch.tensor([0.0, 1.0, 2.0, 3.0000002])}, new / "model.safetensors")
    torch.save(
        {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.2}]},
        new / "checkpoint-3" / "optimizer.pt",
    )
    state = {"numpy": np.random.RandomState(1).get_state(), "cpu": torch.zeros(3)}
    torch.save(state, new / "checkpoint-3" / "rng_state.pth")
    pq.write_table(pa.table({"p": [0.25, 0.5]}), new / "predictions.parquet")
    found = found_in(folders)
    assert found["weights"][0].startswith("run/model.safetensors: a: 1 of 4 values differ")
    assert found["checkpoints"][0] == "run/checkpoint-3/optimizer.pt: param_groups[0].lr: 0.1 became 0.2"
    assert found["checkpoints"][1].startswith("run/checkpoint-3/rng_state.pth: numpy[1]")
    assert found["record"] == ["run/predictions.parquet: rows[1].p: 0.75 became 0.5"]


def test_a_missing_file_is_found_unless_it_was_agreed(folders: tuple[Path, Path]) -> None:
    """By name or by a pattern of its path; other files are compared still."""
    (folders[0] / "run" / "checkpoint-3" / "learning_rate_range.json").write_text("{}")
    (folders[1] / "run" / "skipped_images.json").write_text("[]")
    assert found_in(folders) == {
        "checkpoints": ["run/checkpoint-3/learning_rate_range.json: only in old"],
        "record": ["run/skipped_images.json: only in new"],
    }
    assert list(found_in(folders, Allowed(files=("learning_rate_range.json",)))) == ["record"]
    assert list(found_in(folders, Allowed(files=("run/*_images.json",)))) == ["checkpoints"]


def test_an_entry_is_ignored_in_the_named_file_alone(folders: tuple[Path, Path]) -> None:
    """By its dotted place, in which positions in lists count."""
    rewrite(folders[1] / "run" / "run.json", '"seed": 3', '"seed": 4, "step": 1')
    rewrite(folders[1] / "run" / "trainer_state.json", '"step": 1', '"step": 2')
    entries = {"run.json": ("seed", "step"), "trainer_state.json": ("log_history.*.step",)}
    assert found_in(folders, Allowed(entries=entries)) == {}
    assert list(found_in(folders, Allowed(entries={"run.json": ("seed", "step")}))) == ["losses"]


def test_a_reworded_card_is_a_diff_or_nothing() -> None:
    """With the text ignored, other words in another order are equal; a number or metadata never are."""
    reworded = CARD.replace("The accuracy is 0.886 on 1,000 images.", "On 1,000 images it reaches 0.886 of all.")
    diff = card_differences(CARD, reworded, numbers_only=False)
    assert "-The accuracy is 0.886 on 1,000 images." in diff and "+On 1,000 images it reaches 0.886 of all." in diff
    assert card_differences(CARD, reworded, numbers_only=True) == []
    other = CARD.replace("0.886 on", "0.887 on")
    assert card_differences(CARD, other, numbers_only=True) == [
        "the number 0.886: 1 times became 0 times",
        "the number 0.887: 0 times became 1 times",
    ]
    assert card_differences(CARD, CARD.replace("mit", "apache-2.0"), True) == [
        "metadata.license: 'mit' became 'apache-2.0'"
    ]


def test_a_report_is_compared_without_its_day_and_times() -> None:
    """Its other text and numbers count."""
    later = REPORT.replace("2026-01-01", "2026-02-03").replace("0.6 s", "9 s")
    assert report_differences(REPORT, later, numbers_only=False) == []
    assert report_differences(REPORT, later.replace("reached", "found"), numbers_only=False)
    assert report_differences(REPORT, later.replace("reached", "found"), numbers_only=True) == []
    assert report_differences(REPORT, later.replace("0.886", "0.887"), numbers_only=True)


def test_a_speed_is_volatile_only_where_it_is_the_whole_text() -> None:
    """The reason of a cache decision may be a speed, and another reason is compared."""
    assert volatile.mask_data({"reason": "1,196 images/s"}, "run.json") == {"reason": volatile.MASK}
    assert volatile.mask_data({"reason": "at 5 images/s it does not pay"}, "run.json")["reason"].startswith("at 5")


@pytest.mark.parametrize(
    ("path", "aspect"),
    [
        ("a/model.safetensors", "weights"),
        ("a/checkpoint-3/model.safetensors", "checkpoints"),
        ("a/eval_results.json", "losses"),
        ("a/report.html", "card"),
        ("a/transfer_plan.json", "record"),
        ("checkpoint-3.json", "record"),
    ],
)
def test_each_file_has_an_aspect(path: str, aspect: str) -> None:
    """By its name and by the folder that it is in."""
    assert aspect_of(Path(path)) == aspect


def test_the_table_shows_differences_and_failures() -> None:
    """What is equal, what differs and how often, what is not there, and what could not be run."""
    comparison = Comparison()
    comparison.files |= {"losses": 1, "weights": 2}
    comparison.add("weights", [f"line {index}" for index in range(7)])
    differing = reporting.Result("plain", comparison, (3.0, 4.0))
    failed = reporting.Result("resume", failures=["in the new checkout, it broke"])
    lines = reporting.table([differing, failed]).splitlines()
    assert lines[0].split() == ["run", *ASPECTS, "seconds"]
    assert lines[2].split() == ["plain", "equal", "DIFFERENT", "(7)", "-", "-", "-", "3", "+", "4"]
    assert lines[3].split()[:6] == ["resume", *["FAILED"] * 5]
    assert "  line 1\n  ... and 5 more" in reporting.details(differing, most=2)
    assert reporting.details(failed, most=2) == "resume: in the new checkout, it broke"
    assert not differing.is_equal and not failed.is_equal and not comparison.is_equal


def test_the_runs_use_public_names_alone() -> None:
    """The driver takes everything from the package itself, so that modules may move; names of runs are unique."""
    lines = runs.DRIVER.read_text().splitlines()
    assert [line for line in lines if "import" in line and "hf_transfer" in line] == ["import hf_transfer as ht"]
    names = [run.name for run in runs.RUNS]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    """Python must take the package from the folder that was named, and not from where it is installed."""
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(tmp_path), "--work", str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert f"{tmp_path} is no checkout of this repository" in done.stderr
