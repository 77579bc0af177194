"""Reading of labelled images in any of their forms, before anything is checked.

A data set is a Hub id, an image folder, a CSV, JSON Lines or Parquet file, a folder of such files named by split, or a
folder written by `save_to_disk`.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from hf_transfer.data.choosing import Wanted, choose_tables, has_table
from hf_transfer.data.files import IMAGE_SUFFIXES, contents, has_image, is_image, subfolders
from hf_transfer.data.hub import read_hub, read_saved
from hf_transfer.data.image_folders import check_are_classes, find_image_splits, read_image_folder, warn_beside
from hf_transfer.data.labels import shown
from hf_transfer.data.raw import RawData, RawSplit
from hf_transfer.data.sidecars import find_sidecars, read_sidecars
from hf_transfer.data.spelling import normalised
from hf_transfer.data.splits import TRAIN, split_in, split_of
from hf_transfer.data.tables import TABLE_SUFFIXES, all_tables, read_table, read_tables
from hf_transfer.errors import DataError

logger = logging.getLogger(__name__)

_FORMS = (
    "an image folder (class/file.jpg, or train/class/file.jpg with validation or test next to it), a CSV, JSON Lines "
    "or Parquet file, a folder of such files named by split (train.csv, test.csv), a folder written by save_to_disk, "
    "or a Hub id (owner/name)"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def read_source(
    dataset: str, wanted: Wanted, *, revision: str | None = None, config_name: str | None = None
) -> RawData:
    """Find out what form a data set has, and read it.

    Args:
        dataset: Path or Hub id.
        wanted: What the user says; without `require_train` a single file called `test.csv` is the test split.
        revision: Revision of a Hub data set.
        config_name: Configuration of a Hub data set.

    Raises:
        DataError: Nothing is found, or nothing that can be used.
    """
    path = Path(dataset).expanduser()
    if path.is_dir():
        try:
            return RawData(_read_folder(path, wanted), path.resolve().name)
        except PermissionError as error:
            raise DataError(f"The folder {path.resolve().name!r} may not be read: {error.strerror}.") from error
    if path.is_file():
        _check_labels_are_in_a_table(wanted, path.name)
        split = TRAIN if wanted.require_train else split_in(path.stem) or TRAIN
        return RawData({split: _read_file(path)}, path.name)
    suffix = path.suffix.lower()
    if not _HUB_ID.fullmatch(dataset) or suffix in (*TABLE_SUFFIXES, *IMAGE_SUFFIXES, *_ARCHIVES):
        raise DataError(f"There is no file or folder {dataset!r}. Expected {_FORMS}. Check the path.")
    _check_labels_are_in_a_table(wanted, dataset)
    return read_hub(dataset, revision, config_name)


def _read_file(path: Path) -> RawSplit:
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        return read_table(path)
    advice = " Unpack the archive first." if suffix in _ARCHIVES else ""
    raise DataError(f"{path.name!r} is no data set that can be read: expected {_FORMS}.{advice}")


def _check_labels_are_in_a_table(wanted: Wanted, name: str) -> None:
    if wanted.labels == "folders":
        raise DataError(f"--labels folders needs a folder with a folder for each class, and {name!r} is a table.")


def _read_folder(folder: Path, wanted: Wanted) -> dict[str, RawSplit]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return read_saved(folder)
    if wanted.labels != "folders":
        tables = choose_tables(folder, wanted)
        if tables:
            return read_tables(tables)
        sidecars = find_sidecars(folder)
        if sidecars:
            return {split: read_sidecars(folder, split, source) for split, source in sidecars.items()}
    child = _only_folder(folder, wanted)
    if child is not None:
        logger.warning("%s: the data set is the only folder with images in it, %s.", _name(folder), child.name)
        warn_beside(folder)
        return _read_folder(child, wanted)
    splits = {} if wanted.labels == "table" else find_image_splits(folder, wanted.known)
    if splits:
        if wanted.labels is None:
            check_are_classes(splits)
        return {split: read_image_folder(folder, split, source) for split, source in splits.items()}
    return _read_lone_table(folder, wanted)


def _only_folder(folder: Path, wanted: Wanted) -> Path | None:
    """The only folder with images in a folder, if it is a data set and no class; archives unpack so."""
    found = [entry for entry in subfolders(folder) if has_image(entry)]
    if len(found) != 1 or split_of(found[0].name) or normalised(found[0].name) in wanted.known:
        return None
    child = found[0]
    if any(map(is_image, folder.iterdir())):
        return None
    if wanted.labels != "folders" and (has_table(child, wanted) or find_sidecars(child)):
        return child
    return None if any(map(is_image, child.iterdir())) else child


def _read_lone_table(folder: Path, wanted: Wanted) -> dict[str, RawSplit]:
    tables = all_tables(folder) if wanted.labels != "folders" else []
    if len(tables) == 1:
        return {TRAIN: read_table(tables[0])}
    name = _name(folder)
    if tables:
        found = shown([table.name for table in tables])
        raise DataError(
            f"The folder {name!r} holds the tables {found}: name one of them as the data set, or call them train and "
            "test."
        )
    if wanted.labels == "table":
        raise DataError(f"--labels table needs a table with columns of images and labels in the folder {name!r}.")
    if any(map(is_image, folder.iterdir())):
        raise DataError(
            f"The folder {name!r} holds images without labels. Put those of each class into a folder with the name of "
            "the class, add a table metadata.csv with the columns file_name and label, or a file 0001.cls with the "
            "label beside each image 0001.jpg."
        )
    raise DataError(f"The folder {name!r} holds no images.{contents(folder)} Expected {_FORMS}.")


def _name(folder: Path) -> str:
    return folder.resolve().name
