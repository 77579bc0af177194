"""A checkpoint on the Hub: published without a pickle, downloaded, and gone on from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import snapshot_download
from transformers import TrainerCallback

import hf_transfer as ht
from hf_transfer.cli import main
from hf_transfer.errors import PublishError
from hf_transfer.hub.staging import is_ours, stage_checkpoint
from hf_transfer.run_files import DIAGNOSIS_FILE, RANGE_FILE
from tests.checkpoints.test_portable import trainer_of
from tests.helpers.hub_server import HubServer
from tests.helpers.hub_server.fixtures import TOKEN, finished_run


@pytest.mark.slow
def test_published_checkpoint_resumes(hub: HubServer, tmp_path: Path) -> None:
    """`publish --include_checkpoint` sends the last checkpoint as safetensors and JSON; downloaded, it goes on to the
    weights of the uninterrupted run, also amid a phase that leaves the mean of its weights. Published again without
    it, it is taken away."""
    plan = ht.TransferPlan((ht.Phase("all", "all", max_steps=8, average_from=0.25),))
    whole = trainer_of(tmp_path / "whole", plan)
    whole.train()
    half = trainer_of(tmp_path / "half", plan, save_total_limit=1)
    half.add_callback(_Stop())
    half.train()
    half.save_model()
    half.write_missing_card(tmp_path / "half")
    assert main(["publish", str(tmp_path / "half"), "pets", "--include_checkpoint", "--no_verify"]) == 0
    theirs = hub.repositories["someone/pets"]
    inner = {name.partition("/")[2] for name in theirs.files() if name.startswith("checkpoint/")}
    stems = ("optimizer", "rng_state")
    assert inner == {
        *("config.json", "model.safetensors", "transfer_plan.json", "transfer_state.json", "trainer_state.json"),
        *(f"{stem}.{end}" for stem in stems for end in ("json", "safetensors")),
        *("scheduler.json", "weight_average.safetensors"),
    }
    assert not [name for name in theirs.files() if Path(name).suffix not in (".json", ".safetensors", ".md", "")]
    for never in (TOKEN, str(tmp_path), "training_args", "optimizer.pt\0"):
        assert never.encode() not in hub.received
    card = theirs.files()["README.md"].content.decode()
    assert "`checkpoint` holds weights, optimizer, schedule and random numbers after step\n4" in card

    folder = snapshot_download("someone/pets", allow_patterns="checkpoint/*", cache_dir=tmp_path / "cache")
    resumed = trainer_of(tmp_path / "resumed", plan)
    resumed.train(resume_from_checkpoint=Path(folder) / "checkpoint")
    assert resumed.state.global_step == whole.state.global_step == 8
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())

    ht.publish(tmp_path / "half", "pets", create_pr=False, verify=False)
    assert not [name for name in theirs.files() if name.startswith("checkpoint/")]


def test_what_a_checkpoint_needs_beside_its_state(tmp_path: Path) -> None:
    """Measured learning rates and the run's diagnosis go with the checkpoint, and are taken away with it."""
    run = tmp_path / "run"
    trainer_of(run).train()
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (last / RANGE_FILE).write_text('{"schema": 1, "tests": []}')
    (run / DIAGNOSIS_FILE).write_text("{}")
    _, names = stage_checkpoint(run, tmp_path / "staged")
    assert {RANGE_FILE, DIAGNOSIS_FILE} <= set(names) <= {path.name for path in (tmp_path / "staged").iterdir()}
    assert all(is_ours(f"checkpoint/{name}") for name in names)


def test_without_a_checkpoint(hub: HubServer, tmp_path: Path) -> None:
    """A run without a complete checkpoint is told so, and nothing is sent; the command to try again says the same."""
    with pytest.raises(PublishError, match="no complete checkpoint of this run") as caught:
        ht.publish(finished_run(tmp_path / "run"), "pets", include_checkpoint=True)
    assert hub.writes() == [] and str(caught.value).endswith("run pets --include_checkpoint")


class _Stop(TrainerCallback):
    """Ends the run after step 4, as one that was killed."""

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        if state.global_step == 4:  # type: ignore[attr-defined]
            control.should_training_stop = control.should_save = True  # type: ignore[attr-defined]
