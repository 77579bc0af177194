"""What `train` refuses before it loads a model or reads an image."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from hf_transfer.architectures.lookup import wrap
from hf_transfer.checkpoints.folders import last_complete, recover
from hf_transfer.cli.flags import NO_TOKEN, ModelOptions, TrainDataOptions
from hf_transfer.cli.paths import check_apart
from hf_transfer.errors import ArgumentError, DependencyError
from hf_transfer.evaluation import make_compute_metrics
from hf_transfer.evaluation.scores import SCALARS
from hf_transfer.features import LAST
from hf_transfer.features.cache_folder import default_cache_folder
from hf_transfer.linear_probe.solving import ALL
from hf_transfer.models.loading import LoadedModel
from hf_transfer.models.truncation import truncate
from hf_transfer.trainer.args import TransferArguments, measures_rate
from hf_transfer.trainer.fields import AUTO
from hf_transfer.trainer.probe_trainer import solves
from hf_transfer.utils.suggestions import did_you_mean

_TIMES = ("runtime", "samples_per_second", "steps_per_second")


def check_values(args: TransferArguments, image_size: int | None) -> None:
    """Refuse numbers on which Trainer would fail later, and a token.

    Raises:
        ArgumentError: A value is refused.
    """
    positive = {
        "learning_rate": 1.0 if measures_rate(args) else args.learning_rate,
        "num_train_epochs": args.num_train_epochs,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "per_device_eval_batch_size": args.per_device_eval_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "image_size": 1 if image_size is None else image_size,
    }
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ArgumentError(f"{name} must be above 0, found {value}.")
    check_seed(args.seed)
    for name, most in (("dataloader_num_workers", 2**16), ("label_smoothing_factor", 1), ("weight_decay", math.inf)):
        if not 0 <= vars(args)[name] <= most:
            raise ArgumentError(f"{name} must be from 0 to {most}, found {vars(args)[name]}.")
    for word in (args.optim_args or "").replace(" ", "").split(","):
        if word and not (word.count("=") == 1 and all(word.split("="))):
            raise ArgumentError(f"optim_args must be NAME=VALUE,NAME=VALUE, found {args.optim_args!r}.")
    file = vars(args).get("fsdp_config")
    if isinstance(file, str) and not Path(file).is_file():
        raise ArgumentError(f"There is no file {file} for --fsdp_config.")
    if args.hub_token is not None:
        raise ArgumentError(NO_TOKEN)


def check_seed(seed: int) -> None:
    """Refuse a seed that some random generator does not take.

    Raises:
        ArgumentError: It is refused.
    """
    if not 0 <= seed < 2**32:
        raise ArgumentError(f"seed must be from 0 to {2**32 - 1}, found {seed}.")


def check_trackers(args: TransferArguments) -> None:
    """Refuse a tracker of `--report_to` that is unknown or not installed.

    Raises:
        ArgumentError: There is no such tracker.
        DependencyError: Its package is missing.
    """
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    there = get_available_reporting_integrations()
    for name in [args.report_to] if isinstance(args.report_to, str) else args.report_to or []:
        if name in there or name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = sorted(INTEGRATION_TO_CALLBACK)
            raise ArgumentError(
                f"There is no tracker {name!r} for --report_to. There are: none, {', '.join(known)}."
                + did_you_mean(name, known)
            )
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except Exception as error:
            raise DependencyError(
                f"The tracker {name} of --report_to is not installed: pip install {name}, or leave --report_to out."
            ) from error


def check_metrics(args: TransferArguments, metrics: list[str] | None) -> None:
    """Refuse metrics that cannot be loaded, and a best metric that nobody computes.

    Raises:
        ArgumentError: There is no such metric.
    """
    if metrics:
        make_compute_metrics(("first", "second"), tuple(metrics))
    best = (args.metric_for_best_model or "loss").removeprefix("eval_")
    known = [*SCALARS, "loss", *_TIMES]
    if best not in known and not metrics:
        raise ArgumentError(
            f"There is no metric {best!r} for --metric_for_best_model. There are: {', '.join(known)}, and what "
            f"--metrics adds.{did_you_mean(best, known)}"
        )


def check_places(
    model: ModelOptions, data: TrainDataOptions, args: TransferArguments, config: str | None, resume: bool
) -> None:
    """Refuse an output folder or a feature cache that would spoil what the run reads.

    Raises:
        OutputError: They lie in each other.
    """
    cache = str(default_cache_folder()) if args.cache_features != "off" else None
    read: dict[str, str | None] = {
        "model": model.model_name_or_path,
        "data set": data.dataset,
        "plan": args.plan,
        "configuration": config,
    }
    for name in ("deepspeed", "fsdp_config"):
        value: Any = vars(args).get(name)
        read[name] = value if isinstance(value, str) else None
    check_apart(str(args.output_dir), read | {"feature cache": cache}, resume)
    if cache is not None:
        check_apart(cache, {"data set": data.dataset}, name="feature cache", instead="HF_TRANSFER_CACHE")


def checkpoint(value: str | None, folder: Path) -> str | bool | None:
    """The checkpoint to resume from; True is the last one in the output folder.

    Raises:
        ArgumentError: There is none.
    """
    resume = {"true": True, "false": None, "no": None, "": None}.get((value or "").lower(), value)
    if resume is True and last_complete(folder) is None:
        raise ArgumentError(
            f"There is no complete checkpoint in {folder} to resume from. Leave --resume_from_checkpoint out."
        )
    if isinstance(resume, str):
        recover(Path(resume).parent)
    if isinstance(resume, str) and not Path(resume).is_dir():
        raise ArgumentError(f"There is no checkpoint folder {resume}. Give one, or `true` for the last in the output.")
    return resume


def is_resumed(value: str | bool | None, folder: Path) -> bool:
    """Whether the checkpoint lies in the output folder, whose run goes on then."""
    if not isinstance(value, str):
        return bool(value)
    return Path(value).resolve().is_relative_to(folder.resolve())


def settle_layer(args: TransferArguments, model: nn.Module) -> None:
    """Write the layer as the group of the model is named; a module's path, or the end of one, is taken as well.

    Raises:
        ArgumentError: No group, or more than one, is meant.
    """
    if args.layer in (None, LAST, ALL, AUTO):
        return
    layer, groups = str(args.layer), wrap(model).layer_groups
    names = [group.name for group in groups]
    if layer in names:
        return
    meant = [g.name for g in groups if any(_same_end(layer, each) for each in (g.name, *g.module_names))]
    if len(meant) != 1:
        raise ArgumentError(
            f"There is no layer {layer!r}. There are: {LAST}, {AUTO}, {ALL}, {', '.join(names)}."
            + did_you_mean(layer, [LAST, AUTO, ALL, *names, *(each.partition(".")[2] or each for each in names)])
        )
    args.layer = meant[0]


def ended_after(loaded: LoadedModel, args: TransferArguments) -> LoadedModel:
    """The model that ends after the layer asked for, where layers are trained; a solved head looks after itself.

    Raises:
        TruncationError: No ordinary checkpoint can end there.
    """
    if solves(args) or args.layer in (None, LAST):
        return loaded
    return replace(loaded, model=truncate(loaded.model, str(args.layer), seed=args.seed))


def _same_end(one: str, other: str) -> bool:
    """Whether two paths of modules are the same but for what leads to them."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")
