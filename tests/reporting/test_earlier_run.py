"""A second training in the same folder: what the first one left there is not published with the second."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_transfer as ht
from hf_transfer.errors import PublishError
from tests.helpers import tiny
from tests.helpers.hub_server import HubServer
from tests.helpers.hub_server.fixtures import hub
from tests.helpers.training import RandomImages, arguments

__all__ = ["hub"]

FIGURES = ("figures/confusion_matrix.png", "figures/learning_curves.png", "figures/accuracy_by_depth.png")
MODEL = {"README.md", "config.json", "model.safetensors", "transfer_plan.json", "run.json"}


def trainer_of(folder: Path, plan: ht.TransferPlan | None = None, **options: Any) -> ht.TransferTrainer:
    return ht.TransferTrainer(
        model=tiny.vit(),
        args=arguments(folder, **options),
        train_dataset=RandomImages(),
        plan=ht.recipes.linear_probe() if plan is None else plan,
    )


def write_results(folder: Path) -> None:
    """What a run leaves behind beside model and record, as `hf-transfer train` does."""
    (folder / "figures").mkdir()
    for name in (*FIGURES, "figures/worst_mistakes.png", "predictions.parquet", "report.html"):
        (folder / name).write_bytes(b"of the first run")
    for name in ("train_results", "eval_results", "all_results"):
        (folder / f"{name}.json").write_text('{"eval_accuracy": 0.125}')


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A folder as a finished run leaves it."""
    trainer = trainer_of(tmp_path / "out")
    trainer.train()
    trainer.save_model()
    (tmp_path / "out" / "diagnosis.json").write_text("{}")
    trainer.write_missing_card(tmp_path / "out")
    write_results(tmp_path / "out")
    return tmp_path / "out"


def test_only_files_of_this_run_are_published(hub: HubServer, first: Path) -> None:
    """Results and figures of the first run are not sent with the second, not even by `publish` from another process;
    they are kept in a folder of their own, and the combined results hold the second's alone."""
    second = trainer_of(first, num_train_epochs=2, push_to_hub=True, hub_model_id="pets", hub_strategy="end")
    second.save_metrics("train", second.train().metrics)
    second.push_to_hub(verify=False)
    files = hub.repositories["someone/pets"].files()
    assert set(files) == MODEL | {".gitattributes", "train_results.json", "all_results.json"}
    assert "eval_accuracy" not in json.loads(files["all_results.json"].content)
    dry = ht.publish(first, "pets", dry_run=True, include_examples=True)
    assert set(dry.files) == MODEL | {"train_results.json", "all_results.json"}
    kept = first / "earlier_run" / "1"
    assert all((kept / name).read_bytes() == b"of the first run" for name in (*FIGURES, "report.html"))
    assert (kept / "diagnosis.json").is_file() and not (first / "diagnosis.json").exists()
    assert json.loads((kept / "eval_results.json").read_text()) == {"eval_accuracy": 0.125}
    assert json.loads((kept / "run.json").read_text())["training"]["steps"] == 4


def test_saving_the_model_alone_replaces_the_record(hub: HubServer, first: Path) -> None:
    """After train and save_model, the record in the folder is not the first run's any more, nor is a plan that the
    second one did not have, nor are the samples for the verification."""
    (first / "verification").mkdir()
    (first / "verification" / "samples.json").write_text("{}")
    plain = ht.TransferTrainer(tiny.vit(), arguments(first, num_train_epochs=2), train_dataset=RandomImages())
    plain.train()
    plain.save_model()
    record = json.loads((first / "run.json").read_text())["training"]
    assert record["steps"] == 8 and record["plan"] is None
    assert [p.name for p in first.glob("verification/*")] == []  # its logits would be another model's
    assert set(ht.publish(first, "pets", dry_run=True).files) == MODEL - {"transfer_plan.json"}


def test_what_was_made_for_the_second_run_stays(first: Path) -> None:
    """A diagnosis after the first run's end, on which the second run rests, is the second's; so is what its own
    callbacks wrote."""
    (first / "diagnosis.json").write_text('{"new": 1}')
    (first / "figures" / "accuracy_by_depth.png").write_bytes(b"new")
    second = trainer_of(first)
    second.train()
    (first / "figures" / "confusion_matrix.png").write_bytes(b"new")
    second.save_model()
    left = {p.relative_to(first).as_posix() for p in first.glob("figures/*")}
    assert left == {"figures/accuracy_by_depth.png", "figures/confusion_matrix.png"}
    assert (first / "diagnosis.json").read_text() == '{"new": 1}'


