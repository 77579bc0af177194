"""Small helpers for tests that train: a data set of random images, arguments without side effects, logged values."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

import hf_transfer as ht
from tests.helpers.tiny import IMAGE_SIZE


class RandomImages(Dataset[dict[str, torch.Tensor]]):
    """Images whose brightness tells the class, so that training lowers the loss."""

    def __init__(self, n: int = 32, classes: int = 3) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(n) % classes
        noise = torch.randn(n, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
        self.pixels = noise + self.labels.view(-1, 1, 1, 1).float()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


class AugmentedImages(Dataset[dict[str, Any]]):
    """Images that a data set of the user's changes at random, by each of the usual generators."""

    def __init__(self, n: int = 32) -> None:
        self.images = RandomImages(n)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.images[index]
        factor = 1 + random.random() + float(np.random.rand())
        return row | {"pixel_values": row["pixel_values"] * factor + torch.randn(3, 1, 1)}


def arguments(folder: Path, **options: Any) -> ht.TransferArguments:
    """Arguments of a quick run that saves nothing unless asked."""
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return ht.TransferArguments(**(defaults | options))


def logged(trainer: Any, key: str) -> list[float]:
    """All logged values of one name, in order."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def trained(model: nn.Module, folder: Path, plan: ht.TransferPlan | None = None, **options: Any) -> ht.TransferTrainer:
    """The trainer that has trained a model on random images; options are those of `arguments`."""
    trainer = ht.TransferTrainer(model, arguments(folder, **options), train_dataset=RandomImages(), plan=plan)
    trainer.train()
    return trainer
