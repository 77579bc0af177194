"""`ImageData`: checked splits of labelled images, and what is known about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset


@dataclass(frozen=True)
class SkippedImage:
    """An image that could not be read and was left out.

    Attributes:
        split: "train", "validation" or "test", as in the source.
        name: Path relative to the data set, or split and row, such as "train/17".
        reason: Why; never holds a path.
    """

    split: str
    name: str
    reason: str


@dataclass(frozen=True)
class ImageData:
    """Checked splits of labelled images.

    Each split has the columns "image" (encoded: `{"bytes", "path"}`), "label" (`ClassLabel` with `label_names`) and
    "name" (a relative path, or split and row), in the order of the source.

    Attributes:
        train: None only if it was not required.
        validation: The evaluation split, whatever its name in the source is.
        test: Only where it is separate from the evaluation split.
        evaluation_split: What `validation` is: "validation", "test", or "train[stratified fifth, seed 42]".
        label_names: In the order of the class indices.
        name: For people: Hub id, or base name of the file or folder; never a path.
        hub_id: Where the data come from the Hub.
        revision: Commit on the Hub where known, else what was asked for.
        fingerprint: SHA-256 over image contents, labels and membership in the splits. Independent of path, file names
            and row order.
        skipped: The images that could not be read.
        counts: Split to label name to number of images; the evaluation split is under `evaluation_split`.
        median_size: Median height and median width of all images, in pixels.
        pixel_range: Range from which grey images of more than 8 bits are scaled; None where there are none. Each row
            then has it in the column "pixel_range".
        pixels: What the images are stored as, where that is not just RGB or grey of 8 bits; in words, with numbers.
    """

    train: Dataset | None
    validation: Dataset | None
    test: Dataset | None
    evaluation_split: str
    label_names: tuple[str, ...]
    name: str
    hub_id: str | None
    revision: str | None
    fingerprint: str
    skipped: tuple[SkippedImage, ...]
    counts: Mapping[str, Mapping[str, int]]
    median_size: tuple[int, int]
    pixel_range: tuple[float, float] | None = None
    pixels: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which may be published: all but the images themselves, and the names of their files."""
        return {
            "name": self.name,
            "hub_id": self.hub_id,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "evaluation_split": self.evaluation_split,
            "label_names": list(self.label_names),
            "images": {split: sum(counts.values()) for split, counts in self.counts.items()},
            "counts": {split: dict(counts) for split, counts in self.counts.items()},
            "median_size": {"height": self.median_size[0], "width": self.median_size[1]},
            "skipped": self._counted(),
            **({"pixels": list(self.pixels)} if self.pixels else {}),
            **({"pixel_range": list(self.pixel_range)} if self.pixel_range else {}),
        }

    def _counted(self) -> list[dict[str, Any]]:
        """How many images of each split were skipped, and why; details of a file stay behind."""
        counts = Counter((image.split, image.reason.partition(" (")[0]) for image in self.skipped)
        return [{"split": split, "reason": why, "images": count} for (split, why), count in counts.items()]
