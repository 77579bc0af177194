"""Small images and folders of them for tests; every seed gives another image."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image


def picture(seed: int = 0, height: int = 10, width: int = 14) -> PIL.Image.Image:
    """A random RGB image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def encoded(image: PIL.Image.Image, kind: str = "PNG") -> bytes:
    """The content of an image file."""
    buffer = BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def write_classes(folder: Path, classes: Mapping[str, int], seed: int = 0) -> Path:
    """Write `class/0.png`, `class/1.png`, ...; no two images are the same."""
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            seed += 1
            (folder / name / f"{index}.png").write_bytes(encoded(picture(seed)))
    return folder
