"""Trainings inside a checkout, by public names of hf_transfer alone: `python driver.py GROUP FOLDER [--from FOLDER]`.

Each training of the group writes to a folder of its own. With `--from` it goes on from the checkpoint of step
`MIDDLE` that a training of the same group wrote below that folder.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification, EarlyStoppingCallback, EvalPrediction

import hf_transfer as ht

MATERIAL = Path("material")
MIDDLE = 6
"""Step of the checkpoint that runs go on from: neither an epoch nor a phase ends there."""
_BATCH = 8


class Images(Dataset[dict[str, Any]]):
    """Noise whose mean tells the class; at random changed by each of the usual generators, where asked for.

    Args:
        count: Number of images.
        seed: Of the images.
        augmented: Draw another factor and shift each time that an image is read.
        ignored: Give every third label as -100, unevenly over the micro-batches.
    """

    def __init__(self, count: int, seed: int = 0, augmented: bool = False, ignored: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % 3
        self.pixels = torch.randn(count, 3, 32, 32, generator=generator) + self.labels.view(-1, 1, 1, 1)
        self.augmented = augmented
        if ignored:
            self.labels[torch.randperm(count, generator=generator)[: count // 3]] = -100

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = self.pixels[index]
        if self.augmented:
            pixels = pixels * (0.5 + random.random()) + torch.randn(3, 1, 1)
        return {"pixel_values": pixels, "labels": self.labels[index]}


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        plan: None trains as Trainer does.
        model: Folder of the network.
        augmented: See `Images`.
        ignored: See `Images`.
        patience: Of early stopping; None does without.
        solver: Solve the head by this, in `LinearProbeTrainer`; None trains by steps.
        changes: Arguments that differ from those in `arguments`.
    """

    plan: ht.TransferPlan | None = None
    model: str = "vit"
    augmented: bool = False
    ignored: bool = False
    patience: int | None = None
    solver: Any = None
    changes: dict[str, Any] = field(default_factory=dict)


_SGD = {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 1e-2}
_BEST = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
_THREE_PHASES = ht.TransferPlan(
    (
        ht.Phase("head", "head", max_steps=4, learning_rate=1e-2, weight_decay=0.0),
        ht.Phase("last block", "blocks:1", max_steps=4, layer_decay=0.8, lr_scheduler_type="linear"),
        ht.Phase("all", "all", epochs=1.2, layer_decay=0.8, head_lr_ratio=3.0, reset_optimizer=True),
    )
)
_AVERAGED = ht.TransferPlan(
    (
        ht.Phase("head", "head", max_steps=3),
        ht.Phase("all", "all", max_steps=9, layer_decay=0.7, head_lr_ratio=2.0, average_from=0.1),
    )
)
GROUPS: dict[str, dict[str, Training]] = {
    "plain": {
        "vit": Training(changes={"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}),
        "resnet": Training(
            model="resnet",
            ignored=True,
            changes=_SGD | {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4},
        ),
    },
    "lp_ft": {
        "solved": Training(ht.recipes.lp_ft(layer_decay=0.75)),
        "steps": Training(ht.recipes.lp_ft(probe_epochs=1, epochs=1.5, average_from=0.3)),
        "resnet": Training(ht.recipes.lp_ft(probe_epochs=1, train="blocks:2"), "resnet"),
    },
    "gradual_unfreeze": {
        "vit": Training(ht.recipes.gradual_unfreeze(steps=2, layer_decay=0.75), augmented=True),
        "resnet": Training(
            ht.recipes.gradual_unfreeze(steps=2, layer_decay=0.9, head_lr_ratio=5.0, norm="train"),
            "resnet",
            augmented=True,
            changes=_SGD | {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
        ),
    },
    "linear_probe": {name: Training(solver=name) for name in ("logistic", "svm", "ridge", "sgd")},
    "resume": {
        "phases": Training(_THREE_PHASES, augmented=True),
        "averaged": Training(_AVERAGED, changes={"learning_rate": "auto"} | _BEST, patience=9),
        "solved": Training(ht.recipes.lp_ft(epochs=2)),
        "cached": Training(ht.recipes.last_blocks(1), "resnet", changes={"cache_features": "on"}),
        "plain": Training(changes={"max_steps": 12}),
    },
    "two_ranks": {
        "phases": Training(_THREE_PHASES, augmented=True),
        "resnet": Training(
            ht.recipes.gradual_unfreeze(steps=1, layer_decay=0.9, norm="train"),
            "resnet",
            ignored=True,
            changes={"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
        ),
        "averaged": Training(_AVERAGED, changes={"learning_rate": "auto"} | _BEST, patience=9),
    },
    "best": {
        "auto": Training(_AVERAGED, changes={"learning_rate": "auto", "eval_steps": 1, "save_steps": 1} | _BEST),
        "stopped": Training(
            ht.recipes.lp_ft(probe_epochs=1, probe_lr_ratio=1.0, epochs=6, learning_rate=0.03),
            patience=2,
            changes={"eval_steps": 1, "save_steps": 1, "lr_scheduler_type": "constant"} | _BEST,
        ),
        "cached": Training(ht.recipes.last_blocks(1), "resnet", changes={"cache_features": "on"} | _BEST),
    },
}


def arguments(folder: Path, processes: int, changes: dict[str, Any]) -> ht.TransferArguments:
    """Arguments of a short run that logs each step."""
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": _BATCH // processes,
        "per_device_eval_batch_size": 5,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "warmup_steps": 0.2,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch",
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "save_strategy": "steps",
        "save_steps": 3,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
        "cache_features": "off",  # "auto" decides by what it measures
        "seed": 3,
    }
    return ht.TransferArguments(**(options | changes))


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of images whose largest logit is that of their label."""
    logits: Any = prediction.predictions
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean())}


def train(training: Training, folder: Path, processes: int, checkpoint: Path | None = None) -> None:
    """Train, evaluate, and save the model, the log and the metrics, by Trainer's own methods."""
    source = MATERIAL / training.model
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "model": AutoModelForImageClassification.from_pretrained(source),
        "args": arguments(folder, processes, training.changes),
        "train_dataset": Images(40, 0, training.augmented, training.ignored),
        "eval_dataset": Images(13, 1),
        "compute_metrics": accuracy,
    }
    if training.patience is not None:
        common["callbacks"] = [EarlyStoppingCallback(training.patience)]
    if training.solver is not None:
        trainer: Any = ht.LinearProbeTrainer(**common, solver=training.solver)
    else:
        processor = AutoImageProcessor.from_pretrained(source)
        trainer = ht.TransferTrainer(**common, processing_class=processor, plan=training.plan)
    result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.save_metrics("train", result.metrics)
    trainer.save_metrics("eval", trainer.evaluate())
    trainer.save_model()
    trainer.save_state()
    if trainer.args.process_index > 0:
        weights = {name: tensor.detach().contiguous() for name, tensor in trainer.model.state_dict().items()}
        save_file(weights, folder / f"rank-{trainer.args.process_index}.safetensors")


def main() -> None:
    """Run the trainings of one group."""
    parser = argparse.ArgumentParser(description="Run trainings of one group in the checkout on PYTHONPATH.")
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--from", dest="source", type=Path, help="folder of the group whose checkpoints are taken")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, training in GROUPS[options.group].items():
        checkpoint = None if options.source is None else options.source / name / f"checkpoint-{MIDDLE}"
        train(training, options.folder / name, options.processes, checkpoint)


if __name__ == "__main__":
    main()
