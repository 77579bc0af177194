"""hf_transfer.cli.help: every flag in a group, true to what the command parses, and printed without heavy imports."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields

import pytest
from transformers import TrainingArguments

import hf_transfer.cli as cli
from hf_transfer.cli import flags
from hf_transfer.cli.help import TRAINER_FLAGS, listed, show
from hf_transfer.trainer.args import TransferArguments
from hf_transfer.trainer.fields import TransferFields

_TYPES = {
    "train": (
        flags.ModelOptions,
        flags.TrainDataOptions,
        flags.OutputOptions,
        flags.DiagnosisOptions,
        TransferFields,
    ),
    "diagnose": (flags.ModelOptions, flags.DataOptions, flags.DiagnosisOptions, flags.DiagnoseOptions),
    "inspect": (flags.InspectOptions,),
    "evaluate": (flags.EvaluateOptions, flags.DataOptions),
    "publish": (flags.PublishOptions,),
    "demo": (flags.DemoOptions,),
}


def test_all_commands_have_help() -> None:
    """A command that is added is described, too."""
    assert all(f"usage: hf-transfer {command}" in show(command) for command in cli.COMMANDS)
    assert set(_TYPES) | {"doctor"} == set(cli.COMMANDS) == set(flags.DESCRIPTIONS)


@pytest.mark.parametrize("command", _TYPES)
def test_each_flag_of_ours_is_listed_once(command: str) -> None:
    """No flag is missing or doubled, and what `train` takes from Trainer is listed once as well."""
    names = [flag.name for flag in listed(command)]
    assert len(names) == len(set(names))
    own = {each.name for group in _TYPES[command] for each in fields(group)}
    assert own <= set(names)
    assert set(names) - own - {"config", "debug"} == (set(TRAINER_FLAGS) if command == "train" else set())


def test_flags_of_trainer_have_its_names_and_defaults() -> None:
    """What help says of Trainer's flags is what a run of `train` without them does."""
    args = TransferArguments("out", **flags.TRAIN_DEFAULTS)
    known = {each.name for each in fields(TrainingArguments)}
    for name, flag in TRAINER_FLAGS.items():
        assert name in known
        if flag.default is None:
            continue
        value = vars(args)[name]
        value = getattr(value, "value", value)
        assert ("none" if name == "report_to" else value) == flag.default, name


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_flag_with_a_value_states_its_default(command: str) -> None:
    """A flag is required, is a switch that is off, or says what holds without it."""
    for flag in listed(command):
        stated = flag.required or not flag.value or flag.default not in (None, "") or "Default: " in flag.help
        assert stated, flag.name
        assert flag.help.endswith("."), flag.name


def test_all_of_the_help_lists_every_flag_once(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help_all` has each flag that `train` takes, our own defaults, and none that is refused."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--help_all"])
    assert stop.value.code == 0
    everything = re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE)
    ours = {each.name for group in _TYPES["train"] for each in fields(group)} | {"config", "debug"}
    theirs = {each.name for each in fields(TrainingArguments)}
    assert set(everything) == (ours | theirs) - flags.REFUSED
    assert {name for name in everything if everything.count(name) > 1} == {"debug"}  # ours, and Trainer's with a value
    assert "hub_token" in flags.REFUSED
    assert not flags.REFUSED & {flag.name for flag in listed("train")}


def test_all_of_the_help_of_other_commands_is_their_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help_all` of a command without TrainingArguments is its `--help`."""
    with pytest.raises(SystemExit):
        cli.main(["inspect", "--help_all"])
    assert capsys.readouterr().out == show("inspect") + "\n"


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    """`hf-transfer COMMAND --help` loads no torch, transformers or numpy, and shows each group once."""
    code = (
        "import sys\nfrom hf_transfer.cli import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'rich', 'yaml', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\ngeneral:\n") == 1


def test_the_groups_of_train_come_in_the_order_of_a_run() -> None:
    """Model, data, recipe, training, output, publishing; every line fits a terminal."""
    text = show("train")
    titles = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["model", "data", "recipe", "training", "output", "publishing", "general"]
    assert max(map(len, text.splitlines())) <= 120 and len(text.splitlines()) < 200
