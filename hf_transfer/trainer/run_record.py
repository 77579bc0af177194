"""The record of a finished run, read from the live objects and not from what was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from hf_transfer.data import ImageData, Preprocessing
from hf_transfer.diagnosis.result import Diagnosis
from hf_transfer.evaluation import EvaluationReport
from hf_transfer.evaluation.calibration import Calibration
from hf_transfer.models.origins import BaseModel
from hf_transfer.reporting.record import RunRecord
from hf_transfer.trainer.record import training_facts
from hf_transfer.trainer.trainer import TransferTrainer
from hf_transfer.utils.environment import collect_hardware, collect_versions
from hf_transfer.utils.privacy import sanitise_command


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
    calibration: Calibration | None = None,
    diagnosis: Diagnosis | None = None,
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
        calibration: Before and after a temperature.
        diagnosis: That chose the recipe.
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
        diagnosis=None if diagnosis is None else diagnosis.to_dict(),
        log_history=trainer.state.log_history,
    )
