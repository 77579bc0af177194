"""Flags of the commands, and the YAML file that can hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from hf_transfer.errors import ArgumentError, TransferError


@dataclass
class ModelOptions:
    """Which model."""

    model_name_or_path: str = field(
        metadata={
            "help": "Hub id or local folder of a transformers or timm classifier; or an architecture with random "
            "weights, such as timm:resnet18 or transformers:vit."
        }
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the model's Hub repository."}
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Side of the model's input in pixels; position embeddings are interpolated. Default: what its "
            "processor says."
        },
    )
    num_channels: int | None = field(
        default=None,
        metadata={
            "help": "Channels of the images: 1 (grey), 3 (RGB) or 4 (RGBA); the first convolution is made from the "
            "pretrained one. Default: the model's.",
            "choices": [1, 3, 4],
        },
    )
    reset_head: bool = field(
        default=False,
        metadata={"help": "Draw a new head even if the checkpoint's has the same number of labels."},
    )


@dataclass
class DataOptions:
    """Which images and labels."""

    dataset: str = field(
        metadata={
            "help": "Hub id, image folder (class/file.jpg, or train/class/...), CSV, JSON Lines or Parquet file with "
            "image and label columns, or a folder written by save_to_disk."
        }
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the data set's Hub repository."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Column with the images. Default: found."})
    label_column: str | None = field(default=None, metadata={"help": "Column with the labels. Default: found."})
    split_seed: int = field(
        default=42, metadata={"help": "Seed of the stratified split that is made when the data have none."}
    )
    skip_bad_images: bool = field(
        default=False,
        metadata={"help": "Go on even if more than 1 %% of the images of a split cannot be read; all are listed."},
    )
    metrics: list[str] | None = field(
        default=None,
        metadata={"help": "More metrics of the evaluate library, by id or local folder, beside ours."},
    )


@dataclass
class TrainDataOptions(DataOptions):
    """Which images and labels, and how they are augmented for training."""

    augmentation: str = field(
        default="light",
        metadata={
            "help": "none; light: flip and small shift; standard: random resized crop and flip.",
            "choices": ["none", "light", "standard"],
        },
    )


def parse(
    types: Sequence[type],
    argv: Sequence[str],
    command: str,
    description: str,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Parse flags into dataclasses; those of `--config FILE.yaml` come first and flags override them.

    Args:
        types: Dataclasses whose fields are the flags.
        argv: Arguments after the command's name.
        command: For the usage line.
        description: For the help text.
        defaults: Defaults of this command where they differ from the dataclasses'.

    Returns:
        One instance of each type, then the names of the flags that were given.

    Raises:
        ArgumentError: The file is missing, is not YAML or has unknown keys.
    """
    parser = HfArgumentParser(
        list(types),
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


def _check_config(config: dict[str, Any], parser: HfArgumentParser) -> None:
    """Check what argparse checks of flags but not of defaults: choices; and turn one word into a list of one."""
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
            raise ArgumentError(f"In the configuration, {action.dest} must be one value, found a list.")


def _read_config(argv: list[str], known: set[str]) -> dict[str, Any]:
    path = None
    for position, argument in enumerate(argv):
        if argument == "--config" and position + 1 < len(argv):
            path = argv[position + 1]
        elif argument.startswith("--config="):
            path = argument.partition("=")[2]
    if path is None:
        return {}
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
