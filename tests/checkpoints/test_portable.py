"""hf_transfer.checkpoints.portable: what Trainer pickles, as safetensors and JSON, and a run that goes on from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_transfer as ht
from hf_transfer.checkpoints.portable import pack, unpacked
from hf_transfer.errors import PlanError, PublishError
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments, logged

PLAN = ht.recipes.lp_ft(probe_epochs=1)
PLAIN = ("config.json", "model.safetensors", "transfer_plan.json", "transfer_state.json")


def trainer_of(folder: Path, plan: ht.TransferPlan | None = PLAN, **options: Any) -> ht.TransferTrainer:
    """Eight steps, in two phases if there is a plan, with dropout and a checkpoint at every second step."""
    torch.manual_seed(0)
    args = arguments(folder, **{"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1} | options)
    return ht.TransferTrainer(tiny.vit(), args, train_dataset=RandomImages(), plan=plan)


def packed(checkpoint: Path, target: Path) -> Path:
    """A checkpoint as it is published."""
    target.mkdir(parents=True)
    pack(checkpoint, target)
    for name in PLAIN:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, target / name)
    return target


@pytest.mark.parametrize(
    ("plan", "step", "options"),
    [
        (PLAN, 6, {"optim": "adamw_torch"}),
        pytest.param(PLAN, 6, {"optim": "sgd", "optim_args": "momentum=0.9"}, marks=pytest.mark.slow),
        pytest.param(PLAN, 2, {"optim": "adafactor"}, marks=pytest.mark.slow),
        pytest.param(None, 2, {"optim": "adamw_torch", "lr_scheduler_type": "cosine"}, marks=pytest.mark.slow),
    ],
    ids=["adamw", "sgd", "adafactor", "no plan"],
)
def test_resumed_equals_uninterrupted(
    plan: ht.TransferPlan | None, step: int, options: dict[str, Any], tmp_path: Path
) -> None:
    """Weights, optimizer and losses of a run resumed from the published form are those of the uninterrupted run, to
    the last bit, dropout included; and nothing of it is a pickle."""
    whole = trainer_of(tmp_path / "whole", plan, **options)
    whole.train()
    folder = packed(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / "published" / "checkpoint")
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    resumed = trainer_of(tmp_path / "resumed", plan, **options)
    resumed.train(resume_from_checkpoint=str(folder))
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())
    assert logged(resumed, "loss") == logged(whole, "loss")
    states = [trainer.optimizer.state_dict()["state"] for trainer in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    for index, state in states[0].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(states[1][index][k])) for k, v in state.items())
    assert not list(folder.glob("*.p*t*")), "the published folder is as it was"


@pytest.mark.slow
def test_damage_is_told(tmp_path: Path) -> None:
    """A cut file, another schema, or a name that leads elsewhere: an error that names the checkpoint."""
    trainer_of(tmp_path / "run").train()
    whole = packed(tmp_path / "run" / "checkpoint-4", tmp_path / "checkpoint")
    data = json.loads((whole / "optimizer.json").read_text())
    harms = {
        "optimizer.safetensors": (whole / "optimizer.safetensors").read_bytes()[:100],
        "scheduler.json": b"{",
        "optimizer.json": json.dumps(data | {"file": "../optimizer.pt"}).encode(),
        "rng_state.json": json.dumps({"schema": 2}).encode(),
    }
    for name, content in harms.items():
        before = (whole / name).read_bytes()
        (whole / name).write_bytes(content)
        with pytest.raises(PlanError, match="checkpoint checkpoint is damaged"):
            trainer_of(tmp_path / "resumed").train(resume_from_checkpoint=whole)
        (whole / name).write_bytes(before)


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    """A checkpoint without optimizer, and one with an object for which there is no safe format."""
    (tmp_path / "scheduler.pt").write_bytes(b"")
    with pytest.raises(PublishError, match="no optimizer state in one file"):
        pack(tmp_path, tmp_path)


def test_every_kind_of_value_survives(tmp_path: Path) -> None:
    """Tuples, other keys than text, infinities, arrays, empty containers and tensors of all kinds come back equal."""
    content = {
        "a": (1, 2.5, None, True, "x"),
        "b": {0: {"step": torch.tensor(3.0)}, 7: {}},
        "c": [float("inf"), float("-inf"), 1e-17, []],
        "d": np.arange(5, dtype=np.uint32),
        "e": {"half": torch.ones(2, 3, dtype=torch.bfloat16).T, "bytes": torch.zeros(4, dtype=torch.uint8)},
        "f": {"$tensor": "not one"},
        "g": {"h": torch.tensor(1)},
        "g.h": torch.tensor(2),
    }
    source, target = tmp_path / "checkpoint-1", tmp_path / "packed"
    source.mkdir()
    target.mkdir()
    torch.save(content, source / "optimizer.pt")
    torch.save({}, source / "scheduler.pt")
    (source / "trainer_state.json").write_text('{"best_model_checkpoint": null}')
    assert sorted(pack(source, target)) == [
        "optimizer.json",
        "optimizer.safetensors",
        "scheduler.json",
        "trainer_state.json",
    ]
    json.loads((target / "optimizer.json").read_text(), parse_constant=pytest.fail)
    with unpacked(str(target)) as folder:
        back = torch.load(Path(str(folder)) / "optimizer.pt", weights_only=False)
    assert (back["a"], back["c"], back["f"]) == (content["a"], content["c"], content["f"])
    assert back["b"] == content["b"] and list(back["b"]) == [0, 7]
    assert np.array_equal(back["d"], content["d"]) and back["d"].dtype == np.uint32
    assert all(torch.equal(back["e"][key], content["e"][key]) for key in content["e"])
    assert (int(back["g"]["h"]), int(back["g.h"])) == (1, 2)
    assert back["e"]["half"].dtype == torch.bfloat16


@pytest.mark.parametrize(("best", "kept"), [("run/checkpoint-1", True), ("run/checkpoint-9", False)])
def test_the_best_checkpoint(best: str, kept: bool, tmp_path: Path) -> None:
    """The best checkpoint is named without a path if it is this one, and forgotten with its value if it is not."""
    source, target = tmp_path / "checkpoint-1", tmp_path / "packed"
    source.mkdir()
    target.mkdir()
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({}, source / name)
    state = {"best_model_checkpoint": f"/home/anna/{best}", "best_metric": 0.5, "best_global_step": 1}
    (source / "trainer_state.json").write_text(json.dumps(state))
    pack(source, target)
    assert "anna" not in (target / "trainer_state.json").read_text()
    with unpacked(str(target)) as folder:
        found = json.loads((Path(str(folder)) / "trainer_state.json").read_text())
    wanted = {"best_model_checkpoint": str(target), "best_metric": 0.5, "best_global_step": 1}
    assert found == (wanted if kept else dict.fromkeys(wanted))
