"""Image folders: `class/file.jpg`, or `train/class/file.jpg` with `validation` or `test` next to `train`."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, Features, Image, Value

from hf_transfer.data.files import LeftOut, contents, has_image, images_in, is_image, kind_of, subfolders
from hf_transfer.data.labels import shown
from hf_transfer.data.raw import RawSplit
from hf_transfer.data.spelling import normalised
from hf_transfer.data.splits import SPLITS, TEST, TRAIN, by_split, split_of, weak_split_of
from hf_transfer.data.tables import TABLE_SUFFIXES
from hf_transfer.errors import DataError

logger = logging.getLogger(__name__)

# Names of folders that hold images whatever their class.
_CONTAINER = re.compile(
    r"(images?|imgs?|masks?|annotations?|labels?|annots?|pictures?|pics|photos?|files?|thumbnails?|jpegimages|data"
    r"|(.*[\W_])?(images?|parts?|batch|chunk|fold|shard|set|folder|dir|group|split|data|subset|part)[\W_]*\d+)",
    re.IGNORECASE,
)
_NEVER_A_CLASS = re.compile(r"images?|imgs?|masks?|annotations?|labels?|pictures?|photos?|thumbnails?", re.IGNORECASE)


@dataclass(frozen=True)
class ImageSplit:
    """The folders of a split.

    Attributes:
        folder: Holds the folders of the classes, and loose files, which are counted; None if no folder is the split's.
        classes: Label and folder of each class, in the order of the folders.
    """

    folder: Path | None
    classes: tuple[tuple[str, Path], ...]


def is_container(name: str) -> bool:
    """Whether a folder's name says that it holds images of any class, such as `images` or `part_1`."""
    return _CONTAINER.fullmatch(name) is not None


def find_image_splits(folder: Path, known: Collection[str] = ()) -> dict[str, ImageSplit]:
    """The folders of classes in each split of an image folder; empty if no subfolder holds images.

    A class may be called "train", like the vehicle: folders are splits only if they hold folders of classes.

    Args:
        folder: The image folder.
        known: Names that are classes wherever they are.

    Raises:
        DataError: A split has images that are in no class's folder, or none at all.
    """
    inside = subfolders(folder)
    split_folders = _split_folders(inside)
    named = [entry for entry in inside if entry in split_folders.values() or split_of(entry.name)]
    others = [entry.name for entry in inside if entry not in named and has_image(entry)]
    if not any(_has_classes(entry) for entry in split_folders.values()) and others:
        return _plain(folder)
    if not any(has_image(entry) for entry in split_folders.values()):
        return {}
    warn_beside(folder, others)
    labelled = {split: entry for split, entry in split_folders.items() if _is_labelled(split, entry)}
    return {
        split: ImageSplit(entry, _classes(entry)) for split, entry in _descended(folder, labelled, set(known)).items()
    }


def only_child(folder: Path, known: Collection[str] = ()) -> Path | None:
    """The only folder with images in a folder, if it holds folders itself and is no class; archives unpack so."""
    found = [entry for entry in subfolders(folder) if has_image(entry)]
    if len(found) != 1 or normalised(found[0].name) in known:
        return None
    loose = any(is_image(entry) for entry in (*folder.iterdir(), *found[0].iterdir()))
    return None if loose else found[0]


def read_image_folder(root: Path, split: str, source: ImageSplit) -> RawSplit:
    """List the images of a split, with the first folder below it as their label.

    Args:
        root: Root of the data set: names are relative to it.
        split: For messages.
        source: The folders.

    Raises:
        DataError: A file name is no valid text.
    """
    paths: list[str] = []
    labels: list[str] = []
    names: list[str] = []
    left_out = LeftOut()
    for label, class_folder in source.classes:
        before = len(paths)
        for file in images_in(class_folder, left_out):
            names.append(_text(file.relative_to(root)))
            paths.append(str(file.absolute()))
            labels.append(_text(Path(label)))
        if len(paths) == before:
            logger.warning("The folder %s in %s holds no images: no such class is made.", class_folder.name, split)
    if source.folder is not None:
        _count_loose(source.folder, left_out, "images outside of the class folders")
    left_out.warn(split)
    features = Features({"image": Image(decode=False), "label": Value("string")})
    columns = {"image": [{"bytes": None, "path": path} for path in paths], "label": labels}
    return RawSplit(Dataset.from_dict(columns, features=features), root, tuple(names))


def check_are_classes(splits: Mapping[str, ImageSplit]) -> None:
    """Check that the folders are classes, by their names.

    Raises:
        DataError: All are called as folders are that hold images of any class, such as `images` and `masks`, or
            `part_1` and `part_2` with the same folders in each.
    """
    classes = {label: entry for split in splits.values() for label, entry in split.classes if has_image(entry)}
    if len(classes) < 2:
        return
    inner = [tuple(entry.name for entry in subfolders(folder)) for folder in classes.values()]
    same = len(inner[0]) > 1 and len(set(inner)) == 1 and not any(map(split_of, inner[0]))
    containers = all(map(is_container, classes))
    if all(map(_NEVER_A_CLASS.fullmatch, classes)) or (containers and same):
        raise DataError(
            f"The folders {shown(list(classes))} do not look like classes. Put the images of each class into a folder "
            "of its name, or add a table with the columns image and label. --labels folders takes them as classes."
        )
    if containers:
        logger.warning("The folders %s are taken as classes, though their names say nothing.", shown(list(classes)))
    elif same:
        logger.warning(
            "The classes are %s. Each of these folders holds the folders %s: if they are the classes, name one of the "
            "folders that hold them as data set.",
            shown(list(classes)),
            shown(list(inner[0])),
        )


