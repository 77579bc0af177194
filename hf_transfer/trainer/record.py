"""The record of a run, read from the live trainer and not from what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from transformers import SchedulerType, Trainer

from hf_transfer.data import ImageData, Preprocessing
from hf_transfer.evaluation import EvaluationReport
from hf_transfer.evaluation.calibration import Calibration
from hf_transfer.features import LAST
from hf_transfer.models.loading import label_names_of
from hf_transfer.models.numerics import dropout_of, loss_of, precision_of
from hf_transfer.models.origins import BaseModel, base_model_of
from hf_transfer.phases.resolved import NO_WARMUP
from hf_transfer.reporting.record import RunRecord
from hf_transfer.trainer.loss import LogitsLoss
from hf_transfer.utils.environment import collect_hardware, collect_versions
from hf_transfer.utils.foreign import inner_optimizer
from hf_transfer.utils.privacy import sanitise_command


def training_facts(trainer: Trainer) -> dict[str, Any]:
    """What was trained and how: `training` of the record."""
    facts: dict[str, Any] = trainer.facts()
    return facts


def step_facts(trainer: Trainer) -> dict[str, Any]:
    """Facts about a training in optimizer steps, with a plan or without."""
    args = trainer.args
    optimizer: Any = inner_optimizer(trainer.optimizer)
    logs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    options = args.lr_scheduler_kwargs
    return (
        {
            "optimizer": {
                "class": type(optimizer).__name__,
                "defaults": {k: v for k, v in optimizer.defaults.items() if k not in ("lr", "weight_decay", "params")},
            },
            "batch_size_per_device": args.per_device_train_batch_size,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "effective_batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "loss": _loss(trainer),
            "precision": precision_of(trainer.model, "bf16" if args.bf16 else "fp16" if args.fp16 else None),
            "dropout": dropout_of(trainer.model),
            "max_grad_norm": args.max_grad_norm,
            "label_smoothing": args.label_smoothing_factor,
            "steps": trainer.state.global_step,
            "epochs": round(trainer.state.epoch or 0.0, 4),
            "best_checkpoint_step": trainer.state.best_global_step if args.load_best_model_at_end else None,
            "final_loss": logs[-1] if logs else None,
        }
        | ({"lr_scheduler_kwargs": dict(options)} if options and trainer.made_schedule else {})
        | _sharding(trainer)
    )


def _loss(trainer: Trainer) -> str:
    """The loss that was trained: the user's own, ours, or the model's."""
    own = next(each for each in type(trainer).__mro__ if "compute_loss" in vars(each))
    if not own.__module__.startswith(("hf_transfer.", "transformers.")):
        return f"{own.__name__}.compute_loss"
    given = trainer.compute_loss_func
    if given is not None and not isinstance(given, LogitsLoss):
        return getattr(given, "__name__", type(given).__name__)
    return loss_of(trainer.model) if given is None else "cross-entropy"


def facts_without_plan(trainer: Trainer) -> dict[str, Any]:
    """Facts about a run without a plan: the optimizer's groups before the schedule, and the schedule.

    Only schedulers note the rates that they begin with; without one the rate is that of all steps.
    """
    optimizer: Any = inner_optimizer(trainer.optimizer)
    groups = [
        {
            "initial_lr": group.get("initial_lr"),
            "weight_decay": group.get("weight_decay"),
            "parameters": sum(parameter.numel() for parameter in group["params"]),
        }
        for group in optimizer.param_groups
    ]
    facts: dict[str, Any] = {
        "plan": None,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "optimizer_groups": groups,
    }
    if trainer.made_schedule:
        args = trainer.args
        kind = SchedulerType(args.lr_scheduler_type).value
        warmup = 0 if kind in NO_WARMUP else args.get_warmup_steps(trainer.state.max_steps)
        return facts | {"lr_scheduler_type": kind, "warmup_steps": warmup}
    scheduler = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)
    return facts | {"lr_scheduler_type": type(scheduler).__name__}  # it was given, and says no more


def facts_of_plan(trainer: Trainer) -> dict[str, Any]:
    """Facts about a run with a plan: what was resolved, measured, solved and computed once."""
    assert trainer.resolved_plan is not None
    plan = trainer.resolved_plan.ended_at(trainer.state.global_step)
    found = {
        "solved_phase": trainer.solved_phase,
        "cache_decisions": [decision.to_dict() for decision in trainer.cache_decisions],
        "learning_rate_range": [test.to_dict() for test in trainer.range_tests],
        "held_out": _held_out(trainer),
        "ends_after": trainer.options.layer if trainer.options.layer != LAST else None,
    }
    return {"plan": plan.to_dict(), "parameters": sum(plan.parameter_counts.values())} | {
        name: value for name, value in found.items() if value
    }


def _held_out(trainer: Trainer) -> dict[str, Any] | None:
    """What was chosen on held-out images, where anything was."""
    keeper = None if trainer.run is None else trainer.run.keeper
    return None if keeper is None else keeper.facts()


def _sharding(trainer: Trainer) -> dict[str, Any]:
    """How the model was divided over the processes, if it was."""
    ways = {
        "FSDP": trainer.is_fsdp_enabled,
        "DeepSpeed": trainer.is_deepspeed_enabled,
        "FSDP of transformers": trainer.is_distributed_loading_by_transformers,
    }
    return {"sharded_by": next(name for name, used in ways.items() if used)} if any(ways.values()) else {}


def make_record(
    trainer: Trainer,
    data: ImageData,
    base: BaseModel,
    reports: Mapping[str, EvaluationReport],
    *,
    command: tuple[str, ...],
    split_seed: int,
    augmentation: str,
    train_seconds: float | None,
    evaluation_seconds: float,
    calibration: Calibration | None = None,
    diagnosis: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Collect everything that `run.json` holds.

    Args:
        trainer: The trainer, after training.
        data: The images.
        base: Where the weights came from.
        reports: One for each evaluated split.
        command: The command as typed.
        split_seed: Seed of the evaluation split.
        augmentation: Augmentation of the training images.
        train_seconds: Seconds of the training alone; None for a resumed run, whose last part alone was timed.
        evaluation_seconds: Seconds of all evaluations after it.
        calibration: Calibration before and after a temperature.
        diagnosis: The diagnosis that chose the recipe, as plain data.
    """
    views = max((d.views for d in trainer.cache_decisions if d.used), default=1)
    augmentation = (
        f"{augmentation}; {views} stored views of each image where the cache was used" if views > 1 else augmentation
    )
    images = (trainer.state.epoch or 0.0) * sum(data.counts["train"].values())
    return RunRecord(
        command=sanitise_command(list(command)),
        versions=collect_versions(),
        hardware=collect_hardware(trainer.args.world_size, trainer.args.device.type),
        seed=trainer.args.seed,
        split_seed=split_seed,
        base_model=base.to_dict(),
        data=data.to_dict(),
        preprocessing=Preprocessing.from_processor(trainer.processing_class).to_dict()
        | {"augmentation": augmentation},
        training=training_facts(trainer) | ({"calibration": calibration.to_dict()} if calibration else {}),
        timing={"evaluation_seconds": round(evaluation_seconds, 2)}
        | (
            {"train_seconds": round(train_seconds, 2), "images_per_second": round(images / train_seconds, 2)}
            if train_seconds is not None
            else {}
        ),
        evaluation={split: report.to_dict() for split, report in reports.items()},
        diagnosis=None if diagnosis is None else dict(diagnosis),
        log_history=trainer.state.log_history,
    )


def bare_record(
    trainer: Trainer, data_name: str = "", reports: Mapping[str, EvaluationReport] = MappingProxyType({})
) -> RunRecord:
    """The record of a run whose images the trainer alone has seen: no counts.

    Args:
        trainer: After training, with a model of transformers.
        data_name: What a script calls its data.
        reports: One for each split that the script evaluated.
    """
    try:
        preprocessing = Preprocessing.from_processor(trainer.processing_class).to_dict()
    except (AttributeError, TypeError, ValueError, KeyError):  # no image processor
        preprocessing = {}
    return RunRecord(
        command="",
        versions=collect_versions(),
        hardware=collect_hardware(trainer.args.world_size, trainer.args.device.type),
        seed=trainer.args.seed,
        split_seed=0,
        base_model=base_model_of(trainer.model).to_dict(),
        data={
            "name": data_name,
            "evaluation_split": next(iter(reports), ""),
            "label_names": list(label_names_of(trainer.model)),
            "counts": {},
        },
        preprocessing=preprocessing,
        training=training_facts(trainer),
        timing={},
        evaluation={split: report.to_dict() for split, report in reports.items()},
        log_history=trainer.state.log_history,
    )
