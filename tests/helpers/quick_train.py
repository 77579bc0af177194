"""The command `train` on a few small photos, for tests of what goes in and what comes out."""

from __future__ import annotations

from pathlib import Path

from hf_transfer.cli import main
from tests.helpers.image_files import write_classes

LABELS = ("ant", "bee", "cat", "dog")
QUICK = ("--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--learning_rate", "1e-3")


def write_photos(folder: Path) -> Path:
    """Write four classes with 8 images each to train on, 4 to validate and 3 to test."""
    for split, count, seed in (("train", 8, 0), ("validation", 4, 1000), ("test", 3, 2000)):
        write_classes(folder / split, dict.fromkeys(LABELS, count), seed)
    return folder


def train(model: Path, images: Path | str, output: Path, *flags: str) -> int:
    """Run the command for an epoch; its exit code."""
    required = ("--model_name_or_path", str(model), "--dataset", str(images), "--output_dir", str(output))
    return main(["train", *required, *QUICK, *flags])