def test_nothing_moves_without_a_training(first: Path, tmp_path: Path) -> None:
    """An evaluation of a finished run, and results that were there before the first training, stay where they are."""
    before = sorted(path for path in first.rglob("*") if path.is_file())
    trainer_of(first).save_metrics("test", {"test_accuracy": 0.5})
    assert sorted(path for path in first.rglob("*") if path.is_file()) == sorted(
        [*before, first / "test_results.json"]
    )
    fresh = trainer_of(tmp_path / "fresh")
    (tmp_path / "fresh").mkdir(exist_ok=True)
    fresh.save_metrics("eval", {"eval_accuracy": 0.25})
    fresh.train()
    fresh.save_model()
    assert json.loads((tmp_path / "fresh" / "eval_results.json").read_text()) == {"eval_accuracy": 0.25}


def test_a_run_json_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """A file of that name that is no record stops neither training nor saving."""
    (tmp_path / "run.json").write_text('{"mine": 1}')
    trainer = trainer_of(tmp_path)
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "run.json").read_text() == '{"mine": 1}'


class Plain(torch.nn.Module):
    """A classifier without a configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 3)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(pixel_values.mean((2, 3)))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_a_model_that_no_card_is_written_for_is_saved(first: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bare module, trained where a model of transformers was before, is saved without an error; that the record is
    still the other's is told."""
    trainer = ht.TransferTrainer(Plain(), arguments(first), train_dataset=RandomImages())
    trainer.train()
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        trainer.save_model()
    assert "run.json stays as it is: No card can be written for a Plain" in caplog.text


def test_the_checkpoint_of_an_earlier_run_is_not_included(hub: HubServer, tmp_path: Path) -> None:
    """include_checkpoint takes the last checkpoint of the run that run.json tells of, also where an earlier run left
    one of a later step; where the run has none, or one whose state is cut short, that is an error."""
    out = tmp_path / "out"
    long = trainer_of(out, num_train_epochs=2, save_strategy="epoch", learning_rate=0.3)
    long.train()
    long.save_model()
    short = trainer_of(out, save_strategy="epoch")
    short.train()
    short.save_model()
    short.write_missing_card(out)
    assert (out / "checkpoint-8").is_dir()
    made = ht.publish(out, "pets", verify=False, include_checkpoint=True)
    state = hub.repositories["someone/pets"].files()["checkpoint/trainer_state.json"].content
    assert made.revision is not None and json.loads(state)["global_step"] == 4
    (out / "checkpoint-4" / "trainer_state.json").write_text('{"global_step": ')
    with pytest.raises(PublishError, match="no complete checkpoint"):
        ht.publish(out, "pets", verify=False, include_checkpoint=True)
    without = trainer_of(out, num_train_epochs=3)
    without.train()
    without.save_model()
    with pytest.raises(PublishError, match="no complete checkpoint"):
        ht.publish(out, "pets", verify=False, include_checkpoint=True)


def test_what_is_the_users_stays(first: Path) -> None:
    """Figures and files beside the samples that no run of ours writes are not moved."""
    mine = (first / "figures" / "mine.png", first / "verification" / "faces.csv")
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    second = trainer_of(first)
    second.train()
    second.save_model()
    assert [path.read_text() for path in mine] == ["mine", "mine"]


def test_each_earlier_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """After three trainings the results of the first two are not mixed and none is lost, and each has its plan; a
    model that was saved without results leaves nothing behind."""
    for number, split in enumerate(("test", "eval", "eval")):
        trainer = trainer_of(tmp_path)
        trainer.train()
        trainer.save_model()
        if number < 2:
            trainer.save_metrics(split, {"number": number})
    kept = tmp_path / "earlier_run"
    names = {"transfer_plan.json", "all_results.json"}
    assert {path.name for path in (kept / "1").iterdir()} == names | {"test_results.json"}
    assert {path.name for path in (kept / "2").iterdir()} == names | {"eval_results.json"}
    assert json.loads((kept / "1" / "all_results.json").read_text()) == {"number": 0}
    again = trainer_of(tmp_path)
    again.train()
    again.save_model()
    assert sorted(path.name for path in kept.iterdir()) == ["1", "2"]


def test_a_model_is_saved_whatever_lies_in_the_folder(first: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing can be moved aside, the trained model is saved all the same, and a warning names what stayed."""
    (first / "earlier_run").write_text("a file")
    before = (first / "model.safetensors").read_bytes()
    second = trainer_of(first, num_train_epochs=2)
    second.train()
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        second.save_model()
    assert (first / "model.safetensors").read_bytes() != before
    assert "could not be moved aside" in caplog.text and "eval_results.json" in caplog.text
