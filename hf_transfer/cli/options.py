"""Parse the flags of a command, and the YAML file that can hold them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_transfer.cli.paths import at_home
from hf_transfer.cli.plain_parser import PlainParser, Suggesting
from hf_transfer.errors import ArgumentError, TransferError
from hf_transfer.trainer.fields import TransferFields
from hf_transfer.utils.suggestions import did_you_mean


def parse(
    types: Sequence[type],
    argv: Sequence[str],
    command: str,
    description: str,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Parse flags into dataclasses; flags override those of `--config FILE.yaml`.

    Args:
        types: Dataclasses whose fields are the flags.
        argv: Arguments after the command's name.
        command: Its name, for the usage line.
        description: For the help text of argparse.
        defaults: Defaults of the command that differ from those of the dataclasses.

    Returns:
        One instance of each type, then the names of the flags that were given.

    Raises:
        ArgumentError: The file is missing, is not YAML, has unknown keys or a value that its flag does not take.
    """
    parser = _parser(
        types,
        prog=f"hf-transfer {command}",
        usage=f"hf-transfer {command} [--flags] [--config FILE.yaml]; --help lists the flags",
        description=description,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="YAML file with flags; those on the command line win.")
    known = {action.dest for action in parser._actions}
    argv = list(_expanded(argv))
    config = _read_config(argv, known)
    _check_config(config, parser)
    for action in parser._actions:
        if action.dest in config or action.dest in (defaults or {}):
            action.required = False
    parser.set_defaults(**(dict(defaults or {}) | config))
    try:
        *parsed, _, unknown = parser.parse_args_into_dataclasses(
            args=list(argv), look_for_args_file=False, return_remaining_strings=True
        )
    except TransferError:
        raise
    except Exception as error:  # transformers' own checks of TrainingArguments, of many types
        raise ArgumentError(f"The flags do not fit: {_words(error)}") from error
    if unknown:
        flags = [word.split("=")[0] for word in unknown if word.startswith("--")]
        guesses = "".join(did_you_mean(flag, (f"--{name}" for name in known)) for flag in flags)
        parser.error(f"unknown: {' '.join(unknown)}.{guesses}")
    given = set(config) | {a[2:].split("=")[0].replace("-", "_") for a in argv if a.startswith("--")}
    return (*parsed, frozenset(given & known))


def _expanded(argv: Sequence[str]) -> Iterator[str]:
    """The words, with the home folder in the place of `~` where a flag takes a path."""
    name = ""
    for word in argv:
        flag, equals, value = word.partition("=")
        if not word.startswith("--"):
            yield at_home(name, word)
            continue
        name = flag[2:].replace("-", "_")
        yield f"{flag}={at_home(name, value)}" if equals else word


def _words(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith((".", "?")) else f"{text}."


def _parser(types: Sequence[type], **settings: Any) -> Any:
    """The parser of transformers for its training arguments; otherwise a plain one that imports nothing."""
    if not any(issubclass(each, TransferFields) for each in types):
        return PlainParser(types, **settings)
    from transformers import HfArgumentParser

    class Parser(Suggesting, HfArgumentParser):
        pass

    return Parser(list(types), **settings)  # type: ignore[arg-type]


def _check_config(config: dict[str, Any], parser: argparse.ArgumentParser) -> None:
    """Read each value as the flag of that name would read it, and make a list of a single word."""
    for action in parser._actions:
        if action.dest not in config:
            continue
        value = config[action.dest]
        if value is None:  # an empty value means the default
            del config[action.dest]
        elif action.nargs == "+":
            config[action.dest] = value if isinstance(value, list) else [value]
        elif isinstance(value, list):
            raise ArgumentError(f"In the configuration, {action.dest} must be one value; found a list.")
        elif isinstance(value, dict):
            if action.choices is not None or action.type in (int, float) or action.nargs == "?":
                raise ArgumentError(f"In the configuration, {action.dest} must be one value; found a mapping.")
        else:
            config[action.dest] = _one_value(parser, action, value)


def _one_value(parser: argparse.ArgumentParser, action: argparse.Action, value: Any) -> Any:
    """A value of YAML as the flag reads it; YAML takes 1e-3 for text, and no, on and off for truth values."""
    choices = list(map(str, action.choices or ()))
    if isinstance(value, bool) and action.nargs != "?":
        spellings = ("on", "yes", "true") if value else ("off", "no", "false")
        other = "none" if action.dest == "report_to" else "no"
        text = next((each for each in spellings if each in choices), "true" if value else other)
    else:
        text = str(value)
    try:
        found = parser._get_value(action, text)
    except argparse.ArgumentError as error:
        raise ArgumentError(
            f"In the configuration, {action.dest} cannot be {value!r}: {str(error).partition(': ')[2]}."
        ) from error
    if action.choices is not None and found not in action.choices:
        raise ArgumentError(
            f"In the configuration, {action.dest} must be one of {', '.join(choices)}; found {value!r}."
            + did_you_mean(value, choices)
        )
    return found


def config_path(argv: Sequence[str]) -> str | None:
    """The file of `--config`, if it is given."""
    path = None
    for position, argument in enumerate(argv):
        if argument == "--config" and position + 1 < len(argv):
            path = argv[position + 1]
        elif argument.startswith("--config="):
            path = argument.partition("=")[2]
    return None if path is None else str(at_home("config", path))


def _read_config(argv: list[str], known: set[str]) -> dict[str, Any]:
    path = config_path(argv)
    if path is None:
        return {}
    import yaml

    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ArgumentError(f"The configuration {path} cannot be read as YAML: {error}.") from error
    if not isinstance(config, dict):
        raise ArgumentError(f"The configuration {path} must hold `flag: value` lines, found {type(config).__name__}.")
    unknown = sorted(set(map(str, config)) - known)
    if unknown:
        guesses = "".join(did_you_mean(name, known) for name in unknown)
        raise ArgumentError(f"The configuration {path} has unknown flags: {', '.join(unknown)}.{guesses}")
    return {name: at_home(name, value) for name, value in config.items()}
