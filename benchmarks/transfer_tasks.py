"""The small tasks that candidates, diagnosis and regret are measured on: data sets, samples by seed, the model."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image

from hf_transfer.data import load
from hf_transfer.demo import demo_data_folder
from hf_transfer.demo.weights import write_lite0_checkpoint
from hf_transfer.models.loading import LoadedModel, load_for_training

DATA_SETS = ("fashion_mnist", "animals")
SIZES = (10, 50, 200)
SEEDS = (0, 1, 2)
IMAGE_SIZE = 96
_TEST_IMAGES = 100  # of each class
_VALIDATION_IMAGES = 50
# The test images and those for choosing settings are the same for all seeds.
_FIXED_SEED = 42


@dataclass(frozen=True)
class Task:
    """A data set of some size.

    Attributes:
        name: "fashion_mnist" or "animals".
        per_class: Training images of each class.
        seed: Of the sample.
        train: Columns "image" and "label".
        validation: 50 images of each class that are neither in `train` nor in `test`, on which settings were chosen;
            empty where all training images are used.
        test: 100 images of each class.
        label_names: In the order of the class indices.
    """

    name: str
    per_class: int
    seed: int
    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    label_names: tuple[str, ...]


def make_task(name: str, per_class: int, seed: int, animals: Path | None = None) -> Task:
    """Sample a task.

    Args:
        name: One of `DATA_SETS`.
        per_class: Training images of each class; at most 200 of Fashion-MNIST.
        seed: Of the sample of training images.
        animals: File with the arrays train_images, train_labels, test_images, test_labels (28 x 28 pixels) and names.
    """
    if name == "fashion_mnist":
        data = load(str(demo_data_folder()))
        assert data.train is not None and data.validation is not None
        pool, test, names = data.train, data.validation, tuple(data.label_names)
    elif animals is not None:
        arrays = np.load(animals)
        names = tuple(str(each) for each in arrays["names"])
        pool = encoded(arrays["train_images"], arrays["train_labels"], names)
        test = encoded(arrays["test_images"], arrays["test_labels"], names)
    else:
        raise SystemExit("The animals need --animals FILE.npz.")
    chosen, rest = stratified(pool["label"], per_class, seed)
    held_out = stratified([pool["label"][row] for row in rest], _VALIDATION_IMAGES, _FIXED_SEED)[0]
    tested = stratified(test["label"], _TEST_IMAGES, _FIXED_SEED)[0]
    validation = pool.select([rest[row] for row in held_out])
    return Task(name, per_class, seed, pool.select(chosen), validation, test.select(tested), names)


def load_lite0(label_names: tuple[str, ...], seed: int) -> LoadedModel:
    """EfficientNet-Lite0 with its ImageNet weights, a new head, and a processor for 96 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_lite0_checkpoint(Path(folder) / "tf_efficientnet_lite0")
        return load_for_training(str(checkpoint), label_names, image_size=IMAGE_SIZE, seed=seed)


def stratified(labels: Any, per_class: int, seed: int) -> tuple[list[int], list[int]]:
    """Rows of `per_class` images of each class, shuffled, and all others."""
    labels = np.asarray(labels)
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(labels))
    parts = [shuffled[labels[shuffled] == label][:per_class] for label in np.unique(labels)]
    chosen = np.concatenate([shuffled[:0], *parts])
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return generator.permutation(chosen).tolist(), rest.tolist()


def encoded(images: Any, labels: Any, names: tuple[str, ...]) -> datasets.Dataset:
    """Pixels as PNG files, as a data set of images has them."""
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [{"bytes": _png(each), "path": None} for each in images], "label": np.asarray(labels).tolist()}
    return datasets.Dataset.from_dict(rows, features)


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
