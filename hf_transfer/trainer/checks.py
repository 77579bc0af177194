"""Checks of arguments, plan and model before a training starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from accelerate.utils import DistributedType
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import has_length

from hf_transfer.errors import ArgumentError, PlanError
from hf_transfer.plans.plan import TransferPlan

logger = logging.getLogger(__name__)
_REENTRANT = (
    "Reentrant activation checkpointing gives no gradient to layers behind a frozen part. Set use_reentrant to false "
    "in activation_checkpointing_kwargs."
)


def check_processes(plan: TransferPlan, args: TrainingArguments) -> None:
    """Check that a plan can be trained on the processes and devices of the run.

    Raises:
        PlanError: `nn.DataParallel` would be used, activation checkpointing is of the reentrant kind, FSDP1 flattens
            parameters, or DeepSpeed would have to follow several phases.
    """
    if args.activation_checkpointing and (args.activation_checkpointing_kwargs or {}).get("use_reentrant"):
        raise PlanError(_REENTRANT)
    if args.n_gpu > 1:
        raise PlanError(
            "A plan cannot be trained with nn.DataParallel, which Trainer uses for several devices in one process. "
            "Start it with `accelerate launch`, or show one device only (CUDA_VISIBLE_DEVICES=0)."
        )
    deepspeed = args.deepspeed or _is_set("ACCELERATE_USE_DEEPSPEED")
    if deepspeed and len(plan.phases) > 1:
        raise PlanError(
            f"DeepSpeed divides the trained parameters once, before the first step, and would never step those that a "
            f"later phase unfreezes; this plan has the phases {', '.join(phase.name for phase in plan.phases)}. Use a "
            "recipe of one phase such as last_blocks, or FSDP or DDP instead of DeepSpeed."
        )
    plugin = (getattr(args, "fsdp_plugin_args", None) or {}) if args.fsdp else {}
    if plugin.get("fsdp_version", 2) == 1 and plugin.get("use_orig_params", True) is False:
        raise PlanError(
            "FSDP1 without use_orig_params flattens parameters and needs all of them trained, or none. Set "
            "use_orig_params to true, or take FSDP2 (fsdp_version 2)."
        )


def without_averaging(plan: TransferPlan) -> TransferPlan:
    """A plan for a model that is divided over processes: its phases leave the weights of their last step."""
    averaged = [phase.name for phase in plan.phases if phase.average_from is not None]
    if not averaged:
        return plan
    logger.warning(
        "The mean of the weights is not taken of a model that is divided over processes: %s leave those of the last "
        "step. Under DDP it would be.",
        ", ".join(averaged),
    )
    return replace(plan, phases=tuple(replace(phase, average_from=None) for phase in plan.phases))


def checked_held_out(trainer: Any) -> Any:
    """What a trainer holds out; None, with a word, for a model that is divided over processes.

    Raises:
        PlanError: Something else chooses the weights as well, or there is no plan.
    """
    if trainer.held_out is None:
        return None
    if trainer.plan is None or trainer.args.load_best_model_at_end:
        raise PlanError(
            "Held-out images choose the weights of a training with a plan. Give a plan, and leave "
            "load_best_model_at_end out, which would choose them by the evaluation data."
        )
    if trainer.is_sharded:
        logger.warning("No weights are chosen on held-out images: the model is divided over processes.")
        return None
    return trainer.held_out


def check_model(model: nn.Module) -> None:
    """Check that gradients reach what is trained behind a frozen part.

    Raises:
        PlanError: The model checkpoints its activations in the reentrant way.
    """
    for module in model.modules():
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        is_on = getattr(module, "gradient_checkpointing", False)
        if is_on and getattr(checkpoint, "keywords", {}).get("use_reentrant"):
            raise PlanError(_REENTRANT)


def check_lengths(plan: TransferPlan, args: TrainingArguments) -> None:
    """Check that each phase has a length.

    Raises:
        ArgumentError: Phases without a length of their own would have none.
    """
    open_ended = [p.name for p in plan.phases if p.epochs is None and not p.max_steps and p.head_solver is None]
    if args.num_train_epochs <= 0 and args.max_steps <= 0 and open_ended:
        raise ArgumentError(
            f"num_train_epochs must be above 0, found {args.num_train_epochs}: the phases {', '.join(open_ended)} "
            "have no other length."
        )


def check_steps(args: TrainingArguments, dataloader: Any, values: Sequence[Any]) -> None:
    """Check that there is a step to train.

    Args:
        args: Of the training.
        dataloader: Of the training data.
        values: What Trainer counted: the number of images third, the number of steps last.

    Raises:
        ArgumentError: There is none.
    """
    batches = len(dataloader) if has_length(dataloader) else None
    if batches != 0 and values[-1] != 0:
        return
    dropped = ", of which an incomplete one is dropped (dataloader_drop_last)" if args.dataloader_drop_last else ""
    raise ArgumentError(
        f"There is no step to train: {values[2]:,} training images in batches of "
        f"{args.train_batch_size * args.world_size}{dropped}, for {args.num_train_epochs:g} epochs. Give more images, "
        "smaller batches or more epochs."
    )


def warn_of_missing_fsdp(accelerator: Any, args: TrainingArguments) -> None:
    """Say that FSDP was asked for and is not used; where there is no GPU accelerate takes DDP without a word."""
    kind = DistributedType(accelerator.distributed_type).value
    if (_is_set("ACCELERATE_USE_FSDP") or args.fsdp) and kind != "FSDP":
        logger.warning(
            "FSDP was asked for, but accelerate runs %s: it knows no FSDP without a GPU or the like. Each process "
            "holds the whole model and optimizer.",
            kind,
        )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "y", "on")
