"""`hf-transfer diagnose`: the command that it advises is the one that does what was chosen."""

from __future__ import annotations

import json
import shlex

from hf_transfer.cli.diagnose import _command
from hf_transfer.diagnosis.candidates import Candidate


def test_the_advised_command_is_one_that_a_shell_takes() -> None:
    """Names with spaces stay one word, options are JSON, arguments become flags."""
    chosen = Candidate("LP-FT", "lp_ft", {"layer_decay": 0.8}, {"augmentation": "none", "train_batch_size": 16})
    words = shlex.split(_command("models/my net", "my photos", chosen))
    assert words[:2] == ["hf-transfer", "train"] and "my photos" in words and "models/my net" in words
    assert json.loads(words[words.index("--recipe_options") + 1]) == {"layer_decay": 0.8}
    assert words[words.index("--per_device_train_batch_size") + 1] == "16"
    assert "--allow_probe_file" not in words and "--layer" not in words


def test_a_classifier_that_no_checkpoint_can_hold_is_advised_with_its_flag() -> None:
    """Without --allow_probe_file the advised command would train another one."""
    words = _command("m", "d", Candidate("probe", "linear_probe", layer="blocks.2", native=False)).split()
    assert words[words.index("--layer") + 1] == "blocks.2" and "--allow_probe_file" in words
