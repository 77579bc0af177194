"""One candidate recipe run in full on one task: probes on features, and fine-tuning with `TransferTrainer`."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transfer_tasks import Task, load_lite0

import hf_transfer as ht
from hf_transfer.data import collate, eval_transform, train_transform
from hf_transfer.features import LAST
from hf_transfer.features.depths import layers_at_depths
from hf_transfer.linear_probe.layer_choice import judge_layers
from hf_transfer.linear_probe.solving import solve_head
from hf_transfer.models.loading import LoadedModel
from hf_transfer.solvers.joined import distinct, solve_joined

PROBES = ("probe_last", "probe_best_depth", "probe_all_depths")


@dataclass(frozen=True)
class FineTuning:
    """How a candidate trains in steps.

    Attributes:
        train: Selector of what is trained.
        epochs: At least.
        min_steps: So many optimizer steps at least, where the epochs give fewer.
        batch_size: Images in a step.
        learning_rate: Of pretrained layers.
        head_lr_ratio: The head's rate over it.
        layer_decay: See `hf_transfer.Phase`.
        norm: See there.
        augmentation: "none", "light" (flip and shift) or "standard".
        cache_views: Stored views of each image, where the frozen part is cached; 0 caches only without augmentation.
        solved_head: Begin with the head that logistic regression gives on the last features (LP-FT).
        random_weights: Begin from scratch.
        weight_decay: Of AdamW.
        average_from: See `hf_transfer.Phase`.
    """

    train: str = "all"
    epochs: int = 4
    min_steps: int = 0
    batch_size: int = 16
    learning_rate: float = 5e-4
    head_lr_ratio: float = 2.0
    layer_decay: float = 1.0
    norm: str = "eval"
    augmentation: str = "light"
    cache_views: int = 0
    solved_head: bool = True
    random_weights: bool = False
    weight_decay: float = 0.05
    average_from: float | None = None

    def length(self, images: int) -> int:
        """Epochs for a number of images."""
        steps = math.ceil(images / self.batch_size)
        return max(self.epochs, math.ceil(self.min_steps / steps))


def run_probes(task: Task, names: tuple[str, ...] = PROBES) -> dict[str, dict[str, Any]]:
    """Logistic regression on features of the frozen network.

    Returns:
        For each probe the accuracy on the test images, and CPU seconds from the loaded model to the solved head: the
        pass over the training images, common to all, and what it computes on the features.
    """
    loaded = load_lite0(task.label_names, task.seed)
    test_labels = np.asarray(task.test["label"])
    return {
        name: {"accuracy": float((scores.argmax(axis=1) == test_labels).mean())} | facts
        for name, (scores, facts) in probe_scores(task, loaded, names).items()
    }


def probe_scores(
    task: Task, loaded: LoadedModel, names: tuple[str, ...] = PROBES
) -> dict[str, tuple[npt.NDArray[Any], dict[str, Any]]]:
    """For each probe its scores of the test images, and CPU seconds and choices of its training."""
    labels = np.asarray(task.train["label"])
    started = time.process_time()
    features = _features(loaded, task.train)
    extraction = time.process_time() - started
    tested = _features(loaded, task.test)
    found: dict[str, tuple[npt.NDArray[Any], dict[str, Any]]] = {}
    for name in names:
        started = time.process_time()
        facts: dict[str, Any] = {}
        layers: tuple[str, ...] = (LAST,)
        if name == "probe_all_depths":
            depths = [each for each in layers_at_depths(loaded.model) if each in features]
            layers = tuple(depths[place] for place in distinct([features[each] for each in depths]))
        elif name == "probe_best_depth":
            evidence = judge_layers(features, labels, len(task.label_names), seed=task.seed)
            best = max(evidence, key=lambda each: each.accuracy)
            layers = (best.layer,)
            facts = {"layer": best.layer, "held_out_by_layer": {e.layer: round(e.accuracy, 4) for e in evidence}}
        solved = solve_joined(
            [features[each] for each in layers], labels, classes=len(task.label_names), seed=task.seed
        )
        facts["cpu_seconds"] = extraction + time.process_time() - started
        facts |= {"held_out_accuracy": solved.accuracy, "extraction_cpu_seconds": extraction}
        found[name] = (solved.head.scores(np.concatenate([tested[each] for each in layers], axis=1)), facts)
    return found


def run_fine_tuning(task: Task, settings: FineTuning, held_out: str = "test") -> dict[str, Any]:
    """Train, and measure on images that nothing was chosen on.

    Args:
        task: The task.
        settings: How.
        held_out: "test", or "validation" to choose settings.

    Returns:
        Accuracy, CPU seconds from the loaded model to the trained one (with the head's features, where it is solved
        first), number of steps, and the settings.
    """
    loaded = load_lite0(task.label_names, task.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer, facts = train(task, loaded, settings, folder)
        images = getattr(task, held_out)
        logits = trainer.predict(images.with_transform(eval_transform(loaded.processor))).predictions
    accuracy = float((np.asarray(logits).argmax(axis=1) == np.asarray(images["label"])).mean())
    return {"accuracy": accuracy} | facts


def train(
    task: Task,
    loaded: LoadedModel,
    settings: FineTuning,
    folder: str,
    started_from: Callable[[Any], list[Any]] | None = None,
) -> tuple[ht.TransferTrainer, dict[str, Any]]:
    """Solve the head, if the settings say so, and train.

    Args:
        task: Its training images alone are looked at.
        loaded: Its model is trained in place.
        settings: How.
        folder: For the trainer's files.
        started_from: Gets the model before the first step, and returns callbacks for the trainer.

    Returns:
        The trainer, and CPU seconds, number of steps and settings.
    """
    processor, epochs = loaded.processor, settings.length(len(task.train))
    phase = ht.Phase(
        "fine-tune", settings.train, epochs=epochs, learning_rate=settings.learning_rate, warmup=0.1,
        head_lr_ratio=settings.head_lr_ratio, layer_decay=settings.layer_decay, norm=settings.norm,
        lr_scheduler_type="cosine", average_from=settings.average_from,
    )  # fmt: skip
    plan = ht.TransferPlan((phase,), init="random" if settings.random_weights else "pretrained")
    args = ht.TransferArguments(
        folder, report_to="none", disable_tqdm=True, remove_unused_columns=False, save_strategy="no",
        per_device_train_batch_size=settings.batch_size, per_device_eval_batch_size=64, logging_strategy="no",
        weight_decay=settings.weight_decay, seed=task.seed, cache_views=settings.cache_views,
        dataloader_pin_memory=False, use_cpu=True,
    )  # fmt: skip
    facts: dict[str, Any] = {}
    started = time.process_time()
    if settings.solved_head:
        known = task.train.with_transform(eval_transform(processor))
        solution = solve_head(loaded.model, known, processor, cache=False, progress=False, seed=task.seed)
        facts["head_cpu_seconds"] = time.process_time() - started
        facts["head_accuracy"] = solution.solved.accuracy
    trainer = ht.TransferTrainer(
        loaded.model, args, plan=plan, data_collator=collate, processing_class=processor,
        train_dataset=task.train.with_transform(train_transform(processor, settings.augmentation)),
        callbacks=started_from(loaded.model) if started_from else None,
    )  # fmt: skip
    trainer.train()
    facts["cpu_seconds"] = time.process_time() - started
    cached = [decision.used for decision in trainer.cache_decisions]
    facts |= {"steps": trainer.state.global_step, "epochs": epochs, "cached": cached, "settings": asdict(settings)}
    return trainer, facts


def _features(loaded: Any, images: Any) -> dict[str, Any]:
    found = ht.extract_features(
        loaded.model, images.with_transform(eval_transform(loaded.processor)), loaded.processor, "all",
        cache=False, progress=False,
    )  # fmt: skip
    return {name: np.asarray(values) for name, values in found.items()}
