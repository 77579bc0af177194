"""Data sets of the Hub, and folders written by `save_to_disk`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from huggingface_hub import is_offline_mode

from hf_transfer.data.raw import RawData, RawSplit
from hf_transfer.data.splits import TRAIN, by_split, split_of
from hf_transfer.errors import DataError

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"(?:^|@)([0-9a-f]{40})\b")


def read_hub(hub_id: str, revision: str | None = None, config_name: str | None = None) -> RawData:
    """Load a data set of the Hub, or from the cache of an earlier load; never runs code of a repository.

    Raises:
        DataError: It cannot be loaded, or needs a configuration to be chosen.
    """
    try:
        loaded = load_dataset(hub_id, name=config_name, revision=revision)
    # Network, authorisation, parsing: the library and its HTTP client raise errors of many unrelated classes.
    except Exception as error:
        raise DataError(_not_loaded(hub_id, error)) from error
    splits = _splits_of(loaded, hub_id)
    tables = [split.table for split in splits.values()]
    return RawData(splits, hub_id, hub_id, _commit(tables) or revision)


def read_saved(folder: Path) -> dict[str, RawSplit]:
    """Open a folder written by `save_to_disk`.

    Raises:
        DataError: It is damaged, or of another version.
    """
    name = folder.resolve().name
    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The folder {name!r} looks as if written by save_to_disk, but cannot be loaded ({error}). Write it again."
        ) from error
    return {split: RawSplit(raw.table, folder) for split, raw in _splits_of(loaded, name).items()}


def _splits_of(loaded: Dataset | DatasetDict, name: str) -> dict[str, RawSplit]:
    if isinstance(loaded, Dataset):
        return {TRAIN: RawSplit(loaded)}
    if len(loaded) == 1 and split_of(next(iter(loaded))) is None:
        logger.warning("%s has the split %r alone: it is taken as train.", name, next(iter(loaded)))
        return {TRAIN: RawSplit(next(iter(loaded.values())))}
    splits = by_split((split, RawSplit(table)) for split, table in loaded.items())
    others = [split for split in loaded if split_of(split) is None]
    if others:
        logger.warning("%s: the splits %s are left out.", name, ", ".join(others))
    if not splits:
        raise DataError(f"{name} has the splits {', '.join(loaded)}; expected train, validation or test among them.")
    return splits


def _not_loaded(hub_id: str, error: Exception) -> str:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
    if "config" in str(error).lower() and "missing" in str(error).lower():
        names = ", ".join(re.findall(r"'([^']+)'", str(error))[:20])
        return f"The data set {hub_id!r} has several configurations: choose one of {names} with --dataset_config."
    start = f"There is no file or folder {hub_id!r}, and no data set of this name could be loaded from the Hub"
    if is_offline_mode():
        return (
            f"{start}, since the Hub is switched off (HF_HUB_OFFLINE=1) and the cache does not have it. Check the "
            "path, or unset HF_HUB_OFFLINE and load it once."
        )
    return f"{start} ({said}). Check the spelling, the connection, and your access to it (`hf auth login`)."


def _commit(tables: Iterable[Dataset]) -> str | None:
    """The commit that the data were loaded from, be it from the cache: its folder there is named by the commit."""
    for table in tables:
        folders = [Path(file["filename"]).parent.name for file in table.cache_files]
        for text in (*folders, *(table.info.download_checksums or ())):
            found = _COMMIT.search(text)
            if found:
                return found.group(1)
    return None
