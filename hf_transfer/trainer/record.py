"""What was trained and how, read from the live trainer; and the record of a run about which little else is known."""

from __future__ import annotations

from typing import Any

from hf_transfer.data import Preprocessing
from hf_transfer.models.loading import label_names_of
from hf_transfer.models.origins import base_model_of
from hf_transfer.phases.resolved import NO_WARMUP
from hf_transfer.reporting.record import RunRecord
from hf_transfer.utils.environment import collect_hardware, collect_versions


def training_facts(trainer: Any) -> dict[str, Any]:
    """What was trained and how, from the resolved plan and the live optimizer."""
    if getattr(trainer, "solution", None) is not None:
        return _facts_of_solved_head(trainer)
    args, plan = trainer.args, getattr(trainer, "resolved_plan", None)
    plan = None if plan is None else plan.ended_at(trainer.state.global_step)
    optimizer: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    logs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    best = trainer.state.best_global_step if args.load_best_model_at_end else None
    tests = [test.to_dict() for test in getattr(trainer, "range_tests", ())]
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    return (
        {
            "plan": plan.to_dict() if plan is not None else None,
            "optimizer": {
                "class": type(optimizer).__name__,
                "defaults": {k: v for k, v in optimizer.defaults.items() if k not in ("lr", "weight_decay", "params")},
            },
            "batch_size_per_device": args.per_device_train_batch_size,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "effective_batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "precision": precision,
            "max_grad_norm": args.max_grad_norm,
            "label_smoothing": args.label_smoothing_factor,
            "steps": trainer.state.global_step,
            "epochs": round(trainer.state.epoch or 0.0, 4),
            "best_checkpoint_step": best,
            "final_loss": logs[-1] if logs else None,
            "parameters": sum(
                plan.parameter_counts.values() if plan else (p.numel() for p in trainer.model.parameters())
            ),
        }
        | ({} if plan else _rates(trainer, optimizer))
        | _schedule_options(trainer)
        | _sharding(trainer)
        | _computed_once(trainer)
        | ({"learning_rate_range": tests} if tests else {})
    )


def _rates(trainer: Any, optimizer: Any) -> dict[str, Any]:
    """Of a run without a plan: rates and decay of the optimizer's groups before the schedule, and the schedule.

    Only schedulers note the rates that they begin with; without one the rate is that of all steps.
    """
    groups = [
        {
            "initial_lr": group.get("initial_lr"),
            "weight_decay": group.get("weight_decay"),
            "parameters": sum(parameter.numel() for parameter in group["params"]),
        }
        for group in optimizer.param_groups
    ]
    facts: dict[str, Any] = {"optimizer_groups": groups}
    scheduler = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)
    if trainer._created_lr_scheduler:
        args = trainer.args
        kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
        warmup = 0 if kind in NO_WARMUP else args.get_warmup_steps(trainer.state.max_steps)
        return facts | {"lr_scheduler_type": kind, "warmup_steps": warmup}
    return facts | {"lr_scheduler_type": type(scheduler).__name__}  # it was given, and says no more


def _schedule_options(trainer: Any) -> dict[str, Any]:
    """What the arguments say of the schedule beside its name, such as a least rate; nothing of one that was given."""
    options = trainer.args.lr_scheduler_kwargs
    made = getattr(trainer, "resolved_plan", None) is not None or trainer._created_lr_scheduler
    return {"lr_scheduler_kwargs": dict(options)} if options and made else {}


def _sharding(trainer: Any) -> dict[str, Any]:
    """By what the model was divided over the processes, if it was."""
    ways = {
        "FSDP": trainer.is_fsdp_enabled,
        "DeepSpeed": trainer.is_deepspeed_enabled,
        "FSDP of transformers": trainer.is_distributed_loading_by_transformers,
    }
    return {"sharded_by": next(name for name, used in ways.items() if used)} if any(ways.values()) else {}


def _computed_once(trainer: Any) -> dict[str, Any]:
    """How the head was solved, and which phases read their frozen part from the feature cache, where that was so."""
    solved = getattr(trainer, "solved_phase", None)
    decisions = [decision.to_dict() for decision in getattr(trainer, "cache_decisions", ())]
    return ({"solved_phase": solved} if solved else {}) | ({"cache_decisions": decisions} if decisions else {})


def _facts_of_solved_head(trainer: Any) -> dict[str, Any]:
    """Of a `LinearProbeTrainer`: a head that was solved has no learning rate, and no steps."""
    facts = trainer.solver_facts()
    return {
        "plan": trainer.plan_facts(),
        "optimizer": {"class": facts.pop("optimizer")},
        "solved_head": facts,
        "steps": 0,
        "epochs": 1.0,
        "final_loss": facts["train_loss"],
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
    }


def bare_record(trainer: Any) -> RunRecord:
    """The record of a run whose images the trainer alone has seen: no counts, no name of the data, no evaluation.

    Args:
        trainer: After training, with a model of transformers.
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
        data={"name": "", "evaluation_split": "", "label_names": list(label_names_of(trainer.model)), "counts": {}},
        preprocessing=preprocessing,
        training=training_facts(trainer),
        timing={},
        evaluation={},
        log_history=trainer.state.log_history,
    )
