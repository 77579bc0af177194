"""Two families of images, shapes and gratings, for a network to be trained on one of them: no data, no weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw
import torch
from torch.utils.data import Dataset

EDGE = 32
_SCALE = 2
FloatArray = npt.NDArray[np.float64]


def _regular(corners: int, inner: float = 1.0, turn: float = 0.0) -> FloatArray:
    angles = np.arange(corners) * 2 * np.pi / corners + turn
    radii = np.where(np.arange(corners) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _strokes(*boxes: tuple[float, float, float, float]) -> list[FloatArray]:
    return [np.array([(a, b), (c, b), (c, d), (a, d)]) for a, b, c, d in boxes]


# Polygons in a disc of radius 1; a second list is cut out.
SHAPES: dict[str, tuple[list[FloatArray], list[FloatArray]]] = {
    "disc": ([_regular(24)], []),
    "square": ([_regular(4)], []),
    "triangle": ([_regular(3)], []),
    "star": ([_regular(10, 0.4)], []),
    "plus": (_strokes((-1, -0.25, 1, 0.25), (-0.25, -1, 0.25, 1)), []),
    "ring": ([_regular(24)], [0.55 * _regular(24)]),
    "bar": (_strokes((-1, -0.25, 1, 0.25)), []),
    "half disc": ([_regular(24)], _strokes((-1.1, 0, 1.1, 1.1))),
    "hollow square": ([_regular(4)], [0.55 * _regular(4)]),
    "hollow triangle": ([_regular(3)], [0.5 * _regular(3)]),
    "angle": (_strokes((-1, 0.5, 1, 1), (-1, -1, -0.5, 1)), []),
    "four-pointed star": ([_regular(8, 0.35)], []),
    "two bars": (_strokes((-1, -0.7, 1, -0.2), (-1, 0.2, 1, 0.7)), []),
    "crescent": ([_regular(24)], [_regular(24) * 0.85 + (0.45, 0)]),
}
SOURCE = tuple(SHAPES)[:8]
TARGET = tuple(SHAPES)[8:]
ORIENTATIONS = 8


class Images(Dataset[dict[str, object]]):
    """Rows with "pixel_values" `(3, EDGE, EDGE)` and "labels"."""

    def __init__(self, pixels: FloatArray, labels: Sequence[int]) -> None:
        self.pixels = torch.from_numpy(pixels.astype(np.float32))
        self.labels = list(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def shapes(names: Sequence[str], per_class: int, seed: int) -> Images:
    """Shapes of any place, size, turn and colour on another colour, with noise."""
    generator = np.random.default_rng(seed)
    labels = [label for label in range(len(names)) for _ in range(per_class)]
    return Images(np.stack([_shape(names[label], generator) for label in labels]), labels)


def gratings(per_class: int, seed: int) -> Images:
    """Waves of eight orientations, of any length and phase, with noise."""
    generator = np.random.default_rng(seed)
    labels = [label for label in range(ORIENTATIONS) for _ in range(per_class)]
    return Images(np.stack([_grating(label, generator) for label in labels]), labels)


def _shape(name: str, generator: np.random.Generator) -> FloatArray:
    angle, radius = generator.uniform(0, 2 * np.pi), generator.uniform(0.25, 0.42) * EDGE
    centre = generator.uniform(radius, EDGE - radius, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mask = PIL.Image.new("L", (EDGE * _SCALE, EDGE * _SCALE))
    draw = PIL.ImageDraw.Draw(mask)
    for polygons, fill in zip(SHAPES[name], (255, 0), strict=True):
        for polygon in polygons:
            draw.polygon([tuple(p) for p in ((polygon @ turn.T) * radius + centre) * _SCALE], fill=fill)
    covered = np.asarray(mask.resize((EDGE, EDGE), PIL.Image.Resampling.BOX)) / 255
    ground, colour = generator.uniform(-1, 1, (2, 3, 1, 1))
    return ground + covered * (colour - ground) + generator.normal(0, 0.15, (3, EDGE, EDGE))


def _grating(label: int, generator: np.random.Generator) -> FloatArray:
    angle = np.pi * label / ORIENTATIONS
    across, down = np.meshgrid(np.arange(EDGE), np.arange(EDGE))
    length, phase = generator.uniform(4, 10), generator.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi / length * (across * np.cos(angle) + down * np.sin(angle)) + phase)
    return 0.5 * wave * generator.uniform(0.5, 1, (3, 1, 1)) + generator.normal(0, 0.6, (3, EDGE, EDGE))