def _split_folders(inside: list[Path]) -> dict[str, Path]:
    """The folders that are named as splits.

    Other names, such as `training_set`, count for folders of classes beside a `train` of this kind.
    """
    exact = by_split((entry.name, entry) for entry in inside if split_of(entry.name))
    weak = [entry for entry in inside if (found := weak_split_of(entry.name)) and found not in exact]
    weak = [entry for entry in weak if _has_classes(entry)]
    train = [entry for entry in weak if weak_split_of(entry.name) == TRAIN]
    others = [entry for entry in inside if entry not in (*exact.values(), *weak) and has_image(entry)]
    if TRAIN in exact and _has_classes(exact[TRAIN]):
        counted = weak
    else:
        counted = weak if train and len(weak) + len(exact) > 1 and not others else []
    more = by_split((str(weak_split_of(entry.name)), entry) for entry in _distinct(counted))
    return {split: (exact | more)[split] for split in SPLITS if split in exact or split in more}


def _distinct(weak: list[Path]) -> list[Path]:
    """Check that no two folders mean the same split."""
    by_meaning: dict[str | None, Path] = {}
    for entry in weak:
        first = by_meaning.setdefault(weak_split_of(entry.name), entry)
        if first is not entry:
            raise DataError(
                f"{first.name!r} and {entry.name!r} both mean the {weak_split_of(entry.name)} split. Rename or remove "
                "one of them."
            )
    return weak


def _classes(folder: Path) -> tuple[tuple[str, Path], ...]:
    return tuple((entry.name, entry) for entry in subfolders(folder))


def _plain(folder: Path) -> dict[str, ImageSplit]:
    """Folders of classes without splits, or with the splits inside of the classes."""
    classes = _classes(folder)
    inner = {label: {entry.name: entry for entry in subfolders(entry) if has_image(entry)} for label, entry in classes}
    inner = {label: found for label, found in inner.items() if found or has_image(folder / label)}
    divided = {
        label: by_split(found.items())
        for label, found in inner.items()
        if found and all(map(split_of, found)) and not any(map(is_image, (folder / label).iterdir()))
    }
    words = {split for found in divided.values() for split in found}
    if TRAIN not in words or len(words) < 2:
        return {TRAIN: ImageSplit(folder, classes)}
    if len(divided) < len(inner):
        rest = [label for label in inner if label not in divided]
        raise DataError(
            f"The folders of the classes {', '.join(list(divided)[:5])} hold folders of splits, those of "
            f"{', '.join(rest[:5])} do not. Arrange all of them as train/class/file.jpg."
        )
    logger.warning("%s: the splits %s are taken from inside the class folders.", folder.resolve().name, _listed(words))
    return {
        split: ImageSplit(None, tuple((label, found[split]) for label, found in divided.items() if split in found))
        for split in SPLITS
        if split in words
    }


def _listed(words: Collection[str]) -> str:
    return ", ".join(split for split in SPLITS if split in words)


def _descended(root: Path, splits: dict[str, Path], known: set[str]) -> dict[str, Path]:
    """The folders of the splits, or the only folder in each, as in `train/train/class/file.jpg`."""
    children = {split: [e.name for e in subfolders(entry) if has_image(e)] for split, entry in splits.items()}
    classes = known | {normalised(name) for names in children.values() if len(names) > 1 for name in names}
    found = {}
    for split, entry in splits.items():
        child = only_child(entry, classes)
        if child is not None and len([e for e in subfolders(child) if has_image(e)]) > 1:
            logger.warning("%s: the classes are the folders in %s.", split, child.relative_to(root).as_posix())
            entry = child
        found[split] = entry
    return found


def warn_beside(folder: Path, others: Sequence[str] = ()) -> None:
    """Name what lies beside the folders that are read."""
    if others:
        logger.warning(
            "%s has splits; the folders %s next to them hold images, too, and are left out.",
            folder.resolve().name,
            ", ".join(others[:10]),
        )
    left_out = LeftOut()
    _count_loose(folder, left_out, "images outside of the splits")
    left_out.warn(folder.resolve().name)


def _count_loose(folder: Path, left_out: LeftOut, images: str) -> None:
    subfolders(folder, left_out)
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            continue
        if entry.suffix.lower() in TABLE_SUFFIXES and not entry.name.startswith("."):
            left_out.named(entry.name)
            continue
        kind = kind_of(entry)
        left_out.count(images if kind is None else kind)


def _has_classes(folder: Path) -> bool:
    return any(has_image(entry) for entry in subfolders(folder))


def _is_labelled(split: str, folder: Path) -> bool:
    if _has_classes(folder):
        return True
    if not has_image(folder):
        raise DataError(
            f"The folder {folder.name!r} of the {split} split holds no images.{contents(folder)} Fill it or remove it."
        )
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
