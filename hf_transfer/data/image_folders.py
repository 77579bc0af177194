"""Image folders: `class/file.jpg`, or `train/class/file.jpg` with `validation` or `test` next to `train`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, Features, Image, Value

from hf_transfer.data.raw import RawSplit
from hf_transfer.data.splits import TEST, TRAIN, by_split, split_of
from hf_transfer.errors import DataError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *("avif", "bmp", "dib", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; not hidden ones, nor what archives of macOS leave behind."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.name != "__MACOSX"
    )


def find_image_splits(folder: Path) -> dict[str, Path]:
    """The folders of the splits of an image folder; empty if no subfolder holds images.

    A class may be called "train", like the vehicle: folders are splits only if they hold folders of classes.

    Raises:
        DataError: A split has images that are in no class's folder, or none at all.
    """
    inside = subfolders(folder)
    others = [entry.name for entry in inside if split_of(entry.name) is None and _has_image(entry)]
    split_folders = by_split((entry.name, entry) for entry in inside)
    if not any(_has_classes(entry) for entry in split_folders.values()) and others:
        return {TRAIN: folder}
    if not any(_has_image(entry) for entry in split_folders.values()):
        return {}
    if others:
        logger.warning(
            "%s has splits; the folders %s next to them hold images, too, and are left out.",
            folder.resolve().name,
            ", ".join(others[:10]),
        )
    return {split: entry for split, entry in split_folders.items() if _is_labelled(split, entry)}


def read_image_folder(root: Path, split: str, folder: Path) -> RawSplit:
    """List the images of a split, with the first folder below it as their label.

    Args:
        root: Root of the data set: names are relative to it.
        split: For messages.
        folder: Folder of the split.

    Raises:
        DataError: A file name is no valid text.
    """
    paths: list[str] = []
    labels: list[str] = []
    names: list[str] = []
    ignored = 0
    for class_folder in subfolders(folder):
        before = len(paths)
        for file in _files(class_folder):
            if not _is_image(file):
                ignored += 1
                continue
            names.append(_text(file.relative_to(root)))
            paths.append(str(file.absolute()))
            labels.append(_text(Path(class_folder.name)))
        if len(paths) == before:
            logger.warning("The folder %s in %s holds no images: no such class is made.", class_folder.name, split)
    logger.debug("%s: %d images; %d hidden or other files are left out.", split, len(paths), ignored)
    loose = sum(_is_image(entry) for entry in folder.iterdir())
    if loose:
        logger.warning("%s: images outside of the class folders are left out, %d of them.", split, loose)
    features = Features({"image": Image(decode=False), "label": Value("string")})
    columns = {"image": [{"bytes": None, "path": path} for path in paths], "label": labels}
    return RawSplit(Dataset.from_dict(columns, features=features), root, tuple(names))


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, in the order of their names; links are followed, but not in circles."""
    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        here = [name for name in sorted(folders) if not name.startswith(".")]
        folders[:] = [name for name in here if os.path.realpath(Path(place) / name) not in seen]
        seen.update(os.path.realpath(Path(place) / name) for name in folders)
        yield from (Path(place) / name for name in sorted(files))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _has_image(folder: Path) -> bool:
    return any(_is_image(file) for file in _files(folder))


def _has_classes(folder: Path) -> bool:
    return any(_has_image(entry) for entry in subfolders(folder))


def _is_labelled(split: str, folder: Path) -> bool:
    if _has_classes(folder):
        return True
    if not _has_image(folder):
        raise DataError(f"The folder {folder.name!r} of the {split} split holds no images. Fill it or remove it.")
    if split == TEST:
        logger.warning("The folder %r holds images without folders of classes: it is left out.", folder.name)
        return False
    raise DataError(
        f"The folder {folder.name!r} of the {split} split holds images without labels. Put those of each class into a "
        "folder with the name of the class."
    )


def _text(path: Path) -> str:
    name = path.as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        readable = name.encode(errors="replace").decode()
        raise DataError(f"The name of the file {readable!r} is not valid UTF-8. Rename the file.") from error
    return name
