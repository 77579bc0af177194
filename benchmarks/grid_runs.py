"""One run of the grid: probes together, or one training with what its end, its way and mixtures of its weights give.

Test images are looked at after the training alone, and decide nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transfer_runs import PROBES, FineTuning, probe_scores, train
from transfer_tasks import Task
from transformers import TrainerCallback

from hf_transfer.data import collate, eval_transform
from hf_transfer.evaluation.scores import accuracy, ece, log_loss, macro_f1, score_images
from hf_transfer.models.loading import LoadedModel

# Six epochs, and more where images are few. Fewer steps than `diagnosis.priors` takes, so that the grid can be run.
_LP_FT = FineTuning(epochs=6, min_steps=160, augmentation="none", head_lr_ratio=1.0)
_HALF, _ALL = replace(_LP_FT, train="part:half"), replace(_LP_FT, layer_decay=0.75)
TRAININGS: dict[str, FineTuning] = {
    "half_3e-4": replace(_HALF, learning_rate=3e-4),
    "half_1e-3": replace(_HALF, learning_rate=1e-3),
    "half_light": replace(_HALF, learning_rate=1e-3, augmentation="light"),
    "all_3e-4": replace(_ALL, learning_rate=3e-4),
    "all_1e-3": replace(_ALL, learning_rate=1e-3),
    # The rates that the recipes of these names have by default.
    "bias_only": replace(_LP_FT, train="bias", learning_rate=2e-3),
    "norm_only": replace(_LP_FT, train="norm", learning_rate=2e-3),
    "fine_tune": replace(_LP_FT, learning_rate=2e-4, head_lr_ratio=10.0, solved_head=False),
}
"""All but "fine_tune" begin with the solved head."""
CHECKPOINTS = 4
"""Points of a training, evenly spaced, whose weights are judged; the last of them is its end."""
MIXTURES = (0.25, 0.5, 0.75)
_BATCH = 50
Weights = dict[str, torch.Tensor]


class WayOfWeights(TrainerCallback):
    """Keeps the weights before the first step and at some epochs' ends, and their mean over the last two thirds."""

    def __init__(self, epochs: int) -> None:
        spaced = np.linspace(epochs / CHECKPOINTS, epochs, CHECKPOINTS)
        self._kept = {max(1, round(epoch)) for epoch in spaced[:-1]}
        self._epochs = epochs
        self.start: Weights = {}
        self.by_epoch: dict[int, Weights] = {}
        self.mean: Weights = {}
        self._count = 0

    def begin(self, model: Any) -> list[Any]:
        """Keep the weights of the solved start."""
        self.start = _weights(model)
        return [self]

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if 3 * state.epoch <= self._epochs:
            return
        self._count += 1
        if self._count == 1:
            self.mean = _weights(model)
        for name, parameter in model.named_parameters():
            self.mean[name].lerp_(parameter.detach(), 1 / self._count)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if (epoch := round(state.epoch)) in self._kept:
            self.by_epoch[epoch] = _weights(model)


def run_probes(task: Task, loaded: LoadedModel) -> dict[str, dict[str, Any]]:
    """A record for each probe."""
    labels = np.asarray(task.test["label"])
    found = probe_scores(task, loaded, PROBES)
    return {name: {"test": metrics(scores, labels)} | facts for name, (scores, facts) in found.items()}


def run_training(task: Task, loaded: LoadedModel, settings: FineTuning) -> dict[str, Any]:
    """A record of one training: metrics of its end, and of other weights; its start is the probe on the last layer."""
    way = WayOfWeights(settings.length(len(task.train)))
    with tempfile.TemporaryDirectory() as folder:
        trainer, facts = train(task, loaded, settings, folder, way.begin)
    model, labels = trainer.model, np.asarray(task.test["label"])
    pixels = _pixels(task, loaded)

    def judged(weights: Weights, with_right: bool = False) -> dict[str, Any]:
        _put(model, weights)
        found = metrics(_scores(model, pixels), labels)
        return {name: value for name, value in found.items() if with_right or name != "right"}

    end = _weights(model)
    by_epoch = {epoch: judged(weights) for epoch, weights in way.by_epoch.items()}
    found: dict[str, Any] = {"test": judged(end, True), "by_epoch": by_epoch, "mean": judged(way.mean)}
    if settings.solved_head:
        found["mixtures"] = {
            share: judged({name: torch.lerp(way.start[name], weight, share) for name, weight in end.items()})
            for share in MIXTURES
        }
    return found | facts


def metrics(scores: Any, labels: Any) -> dict[str, Any]:
    """Metrics of an array `(images, classes)`, and which images are right, as the bits of a hexadecimal number."""
    judged = score_images(scores, labels)
    recalls = [judged.correct[judged.labels == label].mean() for label in np.unique(labels)]
    values = {
        "accuracy": accuracy(judged), "balanced_accuracy": float(np.mean(recalls)), "macro_f1": macro_f1(judged),
        "log_loss": log_loss(judged), "ece": ece(judged),
    }  # fmt: skip
    right = np.packbits(judged.correct).tobytes().hex()
    return {name: round(float(value), 5) for name, value in values.items()} | {"right": right}


def _weights(model: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _put(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


def _pixels(task: Task, loaded: LoadedModel) -> torch.Tensor:
    images = task.test.with_transform(eval_transform(loaded.processor))
    return collate([images[row] for row in range(len(images))])["pixel_values"]


@torch.no_grad()
def _scores(model: nn.Module, pixels: torch.Tensor) -> Any:
    model.eval()
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return torch.cat([model(pixel_values=part).logits for part in pixels.split(_BATCH)]).double().numpy()
