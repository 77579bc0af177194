"""The help of a command: its flags in groups with their defaults, without importing what the command needs.

The flags of ours come from `flags` and `TransferFields`, which the parsers read as well. `--help_all` of `train` alone
imports transformers, for all other flags of its `TrainingArguments`.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from typing import Any

from hf_transfer.cli import flags
from hf_transfer.trainer.fields import TransferFields

_COLUMN = 30
_WIDEST = 110


@dataclass(frozen=True)
class Flag:
    """One flag as help shows it.

    Attributes:
        name: The name, without the two dashes.
        help: One sentence or two; says the default where `default` is None and the flag has a value.
        default: The default.
        value: What stands for the value, such as "N"; empty for a switch.
        required: Whether the command needs it.
    """

    name: str
    help: str
    default: Any = None
    value: str = "TEXT"
    required: bool = False


def _trainer(name: str, text: str, default: Any, value: str = "N") -> Flag:
    return Flag(name, text, flags.TRAIN_DEFAULTS.get(name, default), value)


TRAINER_FLAGS: Mapping[str, Flag] = {
    flag.name: flag
    for flag in (
        Flag("output_dir", "Folder for model, card, figures, record and checkpoints.", required=True),
        _trainer("num_train_epochs", "Epochs of each phase whose length the recipe leaves open.", 3.0, "X"),
        _trainer("max_steps", "Optimizer steps of a plan of one phase, instead of epochs; -1 takes epochs.", -1),
        _trainer("per_device_train_batch_size", "Images per training step and process.", 8),
        _trainer("per_device_eval_batch_size", "Images per evaluation step and process.", 8),
        _trainer("gradient_accumulation_steps", "Batches per optimizer step.", 1),
        _trainer("weight_decay", "Weight decay, except for biases and norms.", 0.0, "X"),
        _trainer("lr_scheduler_type", "Learning-rate schedule, such as linear, cosine or constant.", "linear", "NAME"),
        _trainer("warmup_steps", "Warm-up steps; below 1, a fraction of the phase.", 0.0, "X"),
        _trainer("label_smoothing_factor", "Label smoothing, 0 to 1.", 0.0, "X"),
        _trainer("max_grad_norm", "Norm to which gradients are clipped.", 1.0, "X"),
        _trainer("optim", "Optimizer, such as adamw_torch or sgd.", "adamw_torch_fused", "NAME"),
        _trainer("seed", "Seed for all random draws.", 42),
        _trainer("bf16", "Train in bfloat16.", False, ""),
        _trainer("fp16", "Train in float16, with loss scaling.", False, ""),
        _trainer("torch_compile", "Compile the model.", False, ""),
        _trainer("dataloader_num_workers", "Processes that load images; 0 loads in the training process.", 0),
        _trainer(
            "resume_from_checkpoint",
            "Checkpoint folder, or true for the last one. Default: do not resume.",
            None,
            "PATH",
        ),
        _trainer("eval_strategy", "When to evaluate: no, steps or epoch.", "no", "WHEN"),
        _trainer("eval_steps", "Steps between evaluations; below 1, a fraction. Default: logging_steps.", None, "X"),
        _trainer("save_strategy", "When to save a checkpoint: no, steps, epoch or best.", "steps", "WHEN"),
        _trainer("save_steps", "Steps between checkpoints; below 1, a fraction of all steps.", 500, "X"),
        _trainer("save_total_limit", "Number of checkpoints to keep.", None),
        _trainer("load_best_model_at_end", "Load the checkpoint of the best evaluation at the end.", False, ""),
        _trainer("metric_for_best_model", "Metric of the best evaluation. Default: loss.", None, "NAME"),
        _trainer("logging_strategy", "When to log: no, steps or epoch.", "steps", "WHEN"),
        _trainer("logging_steps", "Steps between log lines; below 1, a fraction of all steps.", 500, "X"),
        _trainer("report_to", "Trackers, such as tensorboard or wandb.", "none", "NAME"),
        _trainer("push_to_hub", "Publish the result on the Hub and verify it.", False, ""),
        _trainer("hub_model_id", "Repository, owner/name. Default: the name of the output folder.", None, "ID"),
        _trainer("hub_private_repo", "Create a private repository. Default: true.", None, "true|false"),
        _trainer("hub_strategy", "When to push: end, every_save, checkpoint, all_checkpoints.", "every_save", "WHEN"),
    )
}
"""Flags of transformers' `TrainingArguments` that `train --help` shows; `--help_all` shows all of them."""

_RECIPE = (
    *("recipe", "recipe_options", "plan", "learning_rate", "norm", "solver", "layer"),
    *("class_weights", "allow_probe_file"),
)
_OUTPUT = (
    *("output_dir", "eval_strategy", "eval_steps", "save_strategy", "save_steps", "save_total_limit"),
    *("load_best_model_at_end", "metric_for_best_model", "logging_strategy", "logging_steps", "report_to"),
)
_PUBLISHING = ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy")
_GENERAL = (
    Flag("config", "YAML file with flags; flags on the command line override it. Default: none.", value="FILE"),
    Flag("debug", "Show the traceback of an error.", value=""),
)


def show(command: str, everything: bool = False) -> str:
    """The help text of a command.

    Args:
        command: A name of `cli.COMMANDS`.
        everything: Also list the flags of transformers' `TrainingArguments` that are rarely needed.
    """
    usage, groups = _COMMANDS[command]
    width = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST)
    lines = [f"usage: hf-transfer {command} {usage}", "", *textwrap.wrap(flags.DESCRIPTIONS[command], width)]
    if command == "train" and everything:
        groups = {**groups, "other flags of transformers' TrainingArguments": _others()}
    for title, group in groups.items():
        lines += ["", f"{title}:", *(line for flag in group for line in _lines(flag, width))]
    if command == "train" and not everything:
        lines += ["", "--help_all also lists the other flags of transformers' TrainingArguments."]
    return "\n".join(lines)


