"""Reading of labelled images in any of their forms, before anything is checked.

A data set is a Hub id, an image folder, a CSV, JSON Lines or Parquet file, a folder of such files named by split, or a
folder written by `save_to_disk`.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from hf_transfer.data.hub import read_hub, read_saved
from hf_transfer.data.image_folders import IMAGE_SUFFIXES, find_image_splits, read_image_folder, subfolders
from hf_transfer.data.raw import RawData, RawSplit
from hf_transfer.data.splits import TRAIN, by_split, split_in
from hf_transfer.data.tables import TABLE_SUFFIXES, find_metadata, find_tables, read_table, read_tables
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
    dataset: str, *, revision: str | None = None, config_name: str | None = None, require_train: bool = True
) -> RawData:
    """Find out what form a data set has, and read it.

    Args:
        dataset: Path or Hub id.
        revision: Revision of a Hub data set.
        config_name: Configuration of a Hub data set.
        require_train: Whether a single file is `train` even if it is called `test.csv`.

    Raises:
        DataError: Nothing is found, or nothing that can be used.
    """
    path = Path(dataset).expanduser()
    if path.is_dir():
        try:
            return RawData(_read_folder(path), path.resolve().name)
        except PermissionError as error:
            raise DataError(f"The folder {path.resolve().name!r} may not be read: {error.strerror}.") from error
    if path.is_file():
        split = TRAIN if require_train else split_in(path.stem) or TRAIN
        return RawData({split: _read_file(path)}, path.name)
    suffix = path.suffix.lower()
    if not _HUB_ID.fullmatch(dataset) or suffix in (*TABLE_SUFFIXES, *IMAGE_SUFFIXES, *_ARCHIVES):
        raise DataError(f"There is no file or folder {dataset!r}. Expected {_FORMS}. Check the path.")
    return read_hub(dataset, revision, config_name)


def _read_file(path: Path) -> RawSplit:
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        return read_table(path)
    advice = " Unpack the archive first." if suffix in _ARCHIVES else ""
    raise DataError(f"{path.name!r} is no data set that can be read: expected {_FORMS}.{advice}")


def _read_folder(folder: Path) -> dict[str, RawSplit]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return read_saved(folder)
    tables = find_tables(folder) or find_tables(folder / "data")
    if tables:
        return read_tables(tables)
    metadata = find_metadata(folder)
    if metadata is not None:
        return {TRAIN: read_table(metadata)}
    described = {entry: find_metadata(entry) for entry in subfolders(folder)}
    tables = by_split((entry.name, [table]) for entry, table in described.items() if table is not None)
    if tables:
        return read_tables(tables)
    splits = find_image_splits(folder)
    if splits:
        return {split: read_image_folder(folder, split, source) for split, source in splits.items()}
    return _read_lone_table(folder)


def _read_lone_table(folder: Path) -> dict[str, RawSplit]:
    entries = sorted(folder.iterdir())
    tables = [entry for entry in entries if entry.suffix.lower() in TABLE_SUFFIXES and not entry.name.startswith(".")]
    if len(tables) == 1:
        return {TRAIN: read_table(tables[0])}
    name = folder.resolve().name
    if tables:
        found = ", ".join(table.name for table in tables)
        raise DataError(
            f"The folder {name!r} holds the tables {found}: name one of them as the data set, or call them train and "
            "test."
        )
    if any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries):
        raise DataError(
            f"The folder {name!r} holds images without labels. Put those of each class into a folder with the name of "
            "the class, or add a table metadata.csv with the columns file_name and label."
        )
    raise DataError(f"The folder {name!r} holds no images. Expected {_FORMS}.")
