"""What all runs are made of: two tiny networks with random weights, and a folder of small images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)
from transformers.utils import logging

IMAGE_SIZE = 32
"""Edge of the networks' input in pixels."""
LABELS = ("ant", "bee", "cat")
# Images of each class; the test images cannot be shared evenly by two processes.
_IMAGES = {"train": 16, "validation": 4, "test": 3}


def make_material(folder: Path) -> None:
    """Write the networks `vit` (with dropout) and `resnet` (with batch norms), and the image folder `photos`."""
    logging.disable_progress_bar()
    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    for name, model in (("vit", _vit(labels)), ("resnet", _resnet(labels))):
        model.save_pretrained(folder / name)
        size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        ViTImageProcessor(size=size).save_pretrained(folder / name)
    random = np.random.default_rng(0)
    for split, count in _IMAGES.items():
        for index, label in enumerate(LABELS):
            target = folder / "photos" / split / label
            target.mkdir(parents=True)
            for number in range(count):
                picture(random, index).save(target / f"{number}.png")


def picture(random: np.random.Generator, label: int) -> PIL.Image.Image:
    """A noisy image whose brightness tells its class."""
    pixels = random.integers(0, 160, (40, 36, 3), dtype=np.uint8) + np.uint8(45 * label)
    return PIL.Image.fromarray(pixels)


def _vit(labels: dict[str, object]) -> PreTrainedModel:
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=IMAGE_SIZE,
        patch_size=8,
        hidden_dropout_prob=0.1,
        **labels,
    )
    return ViTForImageClassification(config)


def _resnet(labels: dict[str, object]) -> PreTrainedModel:
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic", **labels
    )
    return ResNetForImageClassification(config)
