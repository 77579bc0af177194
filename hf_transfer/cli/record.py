"""The record of a finished run, read from the live objects and not from what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_transfer.data import ImageData, Preprocessing
from hf_transfer.evaluation import EvaluationReport
from hf_transfer.models import BaseModel
from hf_transfer.privacy import sanitise_command
from hf_transfer.probe_trainer import LinearProbeTrainer
from hf_transfer.run_record import RunRecord, collect_hardware, collect_versions
from hf_transfer.trainer import TransferTrainer


def make_record(
    trainer: TransferTrainer,
    data: ImageData,
    base: BaseModel,
    reports: Mapping[str, EvaluationReport],
    *,
    command: tuple[str, ...],
    split_seed: int,
    augmentation: str,
    train_seconds: float | None,
    evaluation_seconds: float,
) -> RunRecord:
    """Collect everything that `run.json` holds.

    Args:
        trainer: After training.
        data: The images.
        base: Where the weights came from.
        reports: One for each evaluated split.
        command: As typed.
        split_seed: Of the evaluation split.
        augmentation: Of the training images.
        train_seconds: Of the training alone; None for a resumed run, of which only the last part was timed.
        evaluation_seconds: Of all evaluations after it.
    """
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
        training=training_facts(trainer),
        timing={"evaluation_seconds": round(evaluation_seconds, 2)}
        | (
            {"train_seconds": round(train_seconds, 2), "images_per_second": round(images / train_seconds, 2)}
            if train_seconds is not None
            else {}
        ),
        evaluation={split: report.to_dict() for split, report in reports.items()},
        log_history=trainer.state.log_history,
    )


def training_facts(trainer: TransferTrainer) -> dict[str, Any]:
    """What was trained and how, from the resolved plan and the live optimizer."""
    args = trainer.args
    if isinstance(trainer, LinearProbeTrainer) and trainer.solution is not None:
        facts = trainer.solver_facts()
        return {
            "plan": trainer.plan_facts(),
            "optimizer": {"class": facts.pop("optimizer")},
            "solved_head": facts,
            "steps": 0,
            "epochs": 1.0,
            "final_loss": facts["train_loss"],
        }
    optimizer: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    logs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    best = trainer.state.best_global_step if args.load_best_model_at_end else None
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    return {
        "plan": trainer.resolved_plan.to_dict() if trainer.resolved_plan is not None else None,
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
    }
