"""Pushes of a training run against the local Hub: each strategy, what is never sent, and that no failure is silent."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import hf_transfer as ht
from hf_transfer.cli import main
from hf_transfer.errors import ArgumentError, InterruptedTrainingError, PublishError
from tests.helpers import tiny
from tests.helpers.card_records import metadata
from tests.helpers.checkpoints import save_timm_resnet
from tests.helpers.hub_server import Fault, HubServer, Repository
from tests.helpers.hub_server.fixtures import READ_TOKEN, TOKEN, hub
from tests.helpers.image_files import write_classes
from tests.helpers.training import RandomImages, arguments

__all__ = ["hub"]

REPOSITORY = "someone/pets"
MODEL = {".gitattributes", "config.json", "model.safetensors", "transfer_plan.json"}


def trainer_of(folder: Path, **options: Any) -> ht.TransferTrainer:
    """A run of two epochs that pushes after each."""
    defaults = {"push_to_hub": True, "hub_model_id": REPOSITORY, "save_strategy": "epoch", "num_train_epochs": 2}
    return ht.TransferTrainer(
        model=tiny.vit(),
        args=arguments(folder, **(defaults | options)),
        train_dataset=RandomImages(),
        plan=ht.recipes.linear_probe(),
    )


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [
        ("end", set()),
        pytest.param("every_save", set(), marks=pytest.mark.slow),
        pytest.param("checkpoint", {"last-checkpoint"}, marks=pytest.mark.slow),
        ("all_checkpoints", {"checkpoint-4", "checkpoint-8"}),
    ],
)
def test_strategies(hub: HubServer, tmp_path: Path, strategy: str, folders: set[str]) -> None:
    """What each strategy sends: the model, and folders of checkpoints without optimizer, pickle or local path, to a
    private repository; and after push_to_hub a card whose plan is the trainer's."""
    trainer = trainer_of(tmp_path / "out", hub_strategy=strategy, hub_always_push=True)
    trainer.train()
    made = hub.repositories[REPOSITORY]
    assert made.private and len(made.commits) == (1 if strategy == "end" else 3)
    inner = {f"{f}/{n}" for f in folders for n in (*MODEL - {".gitattributes"}, "trainer_state.json")}
    assert set(made.files()) == (MODEL if strategy != "end" else {".gitattributes"}) | inner
    assert trainer.push_to_hub(verify=False) is not None
    assert set(made.files()) == MODEL | inner | {"README.md", "run.json"}
    card = made.files()["README.md"].content.decode()
    assert "`linear_probe`" in card and "## Data" not in card and "base_model" not in metadata(card)
    assert str(tmp_path).encode() not in hub.received and TOKEN.encode() not in hub.received


def test_scripts_push_with_the_words_of_their_card(hub: HubServer, tmp_path: Path) -> None:
    """What a stock script gives to push_to_hub: our card with its evaluation and the name of its data."""
    trainer = trainer_of(tmp_path / "out", hub_strategy="end")
    trainer.train()
    trainer.eval_dataset = RandomImages(15)
    words = {"finetuned_from": "someone/base", "tasks": "image-classification", "dataset": "pets", "tags": ["vision"]}
    assert trainer.push_to_hub(verify=False, **words) is not None
    files = hub.repositories[REPOSITORY].files()
    assert json.loads(files["run.json"].content)["evaluation"]["evaluation"]["n"] == 15
    assert "pets" in files["README.md"].content.decode()


