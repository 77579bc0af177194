"""Images with their labels in files beside them, `000001.jpg` and `000001.cls`, as shards of WebDataset unpack."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from datasets import Dataset, Features, Image, Value

from hf_transfer.data.files import LeftOut, has_image, images_in, is_image, kind_of, subfolders, walk
from hf_transfer.data.image_folders import is_container
from hf_transfer.data.raw import RawSplit
from hf_transfer.data.splits import TRAIN, by_split
from hf_transfer.errors import DataError

logger = logging.getLogger(__name__)

_LABEL_SUFFIXES = (".cls", ".json")
_KEYS = ("label", "cls", "class", "class_name", "category", "target")


def find_sidecars(folder: Path) -> dict[str, Path]:
    """The folder of each split with images that have a label beside them; empty if there is none.

    A JSON file counts beside images that are in no folder; a `.cls` file counts in folders as well, since shards
    may be unpacked into one each.
    """
    inside = [entry for entry in subfolders(folder) if has_image(entry)]
    if not inside:
        return {TRAIN: folder} if _has_labels(folder) else {}
    splits = by_split((entry.name, entry) for entry in inside)
    if splits and all(map(_has_labels, splits.values())):
        return splits
    shards = all(is_container(entry.name) or re.search(r"\d", entry.name) for entry in inside)
    return {TRAIN: folder} if not splits and shards and all(map(_has_class_file, inside)) else {}


def read_sidecars(root: Path, split: str, folder: Path) -> RawSplit:
    """List the images of a split, with the labels beside them.

    Args:
        root: Root of the data set: names are relative to it.
        split: For messages.
        folder: Folder of the split.

    Raises:
        DataError: A file of a label cannot be read.
    """
    left_out = LeftOut()
    images = list(images_in(folder))
    labels = {_key(file): file for suffix in reversed(_LABEL_SUFFIXES) for file in _with_suffix(folder, suffix)}
    used = {file for image in images if (file := labels.get(_key(image)))}
    for file in walk(folder, left_out):
        if file not in used:
            left_out.count(kind_of(file))
    left_out.warn(split)
    logger.warning("%s: the labels are those of the files beside the images, such as .cls.", split)
    columns = {
        "image": [{"bytes": None, "path": str(image.absolute())} for image in images],
        "label": [_label(labels.get(_key(image))) for image in images],
    }
    features = Features({"image": Image(decode=False), "label": Value("string")})
    names = tuple(image.relative_to(root).as_posix() for image in images)
    return RawSplit(Dataset.from_dict(columns, features=features), root, names)


def _key(file: Path) -> Path:
    """What files of one sample share: all before the first dot of the name."""
    return file.with_name(file.name.split(".")[0])


def _with_suffix(folder: Path, suffix: str) -> list[Path]:
    return [file for file in walk(folder) if file.suffix.lower() == suffix]


def _has_labels(folder: Path) -> bool:
    """Whether most images have a label beside them."""
    entries = [entry for entry in folder.iterdir() if entry.is_file()]
    labels = {_key(entry) for entry in entries if entry.suffix.lower() in _LABEL_SUFFIXES}
    images = {_key(entry) for entry in entries if entry.suffix.lower() not in _LABEL_SUFFIXES and is_image(entry)}
    return bool(images) and 2 * len(images & labels) > len(images)


def _has_class_file(folder: Path) -> bool:
    return any(file.suffix.lower() == ".cls" for file in walk(folder))


def _label(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
        if file.suffix.lower() == ".cls":
            return text
        content = json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"The label in {file.name!r} cannot be read: {error}") from error
    values = [content[key] for key in _KEYS if key in content] if isinstance(content, dict) else []
    if len(values) != 1 or not isinstance(values[0], str | int):
        keys = ", ".join(_KEYS)
        raise DataError(f"{file.name!r} holds no label: expected text or a whole number under one of {keys}.")
    return str(values[0])
