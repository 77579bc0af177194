"""What the readers of all forms of data sets return: tables as found, before anything is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset


@dataclass(frozen=True)
class RawSplit:
    """One split as found.

    Attributes:
        table: Any columns.
        folder: Where relative paths of images start; None for the Hub, whose data sets hold their images.
        names: `(images,)`, what to call the images; None if the table has to tell.
    """

    table: Dataset
    folder: Path | None = None
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class RawData:
    """All splits as found.

    Attributes:
        splits: "train", "validation" and "test", in this order, those that there are.
        name: For people.
        hub_id: Where the data come from the Hub.
        revision: Commit on the Hub where known.
    """

    splits: Mapping[str, RawSplit]
    name: str
    hub_id: str | None = None
    revision: str | None = None
