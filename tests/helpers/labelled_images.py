"""A small `datasets.Dataset` of encoded images, a processor for it, and counters of decoding and of forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest
import torch
from torch import nn
from transformers import ViTImageProcessor

from hf_transfer.data import images as decoding
from hf_transfer.data import transforms
from tests.helpers.image_files import encoded, picture
from tests.helpers.tiny import IMAGE_SIZE

NAMES = ["a", "b", "c"]


def processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


def labelled_images(n: int, seed: int = 0) -> datasets.Dataset:
    """Encoded images with labels, as `hf_transfer.data.load` gives them; the same for the same arguments."""
    values = [{"bytes": encoded(picture(seed + i, 40, 36)), "path": None} for i in range(n)]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=NAMES)})
    return datasets.Dataset.from_dict({"image": values, "label": [i % 3 for i in range(n)]}, features=features)


def image_files(folder: Path, n: int) -> datasets.Dataset:
    """The same, with images that are files of their own."""
    paths = []
    for i in range(n):
        paths.append({"bytes": None, "path": str(folder / f"{i}.png")})
        (folder / f"{i}.png").write_bytes(encoded(picture(i, 40, 36)))
    features = datasets.Features({"image": datasets.Image(decode=False)})
    return datasets.Dataset.from_dict({"image": paths}, features=features)


class Counter:
    """What was counted."""

    decoded = 0
    images = 0


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch, module: nn.Module) -> Iterator[Counter]:
    """Count images that are decoded, and images that pass through a module of the model (meta tensors excepted)."""
    counter = Counter()

    def decode(value: decoding.ImageValue, mode: str = "RGB", limits: Any = None) -> PIL.Image.Image:
        counter.decoded += 1
        return decoding.decode_image(value, mode)

    def count(_module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        first = next(iter((*args, *kwargs.values())))
        counter.images += 0 if first.is_meta else len(first)

    handle = module.register_forward_pre_hook(count, with_kwargs=True)
    with monkeypatch.context() as patch:
        patch.setattr(transforms, "decode_image", decode)
        yield counter
    handle.remove()
