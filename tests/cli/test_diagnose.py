"""`hf-transfer diagnose`: the command that it advises is the one that does what was chosen."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from hf_transfer.cli.diagnose import _command, _given
from hf_transfer.cli.flags import DataOptions, ModelOptions, TrainDataOptions
from hf_transfer.cli.options import parse
from hf_transfer.diagnosis.candidates import Candidate
from hf_transfer.trainer.args import TransferArguments


def given(model: str, dataset: str, **more: Any) -> list[str]:
    """The flags of a model and a data set."""
    own = {name: value for name, value in more.items() if name in ModelOptions.__dataclass_fields__}
    rest = {name: value for name, value in more.items() if name not in own}
    return _given(ModelOptions(model, **own), DataOptions(dataset, **rest))


def test_the_advised_command_carries_what_was_given(tmp_path: Path) -> None:
    """Flags of model and data come out of train's own parser as they went into diagnose."""
    more = {"image_size": 32, "reset_head": True, "labels": "table", "metrics": ["f1", "recall"], "split_seed": 7}
    words = shlex.split(_command([*given("m", "d", **more), "--seed", "3"], Candidate("FT", "fine_tune", {}, {})))
    types = (ModelOptions, TrainDataOptions, TransferArguments)
    model, data, args, _ = parse(types, words[2:], "train", "", {})
    assert {name: (vars(model) | vars(data))[name] for name in more} == more
    assert (model.model_name_or_path, data.dataset, args.seed, args.recipe) == ("m", "d", 3, "fine_tune")


def test_the_advised_command_is_one_that_a_shell_takes() -> None:
    """Names with spaces stay one word, options are JSON, arguments become flags."""
    chosen = Candidate("LP-FT", "lp_ft", {"layer_decay": 0.8}, {"augmentation": "none", "train_batch_size": 16})
    words = shlex.split(_command(given("models/my net", "my photos"), chosen))
    assert words[:2] == ["hf-transfer", "train"] and "my photos" in words and "models/my net" in words
    assert json.loads(words[words.index("--recipe_options") + 1]) == {"layer_decay": 0.8}
    assert words[words.index("--per_device_train_batch_size") + 1] == "16"
    assert "--allow_probe_file" not in words and "--layer" not in words


def test_a_classifier_that_no_checkpoint_can_hold_is_advised_with_its_flag() -> None:
    """Without --allow_probe_file the advised command would train another one."""
    words = _command(given("m", "d"), Candidate("probe", "linear_probe", layer="blocks.2", native=False)).split()
    assert words[words.index("--layer") + 1] == "blocks.2" and "--allow_probe_file" in words
