"""Runs that are made in one process and in two, to be compared; shared by the tests and by what they launch."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

import hf_transfer as ht
from hf_transfer.data import train_transform
from hf_transfer.features import store
from tests.helpers import labelled_images, tiny
from tests.helpers.training import RandomImages, arguments

GLOBAL_BATCH = 8
# Borders inside an epoch of 4 steps, one of them at a fraction of it.
GRADUAL = ht.TransferPlan(
    (
        ht.Phase("head", "head", max_steps=3),
        ht.Phase("one block", "blocks:1", max_steps=2, layer_decay=0.9),
        ht.Phase("two blocks", "blocks:2", epochs=0.75, layer_decay=0.9),
        ht.Phase("all", "all", max_steps=4, layer_decay=0.9),
    )
)
# The same, where two phases leave the mean of their weights.
AVERAGED = replace(
    GRADUAL, phases=(*GRADUAL.phases[:2], *(replace(phase, average_from=0.4) for phase in GRADUAL.phases[2:]))
)


def world_size() -> int:
    """Processes of the run that this process belongs to."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def make_model(name: str, dropout: float = 0.0) -> nn.Module:
    """A model whose weights are the same in every process."""
    torch.manual_seed(0)
    return tiny.vit(hidden_dropout_prob=dropout) if name == "vit" else tiny.TRANSFORMERS_MODELS[name]()


def options(**changes: Any) -> dict[str, Any]:
    """Arguments of a run that sees the same images in each step, however many processes there are."""
    accumulation = changes.get("gradient_accumulation_steps", 1)
    size = GLOBAL_BATCH // world_size() // accumulation
    return {
        "per_device_train_batch_size": size,
        "use_cpu": True,
        "seed": 3,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
    } | changes


def make_trainer(
    model: nn.Module, folder: Path, plan: ht.TransferPlan, callbacks: Any = (), data: Any = None, **changes: Any
) -> ht.TransferTrainer:
    """A trainer on 32 random images, or other data."""
    collator = changes.pop("data_collator", None)
    args = arguments(folder, **options(**changes))
    data = RandomImages() if data is None else data
    return ht.TransferTrainer(
        model, args, data_collator=collator, train_dataset=data, plan=plan, callbacks=list(callbacks)
    )


class UnevenLabels(RandomImages):
    """Labels that are ignored (-100) where they would not fall evenly on two ranks, in one step all of one rank."""

    def __init__(self) -> None:
        super().__init__()
        self.labels[[4, 5, 6, 12, 13, 14, 15, 17, 30]] = -100


class BrokenImages(RandomImages):
    """The third image of each step is broken: with two ranks and micro-batches it is the second rank's."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels[2::GLOBAL_BATCH] = torch.nan


def augmented_images() -> Any:
    """32 encoded images, flipped and shifted at random."""
    data = labelled_images.labelled_images(32)
    return data.with_transform(train_transform(labelled_images.processor(), "light"))


def digest(model: nn.Module) -> str:
    """Hash of all weights and buffers."""
    found = hashlib.sha256()
    for tensor in model.state_dict().values():
        found.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return found.hexdigest()


class PhaseEnds(TrainerCallback):
    """Collects at each phase's end the digest of the model, and the bytes that DDP averages beside those trained."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.averaged: list[tuple[int, int]] = []
        self.trainer: ht.TransferTrainer | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        assert self.trainer is not None and self.trainer.resolved_plan is not None
        if state.global_step in {phase.end for phase in self.trainer.resolved_plan.phases}:
            self.digests.append(digest(model))
            trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
            if isinstance(self.trainer.model_wrapped, DistributedDataParallel):
                told = self.trainer.model_wrapped._get_ddp_logging_data()
                self.averaged.append((told["total_parameter_size_bytes"], trained))


def gradual(model_name: str, optim: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Train gradually; returns the weights, the digests at each phase's end, and the losses."""
    model, ends = make_model(model_name), PhaseEnds()
    rate = 1e-2 if optim == "sgd" else 1e-3
    defaults = {"optim": optim, "learning_rate": rate, "ddp_find_unused_parameters": False}
    plan = AVERAGED if optim == "adamw_torch" else GRADUAL
    trainer = make_trainer(model, folder, plan, [ends], **(defaults | changes))
    ends.trainer = trainer
    trainer.train()
    held = {n for n, p in model.named_parameters() if p in trainer.optimizer.optimizer.state}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    handler = trainer.accelerator.ddp_handler
    found = {"weights": model.state_dict(), "digests": ends.digests, "losses": losses, "held": sorted(held)}
    found |= {"averaged": ends.averaged}
    return found | {"find unused": handler is not None and handler.find_unused_parameters}


def solved(folder: Path) -> dict[str, Any]:
    """Heads solved on images that processes share in chunks of one batch: of a phase that is trained on, and alone."""
    found: dict[str, Any] = {}
    data = RandomImages(80)
    with mock.patch.object(store, "CHUNK_BYTES", 1):
        model: Any = make_model("vit")
        starts: list[torch.Tensor] = []
        handle = model.register_forward_pre_hook(
            lambda module, args: starts.append(module.classifier.weight.detach().clone()) if module.training else None
        )
        args = arguments(folder, **options(max_grad_norm=1.0, learning_rate=1e-3, optim="sgd"))
        plan = ht.recipes.lp_ft()
        trainer = ht.TransferTrainer(model, args, train_dataset=data, plan=plan)
        trainer.train()
        handle.remove()
        found |= {"start": starts[0], "weights": model.state_dict(), "digest": digest(model)}
        found["accuracy"] = (trainer.solved_phase or {})["accuracy"]
        probe = ht.LinearProbeTrainer(make_model("vit"), args, train_dataset=data, eval_dataset=data, solver="svm")
        probe.train()
        found |= {"probe": digest(probe.model), "eval_loss": probe.evaluate()["eval_loss"]}
    return found
