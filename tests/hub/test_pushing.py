"""Pushes in the background that failed or were left out: made up for at the end, or told."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import hf_transfer as ht
from hf_transfer.errors import PublishError
from tests.helpers import tiny
from tests.helpers.hub_server import Fault, HubServer
from tests.helpers.training import RandomImages, arguments

REPOSITORY = "someone/pets"
COMMIT = ("POST", "/commit/")
PROBE = ht.recipes.linear_probe()


def trainer_of(
    folder: Path, strategy: str, plan: ht.TransferPlan | None = PROBE, **options: Any
) -> ht.TransferTrainer:
    """A run of two epochs, of four steps each, that pushes after each."""
    defaults = {"push_to_hub": True, "hub_model_id": REPOSITORY, "save_strategy": "epoch", "num_train_epochs": 2}
    defaults |= {"hub_strategy": strategy, "hub_always_push": True}
    return ht.TransferTrainer(
        model=tiny.vit(),
        args=arguments(folder, **(defaults | options)),
        train_dataset=RandomImages(),
        plan=plan,
    )


def same_weights(hub: HubServer, name: str, checkpoint: Path) -> bool:
    """Whether the repository's file is the checkpoint's weights."""
    found = hub.repositories[REPOSITORY].files().get(name)
    return found is not None and found.content == (checkpoint / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("strategy", "places"),
    [
        pytest.param("every_save", {}, marks=pytest.mark.slow),
        pytest.param("checkpoint", {"last-checkpoint": 8}, marks=pytest.mark.slow),
        ("all_checkpoints", {"checkpoint-4": 4, "checkpoint-8": 8}),
    ],
)
def test_failed_pushes_are_made_up_for_when_training_ends(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, strategy: str, places: dict[str, int]
) -> None:
    """If both pushes of a run failed, training ends with all that they should have sent on the Hub: the last model,
    and the folders of the strategy, each with its own weights; older ones do not replace the model's."""
    trainer = trainer_of(tmp_path, strategy)
    hub.faults = [Fault(*COMMIT, status=400, count=2)]
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        trainer.train()
    assert "2 pushes during training failed" in caplog.text and "made up for" in caplog.text
    assert same_weights(hub, "model.safetensors", tmp_path / "checkpoint-8")
    for place, step in places.items():
        assert same_weights(hub, f"{place}/model.safetensors", tmp_path / f"checkpoint-{step}")
        assert f"{place}/trainer_state.json" in hub.repositories[REPOSITORY].files()


def test_push_to_hub_makes_up_for_what_is_still_missing(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What fails at the end of training, too, is told to be missing and sent by push_to_hub; if even that fails and
    the model alone arrives, that is an error, and push_to_hub again sends the rest."""
    trainer = trainer_of(tmp_path, "checkpoint")
    hub.faults = [Fault(*COMMIT, status=400, count=4)]  # two pushes, the end of training, and push_to_hub's first
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        trainer.train()
    assert "Still missing on the Hub: the model and last-checkpoint" in caplog.text
    with pytest.raises(PublishError, match=r"was published at revision \w+, but last-checkpoint of") as caught:
        trainer.push_to_hub(verify=False)
    theirs = hub.repositories[REPOSITORY]
    assert theirs.refs["main"] in str(caught.value) and "push_to_hub() again" in str(caught.value)
    assert "README.md" in theirs.files() and "last-checkpoint/config.json" not in theirs.files()
    assert trainer.push_to_hub(verify=False) is not None
    assert same_weights(hub, "last-checkpoint/model.safetensors", tmp_path / "checkpoint-8")


def test_pushes_that_were_left_out_are_made_up_for(hub: HubServer, tmp_path: Path) -> None:
    """While a push is on its way, the next is left out (hub_always_push=False); its folder is there after training."""
    saved = threading.Event()

    class Saved(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 8:
                saved.set()

    trainer = trainer_of(tmp_path, "all_checkpoints", hub_always_push=False)
    trainer.add_callback(Saved())
    hub.faults = [Fault(*COMMIT, action=lambda: saved.wait(60) and None)]
    trainer.train()
    for step in (4, 8):
        assert same_weights(hub, f"checkpoint-{step}/model.safetensors", tmp_path / f"checkpoint-{step}")
    assert same_weights(hub, "model.safetensors", tmp_path / "checkpoint-8")


def test_a_checkpoint_that_is_gone_is_told(hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint whose push failed and which save_total_limit removed cannot be made up for: that is said, and the
    rest is published."""
    trainer = trainer_of(tmp_path, "all_checkpoints", save_total_limit=1)
    hub.faults = [Fault(*COMMIT, status=400)]
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        trainer.train()
    assert "checkpoint-4 was removed meanwhile" in caplog.text and "save_total_limit" in caplog.text
    assert trainer.push_to_hub(verify=False) is not None
    folders = {name.partition("/")[0] for name in hub.repositories[REPOSITORY].files() if "/" in name}
    assert folders == {"checkpoint-8"}


def test_a_run_without_a_plan_that_breaks_off_tells_too(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a plan, as with one, an error in the training does not hide that pushes before it failed."""

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise RuntimeError("no more")

    trainer = trainer_of(tmp_path, "every_save", plan=None)
    trainer.add_callback(Stop())
    hub.faults = [Fault(*COMMIT, status=400, count=1000)]
    with caplog.at_level(logging.WARNING, logger="hf_transfer"), pytest.raises(RuntimeError, match="no more"):
        trainer.train()
    assert "1 pushes during training failed" in caplog.text
