"""hf_transfer.data.identity: training data are told apart by what matters, and not by where they are."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from torch.utils.data import Subset
from torchvision.transforms import v2
from transformers.trainer_utils import RemoveColumnsCollator

from hf_transfer.data import collate, eval_transform, train_transform
from hf_transfer.data.identity import data_identity, transform_description
from tests.helpers import labelled_images
from tests.helpers.training import RandomImages

FLIP = v2.Compose([v2.RandomHorizontalFlip(0.5)])


def flipped(rows: Any) -> Any:
    return {"pixel_values": [FLIP(image) for image in rows["image"]]}


def _data(folder: str, labels: list[int], names: str = "ab") -> Any:
    images = [{"bytes": None, "path": f"{folder}/{name}.png"} for name in names]
    return Dataset.from_dict({"image": images, "label": labels})


def test_data_fingerprint_tells_data_apart_and_not_their_place() -> None:
    """Length, labels and content count; folder, transform and process do not."""
    first = data_identity(_data("/here", [0, 1]))
    moved = _data("/there", [0, 1]).with_transform(lambda rows: rows)
    assert data_identity(moved) == first
    assert data_identity(_data("/here", [1, 0])) != first
    assert data_identity(_data("/here", [0, 1], "ac")) != first


def test_every_column_of_numbers_or_text_counts_whole() -> None:
    """One value amid a thousand rows, in a column of any name and kind, is seen; the folder of a path is not."""
    columns: dict[str, list[Any]] = {
        "fine_label": [i % 7 for i in range(1000)],
        "score": [i / 7 for i in range(1000)],
        "species": [f"s{i % 5}" for i in range(1000)],
        "flag": [i % 2 == 0 for i in range(1000)],
        "several": [[i % 3, 1] for i in range(1000)],
        "file": [f"/here/{i}.png" for i in range(1000)],
    }
    first = data_identity(Dataset.from_dict(columns))
    others: dict[str, Any] = {"fine_label": 9, "score": 0.1, "species": "t", "flag": None, "several": [5], "file": "x"}
    for name, value in others.items():
        changed = [*columns[name]]
        changed[500] = value
        assert data_identity(Dataset.from_dict(columns | {name: changed})) != first, name
    moved = [f"/there/{i}.png" for i in range(1000)]
    assert data_identity(Dataset.from_dict(columns | {"file": moved})) == first
    features = Features({"image": Image(), "n": Value("int32")})
    data = Dataset.from_dict({"image": [None] * 4, "n": [1, 2, 3, 4]}, features=features)
    assert data_identity(data.select([0, 2])) != data_identity(data.select([0, 3]))


def test_torch_data_sets_are_known_by_class_length_and_labels() -> None:
    """Labels that a data set holds count, and which rows a subset has; the pixels do not."""
    first, second = RandomImages(8), RandomImages(8)
    second.pixels = second.pixels + 1
    assert data_identity(first) == data_identity(second)
    second.labels = second.labels.flip(0)
    assert data_identity(first) != data_identity(second)
    assert data_identity(first).keys() == {"type", "length", "labels"}
    assert data_identity(Subset(first, [0, 1])) != data_identity(Subset(first, [0, 2]))


def test_transforms_are_described_without_chance() -> None:
    """Ours, torchvision's, and functions with what they name: told apart, and without addresses in memory."""
    processor, data = labelled_images.processor(), labelled_images.labelled_images(2)
    ours = {
        name: transform_description(data.with_transform(train_transform(processor, name)), collate)
        for name in ("none", "light", "standard")
    }
    assert len(set(ours.values())) == 3
    assert ours["none"] == transform_description(data.with_transform(eval_transform(processor)), collate)
    images = RandomImages(4)
    assert transform_description(images) == ""
    images.transform = v2.RandomHorizontalFlip(0.3)  # type: ignore[attr-defined]
    assert transform_description(images) == "RandomHorizontalFlip(p=0.3)"
    assert "0x" not in transform_description(lambda rows: rows, data.with_transform(flipped))


@pytest.mark.slow
def test_another_process_gives_the_same_description() -> None:
    """Nothing of the process, such as an address or a salted hash, is in the description of a function."""
    code = "from tests.data.test_identity import *; print(transform_description(flipped))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == transform_description(flipped)


def test_a_function_with_another_transform_in_it_is_another(monkeypatch: Any) -> None:
    """What a function names counts."""
    first = transform_description(flipped)
    monkeypatch.setitem(globals(), "FLIP", v2.Compose([v2.RandomHorizontalFlip(0.4)]))
    assert transform_description(flipped) != first
    assert torch.equal(flipped({"image": [torch.ones(1, 2, 2)]})["pixel_values"][0], torch.ones(1, 2, 2))


def test_a_collator_is_seen_through_trainers_own() -> None:
    """Trainer puts a collator that leaves out columns around the given one; the given one is what counts."""

    def wrapped(collator: Any) -> Any:
        return RemoveColumnsCollator(data_collator=collator, signature_columns=["pixel_values"])

    assert transform_description(wrapped(collate)) == transform_description(collate)
    assert transform_description(wrapped(flipped)) != transform_description(wrapped(collate))
