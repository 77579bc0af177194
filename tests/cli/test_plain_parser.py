"""hf_transfer.cli.plain_parser: plain dataclasses are parsed as HfArgumentParser parses them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from transformers import HfArgumentParser

from hf_transfer.cli.plain_parser import PlainParser


@dataclass
class Options:
    """One field of each kind."""

    name: str = field(metadata={"help": "A text."})
    image_size: int | None = field(default=None, metadata={"help": "A number."})
    rate: float = field(default=0.5, metadata={"help": "A number.", "choices": [0.5, 1.0]})
    reset_head: bool = field(default=False, metadata={"help": "A switch."})
    create_pr: bool | None = field(default=None, metadata={"help": "A switch with three states."})
    metrics: list[str] | None = field(default=None, metadata={"help": "A list."})


@dataclass
class More:
    """A second group."""

    seed: int = field(default=42, metadata={"help": "A number."})


def _parsed(parser_class: Any, words: list[str]) -> Any:
    parser = parser_class([Options, More], allow_abbrev=False)
    parser.add_argument("--config")
    *found, rest, unknown = parser.parse_args_into_dataclasses(
        args=words, look_for_args_file=False, return_remaining_strings=True
    )
    return found, vars(rest), unknown


@pytest.mark.parametrize(
    "words",
    [
        ["--name", "a"],
        ["--name=a", "--image-size", "96", "--rate", "1", "--seed", "7"],
        ["--name", "a", "--reset_head", "--create_pr", "true", "--metrics", "f1", "recall"],
        ["--name", "a", "--reset_head", "false", "--create_pr", "no", "--unknown", "3"],
        ["--name", "a", "--reset-head", "True", "--config", "run.yaml"],
    ],
)
def test_flags_mean_what_they_mean_in_trainer_scripts(words: list[str]) -> None:
    """Texts, numbers, switches, lists, dashes and unknown words come out alike."""
    assert _parsed(PlainParser, words) == _parsed(HfArgumentParser, words)


def test_a_switch_of_three_states_needs_no_value() -> None:
    """`--create_pr` alone means true, where HfArgumentParser wants a word."""
    (found, _), _, _ = _parsed(PlainParser, ["--name", "a", "--create_pr"])
    assert found.create_pr is True


@pytest.mark.parametrize(
    "words",
    [[], ["--name", "a", "--rate", "2"], ["--name", "a", "--image_size", "x"], ["--name", "a", "--reset_head", "x"]],
)
def test_bad_flags_exit_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing, no choice, no number or no truth value is argparse's usage error in both."""
    for parser_class in (PlainParser, HfArgumentParser):
        with pytest.raises(SystemExit) as stop:
            _parsed(parser_class, words)
        assert stop.value.code == 2