@pytest.mark.slow
def test_failed_pushes_do_not_stop_the_run_and_are_made_up_for(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While every commit fails, training ends with its weights and warnings; push_to_hub then publishes all."""
    trainer = trainer_of(tmp_path / "out", hub_always_push=True)
    hub.faults = [Fault("POST", "/commit/", status=503, count=1000)]
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        trainer.train()
    assert "2 pushes during training failed" in caplog.text and trainer.state.global_step == 8
    assert (tmp_path / "out" / "checkpoint-8" / "model.safetensors").is_file()
    with pytest.raises(PublishError, match="hf-transfer publish"):
        trainer.push_to_hub(verify=False)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    hub.faults = []
    trainer.push_to_hub(verify=False)
    assert "README.md" in hub.repositories[REPOSITORY].files()


def test_failed_pushes_are_told_after_an_interrupt(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that a signal ends says, too, that its pushes in the background failed."""

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = trainer_of(tmp_path / "out", hub_always_push=True)
    trainer.add_callback(Stop())
    hub.faults = [Fault("POST", "/commit/", status=400, count=1000)]
    with caplog.at_level(logging.WARNING, logger="hf_transfer"), pytest.raises(InterruptedTrainingError):
        trainer.train()
    assert "2 pushes during training failed" in caplog.text


def test_a_repository_with_content_gets_one_pull_request(hub: HubServer, tmp_path: Path) -> None:
    """All pushes of a run go into one pull request; what was there is not touched."""
    theirs = hub.repositories[REPOSITORY] = Repository(REPOSITORY, private=True)
    theirs.put("config.json", b"{}")
    trainer = trainer_of(tmp_path / "out", hub_always_push=True)
    trainer.train()
    made = trainer.push_to_hub(verify=False)
    assert made is not None and theirs.pull_requests == 1
    assert theirs.files()["config.json"].content == b"{}" and "README.md" in theirs.files("refs/pr/1")


def test_a_second_run_in_the_same_folder_gets_its_own_card(hub: HubServer, tmp_path: Path) -> None:
    """Another training in the same output_dir is published with its own record; what the user wrote into the card
    stays, and so does a record of the very training that is published."""
    first = trainer_of(tmp_path / "out")
    first.train()
    first.push_to_hub(verify=False)
    card = tmp_path / "out" / "README.md"
    card.write_text(card.read_text().replace("user:start -->\n", "user:start -->\nMine.\n", 1))
    record = (tmp_path / "out" / "run.json").read_bytes()
    first.push_to_hub(verify=False)
    assert (tmp_path / "out" / "run.json").read_bytes() == record
    second = trainer_of(tmp_path / "out", num_train_epochs=1)
    second.train()
    made = second.push_to_hub(verify=False)
    assert made is not None and made.pull_request == 1
    theirs = hub.repositories[REPOSITORY].files("refs/pr/1")
    assert json.loads(theirs["run.json"].content)["training"]["steps"] == 4
    assert b"Mine." in theirs["README.md"].content


def test_the_command_to_try_again_leaves_what_was_there(hub: HubServer, tmp_path: Path) -> None:
    """If only the last push fails, the printed command also goes by pull request into a foreign repository."""
    theirs = hub.repositories[REPOSITORY] = Repository(REPOSITORY, private=True)
    theirs.put("config.json", b"{}")
    trainer = trainer_of(tmp_path / "out", hub_always_push=True)
    trainer.train()
    hub.faults = [Fault("POST", "/commit/", status=503, count=1000)]
    with pytest.raises(PublishError, match="to try again") as caught:
        trainer.push_to_hub(verify=False)
    hub.faults = []
    command = shlex.split(str(caught.value).partition("to try again: ")[2])
    assert main([*command[1:], "--no_verify"]) == 0
    assert theirs.files()["config.json"].content == b"{}" and "README.md" not in theirs.files()
    assert "README.md" in theirs.files(f"refs/pr/{theirs.pull_requests}")


def test_refused_before_training(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token as argument, a token that only reads, a public repository: the trainer is not even built."""
    with pytest.raises(ArgumentError, match="HF_TOKEN"):
        trainer_of(tmp_path / "out", hub_token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(PublishError, match="only read"):
        trainer_of(tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repositories[REPOSITORY] = Repository(REPOSITORY, private=False)
    with pytest.raises(PublishError, match="public"):
        trainer_of(tmp_path / "out")
    assert hub.writes() == []


def test_nothing_to_tell_is_an_error_of_ours(hub: HubServer, tmp_path: Path) -> None:
    """push_to_hub before any training says so, and sends nothing."""
    trainer = trainer_of(tmp_path / "out")
    with pytest.raises(PublishError, match=r"no training .* Train first"):
        trainer.push_to_hub(verify=False)
    assert set(hub.repositories[REPOSITORY].files()) == {".gitattributes"}


def test_visibility_cannot_change_after_the_check(hub: HubServer, tmp_path: Path) -> None:
    """push_to_hub(private=...) other than that of the repository is refused, and not ignored; the same is fine."""
    trainer = trainer_of(tmp_path / "out", hub_private_repo=False, num_train_epochs=1, hub_strategy="end")
    trainer.train()
    with pytest.raises(ArgumentError, match="public"):
        trainer.push_to_hub(verify=False, private=True)
    assert set(hub.repositories[REPOSITORY].files()) == {".gitattributes"}
    assert trainer.push_to_hub(verify=False, private=False) is not None


@pytest.mark.parametrize("where", ["label", "command"])
def test_train_command_looks_for_names_before_training(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    """The user's name in a label or in the command, which would stop the push at the end, stops the run at once."""
    monkeypatch.setenv("LOGNAME", "userxname")
    label, output = ("userxname_cat", "out") if where == "label" else ("cat", "userxname_out")
    for split, count in (("train", 4), ("validation", 2)):
        write_classes(tmp_path / "photos" / split, dict.fromkeys(("ant", label), count), seed=count)
    flags = ["--model_name_or_path", str(save_timm_resnet(tmp_path / "tiny")), "--dataset", str(tmp_path / "photos")]
    flags += ["--output_dir", str(tmp_path / output), "--recipe", "linear_probe", "--solver", "none"]
    assert main(["train", *flags, "--push_to_hub", "--hub_model_id", REPOSITORY]) == 1
    said = capsys.readouterr()
    assert "the name of this machine's user" in said.err and "Training\n" not in said.out
    assert hub.writes() == [] and not (tmp_path / output).exists()


def test_train_command_checks_before_it_loads(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train --push_to_hub` with a token that only reads fails before model and data are even looked for."""
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    flags = ["--model_name_or_path", "no-such", "--dataset", "no-such", "--output_dir", str(tmp_path / "out")]
    assert main(["train", *flags, "--push_to_hub", "--hub_model_id", REPOSITORY]) == 1
    assert "may only read" in capsys.readouterr().err and hub.writes() == []


@pytest.mark.slow
def test_train_command_publishes_and_verifies(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The main job with --push_to_hub: pushed after each epoch, published with card and figures, loaded back, with the
    trainer's own logits for a few evaluation images, which stay here. `publish` compares with them, too."""
    for split, count in (("train", 4), ("validation", 2)):
        write_classes(tmp_path / "photos" / split, dict.fromkeys(("ant", "bee"), count), seed=count)
    model, out = save_timm_resnet(tmp_path / "tiny"), tmp_path / "out"
    flags = ["--model_name_or_path", str(model), "--dataset", str(tmp_path / "photos"), "--output_dir", str(out)]
    flags += ["--num_train_epochs", "1", "--recipe", "linear_probe", "--solver", "none"]
    flags += ["--push_to_hub", "--hub_model_id", REPOSITORY]
    assert main(["train", *flags]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "Verified in a fresh process" in said and "on 4 evaluation images" in said
    figures = {f"figures/{name}.png" for name in ("confusion_matrix", "layer_plan", "learning_curves")}
    results = {"train_results.json", "eval_results.json", "all_results.json", "README.md", "run.json"}
    assert set(hub.repositories[REPOSITORY].files()) == MODEL | figures | results
    assert str(tmp_path).encode() not in hub.received and TOKEN.encode() not in hub.received
    assert (out / "README.md").is_file() and not (out / "training_args.bin").exists()
    assert {path.name for path in (out / "verification").iterdir()} == {
        "samples.json",
        *(f"{n}.png" for n in range(4)),
    }
    config = json.loads((out / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.1, 0.1]
    (out / "config.json").write_text(json.dumps(config))
    assert main(["publish", str(out), REPOSITORY]) == 1
    assert "from the trainer's on the 4 evaluation images" in capsys.readouterr().err
