"""Parse the flags of a command, and the YAML file that can hold them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_transfer.cli.plain_parser import PlainParser
from hf_transfer.errors import ArgumentError, TransferError
from hf_transfer.trainer.fields import TransferFields


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
        ArgumentError: The file is missing, is not YAML or has unknown keys.
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
    config = _read_config(list(argv), known)
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
    except ValueError as error:  # transformers' own checks of TrainingArguments
        raise ArgumentError(str(error)) from error
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}")
    given = set(config) | {a[2:].split("=")[0].replace("-", "_") for a in argv if a.startswith("--")}
    return (*parsed, frozenset(given & known))


def _parser(types: Sequence[type], **settings: Any) -> Any:
    """The parser of transformers for its training arguments; otherwise a plain one that imports nothing."""
    if not any(issubclass(each, TransferFields) for each in types):
        return PlainParser(types, **settings)
    from transformers import HfArgumentParser

    return HfArgumentParser(list(types), **settings)


def _check_config(config: dict[str, Any], parser: argparse.ArgumentParser) -> None:
    """Check the choices, which argparse checks for flags but not for defaults, and make a list of a single word."""
    for action in parser._actions:
        if action.dest not in config:
            continue
        value = config[action.dest]
        if action.choices is not None and value not in action.choices:
            choices = ", ".join(map(str, action.choices))
            raise ArgumentError(f"In the configuration, {action.dest} must be one of {choices}; found {value!r}.")
        if action.nargs == "+" and isinstance(value, str):
            config[action.dest] = [value]
        if isinstance(value, list) and action.nargs != "+":
            raise ArgumentError(f"In the configuration, {action.dest} must be one value; found a list.")


def _read_config(argv: list[str], known: set[str]) -> dict[str, Any]:
    path = None
    for position, argument in enumerate(argv):
        if argument == "--config" and position + 1 < len(argv):
            path = argv[position + 1]
        elif argument.startswith("--config="):
            path = argument.partition("=")[2]
    if path is None:
        return {}
    import yaml

    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ArgumentError(f"The configuration {path} cannot be read as YAML: {error}.") from error
    if not isinstance(config, dict):
        raise ArgumentError(f"The configuration {path} must hold `flag: value` lines, found {type(config).__name__}.")
    unknown = sorted(set(map(str, config)) - known)
    if unknown:
        raise ArgumentError(f"The configuration {path} has unknown flags: {', '.join(unknown)}.")
    return config
