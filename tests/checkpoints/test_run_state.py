"""hf_transfer.checkpoints.run_state: what a checkpoint knows of its run, and how it differs from another."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import hf_transfer as ht
from hf_transfer.checkpoints.run_state import RunState, differences, followed_differences
from hf_transfer.run_files import STATE_FILE

PLAN = ht.recipes.lp_ft(probe_epochs=1)
STATE = RunState(PLAN.to_dict(), "vit", {"w": [2, 3], "b": [3]}, {"length": 8}, 16, 1e-3)
FULL = replace(
    STATE,
    starts=(0, 4),
    best_of_phase=0.5,
    patience=(2,),
    cached=True,
    finished=1,
    optimizer={"class": "AdamW", "betas": [0.9, 0.999]},
    drawn={"seed": 1, "data_seed": None},
    transform="Flip()",
    followed={"max_grad_norm": 1.0},
)


def test_equal_states_do_not_differ_and_files_round_trip(tmp_path: Path) -> None:
    """Learning rate and starts may differ; a state file reads back as it was."""
    assert differences(FULL, replace(FULL, learning_rate=2.0, starts=(0, 4), finished=2)) == {}
    FULL.save(tmp_path)
    assert RunState.load(tmp_path) == FULL


def test_files_of_before_a_field_existed_can_be_resumed(tmp_path: Path) -> None:
    """What an older checkpoint, or its plan, does not tell is taken to be as it is now."""
    FULL.save(tmp_path)
    data = json.loads((tmp_path / STATE_FILE).read_text())
    for name in ("cached", "finished", "optimizer", "drawn", "transform", "followed"):
        del data[name]
    del data["plan"]["schedule"], data["plan"]["phases"][0]["reset_optimizer"]
    (tmp_path / STATE_FILE).write_text(json.dumps(data))
    old = RunState.load(tmp_path)
    now = replace(FULL, data=FULL.data | {"values": "5f", "labels": "a0"})
    assert differences(old, now) == {} and followed_differences(old, now) == []


def test_every_difference_is_told_under_its_topic() -> None:
    """Optimizer, seed, transform and data are told apart; what may be changed is told, too, but is none."""
    other = replace(
        FULL,
        optimizer={"class": "SGD"},
        drawn={"seed": 2, "data_seed": None},
        transform="",
        followed={"max_grad_norm": 2.0},
        data={"length": 9},
    )
    assert differences(FULL, other) == {
        "set of training data": [
            "length was 8, is 9 (training data)",
            "transform and collator were 'Flip()', are 'none'",
        ],
        "optimizer": [
            "class was AdamW, is SGD (optimizer)",
            "betas was [0.9, 0.999], is absent (optimizer)",
        ],
        "seed or order of images": ["seed was 1, is 2"],
    }
    assert followed_differences(FULL, other) == ["max_grad_norm was 1.0, is 2.0"]
    assert list(differences(FULL, replace(other, architecture="resnet")))[0] == "model"


def test_plans_of_before_a_field_existed_are_equal() -> None:
    """A checkpoint whose plan lacks a newer field is taken to have its default."""
    old = copy.deepcopy(STATE.plan)
    del old["schedule"], old["phases"][0]["reset_optimizer"]
    assert differences(replace(STATE, plan=old), STATE) == {}