def listed(command: str) -> list[Flag]:
    """All flags in the help of a command, in order."""
    return [flag for group in _COMMANDS[command][1].values() for flag in group]


def _lines(flag: Flag, width: int) -> Iterator[str]:
    start = f"  --{flag.name}" + (f" {flag.value}" if flag.value else "")
    text = flag.help.replace("%%", "%")
    if flag.required:
        text += " Required."
    elif flag.default not in (None, "") and flag.value and "Default:" not in text:
        text += f"{'' if text.endswith('.') else '.'} Default: {_shown(flag.default)}."
    wrapped = textwrap.wrap(text, max(width - _COLUMN, 30), break_on_hyphens=False)
    if len(start) >= _COLUMN - 1:
        yield start
        start = ""
    for line in wrapped:
        yield f"{start:<{_COLUMN}}{line}"
        start = ""


def _shown(default: Any) -> str:
    """A default as it is written on the command line."""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _of(group: type, names: Iterable[str] | None = None) -> list[Flag]:
    """The flags of a dataclass, or those with some names, in their order."""
    found = {each.name: _flag(each) for each in fields(group)}
    return list(found.values()) if names is None else [found[name] for name in names]


def _flag(each: Field[Any]) -> Flag:
    choices = each.metadata.get("choices")
    # An annotation as text, unless HfArgumentParser has evaluated it.
    kind = each.type if isinstance(each.type, str) else getattr(each.type, "__name__", str(each.type))
    value = "{" + ",".join(map(str, choices)) + "}" if choices else _value(kind, each.default)
    required = each.default is MISSING and each.default_factory is MISSING
    default = (
        None if each.default is MISSING else getattr(each.default, "value", each.default)
    )  # a field may be an enum
    return Flag(each.name, each.metadata["help"], default, value, required)


def _value(kind: str, default: Any) -> str:
    """What stands for the value of a flag; nothing for a switch, which is off by default."""
    if kind == "bool":
        return "true|false" if default else ""
    names = {"int": "N", "float": "X", "RateOrAuto": "X|auto", "dict": "JSON", "list": "TEXT ..."}
    names |= {"bool": "true|false"}
    return next((shown for name, shown in names.items() if kind.startswith(name)), "TEXT")


def _trainers(names: Iterable[str]) -> list[Flag]:
    return [TRAINER_FLAGS[name] for name in names]


def _recipe() -> list[Flag]:
    """The flags of a recipe, with what `train` takes where none is given."""
    stated = {"recipe": flags.DEFAULT_RECIPE, "learning_rate": "that of the recipe"}
    return [replace(flag, default=stated.get(flag.name, flag.default)) for flag in _of(TransferFields, _RECIPE)]


def _others() -> list[Flag]:
    """The flags of `TrainingArguments` that are in no other group."""
    from transformers import TrainingArguments

    known = {*TRAINER_FLAGS, *(each.name for each in fields(TransferFields)), *flags.REFUSED}
    found = [_flag(each) for each in fields(TrainingArguments) if each.init and each.name not in known]
    stated = {**flags.TRAIN_DEFAULTS, **flags.MACHINE_DEFAULTS}
    return [replace(flag, default=stated.get(flag.name, flag.default)) for flag in found]


def _training() -> list[Flag]:
    shown = {*_OUTPUT, *_PUBLISHING}
    own = [flag for flag in _of(TransferFields) if flag.name not in _RECIPE]
    return [flag for flag in TRAINER_FLAGS.values() if flag.name not in shown] + own


_COMMANDS: Mapping[str, tuple[str, Mapping[str, list[Flag]]]] = {
    "train": (
        "--model_name_or_path MODEL --dataset DATA --output_dir FOLDER [--flags] [--config FILE]",
        {
            "model": _of(flags.ModelOptions),
            "data": _of(flags.TrainDataOptions),
            "recipe": _recipe() + _of(flags.DiagnosisOptions),
            "training": _training(),
            "output": _trainers(_OUTPUT) + _of(flags.OutputOptions),
            "publishing": _trainers(_PUBLISHING),
            "general": list(_GENERAL),
        },
    ),
    "diagnose": (
        "--model_name_or_path MODEL --dataset DATA [--flags] [--config FILE]",
        {
            "model": _of(flags.ModelOptions),
            "data": _of(flags.DataOptions),
            "diagnosis": _of(flags.DiagnosisOptions) + _of(flags.DiagnoseOptions),
            "general": list(_GENERAL),
        },
    ),
    "inspect": ("MODEL [--flags]", {"flags": _of(flags.InspectOptions), "general": list(_GENERAL)}),
    "evaluate": (
        "MODEL --dataset DATA [--flags]",
        {"evaluation": _of(flags.EvaluateOptions), "data": _of(flags.DataOptions), "general": list(_GENERAL)},
    ),
    "publish": ("FOLDER REPO_ID [--flags]", {"flags": _of(flags.PublishOptions), "general": list(_GENERAL)}),
    "demo": ("[--flags]", {"flags": _of(flags.DemoOptions), "general": list(_GENERAL)}),
    "doctor": ("[--json]", {"flags": [Flag("json", "Print the report as JSON.", value="")], "general": [_GENERAL[1]]}),
}
