"""Where the feature cache is, how large it may become, and what is thrown away first."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from hf_transfer.errors import CacheError
from hf_transfer.features.store import ENTRY_FILE, Entry, FeatureStore, in_use, is_in_use
from hf_transfer.utils.files import write_json

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "HF_TRANSFER_CACHE"
# Of the default cap: room for 100,000 images of features, or 10,000 of a ViT's tokens.
DEFAULT_CACHE_GB = 20.0
# What a full disk would break first is not ours.
SPARE_BYTES = 256 * 2**20
_USED = "used"
_NOTES = "notes"


def default_cache_folder() -> Path:
    """`HF_TRANSFER_CACHE`, else `hf_transfer/features` in the home of Hugging Face's caches (`HF_HOME`)."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(constants.HF_HOME) / "hf_transfer" / "features"


class CacheFolder:
    """A folder of feature stores, one for each key.

    Args:
        root: None takes `default_cache_folder`.
        cap_gb: Most that all stores together may take, in GB (10^9 bytes); None takes `DEFAULT_CACHE_GB`.
    """

    def __init__(self, root: Path | str | None = None, cap_gb: float | None = None) -> None:
        self.root = default_cache_folder() if root is None else Path(root)
        self.cap_bytes = int((DEFAULT_CACHE_GB if cap_gb is None else cap_gb) * 1e9)

    def open(self, key: str) -> FeatureStore | None:
        """The store of a key, if there is one."""
        return FeatureStore.open(self.root / key)

    def stores(self) -> Iterator[FeatureStore]:
        """All stores that can be used, in no order."""
        for key, _, _ in self._stores():
            store = self.open(key)
            if store is not None:
                yield store

    def create(self, key: str, entry: Entry) -> FeatureStore:
        """The store of a key, made if it is not there; the least recently used ones make room for it.

        Raises:
            CacheError: It is larger than the cap or than the disk's free space, or the folder cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"The feature cache's folder {self.root} cannot be made: {error.strerror or error}. Choose another "
                f"with {CACHE_VARIABLE}, or use --cache_features off."
            ) from error
        opened = self.open(key)
        if opened is None or opened.entry.nbytes != entry.nbytes:
            self.make_room(entry.nbytes, key)
        return FeatureStore.create(self.root / key, entry)

    @contextlib.contextmanager
    def using(self, key: str) -> Iterator[None]:
        """Note the use of a store, and protect it from eviction while the context lasts."""
        self.root.mkdir(parents=True, exist_ok=True)
        with in_use(self.root / key):
            self.touch(key)
            yield

    def touch(self, key: str) -> None:
        """Note that a store was used now."""
        if (self.root / key).is_dir():
            (self.root / key / _USED).touch()

    def why_not(self, nbytes: int) -> str | None:
        """Why a new store of a size cannot be held, even after eviction; None if it can."""
        if nbytes > self.cap_bytes:
            return f"it needs {nbytes / 1e9:.2f} GB, more than the cap of {self.cap_bytes / 1e9:.2f} GB (--cache_gb)"
        free = self._free_bytes() + sum(size for _, size in self._evictable())
        if nbytes + SPARE_BYTES > free:
            return f"it needs {nbytes / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} GB free"
        return None

    def make_room(self, nbytes: int, key: str = "") -> list[str]:
        """Evict the least recently used stores until a new one fits.

        Args:
            nbytes: Size of the new store.
            key: Key of the new store, which is not evicted.

        Returns:
            Keys of the evicted stores.

        Raises:
            CacheError: It cannot fit.
        """
        reason = self.why_not(nbytes)
        if reason is not None:
            raise CacheError(
                f"The features cannot be kept: {reason}. Raise --cache_gb, free space, or choose another folder with "
                f"{CACHE_VARIABLE}."
            )
        evicted = []
        for name, size in self._evictable():
            if self.size() + nbytes <= self.cap_bytes and self._free_bytes() >= nbytes + SPARE_BYTES:
                break
            if name != key:
                self.remove(name)
                evicted.append(name)
                logger.info("Evicted %s (%.2f GB) from the feature cache.", name, size / 1e9)
        return evicted

    def remove(self, key: str) -> None:
        """Remove a store; those who have it open can keep reading it."""
        gone = self.root / f".removed-{key}-{os.getpid()}"
        with contextlib.suppress(OSError):
            (self.root / key).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            (self.root / f"{key}.lock").unlink(missing_ok=True)

    def note(self, key: str, facts: Mapping[str, Any]) -> None:
        """Keep what was found out once, such as whether a cut is exact; small, and never evicted."""
        with contextlib.suppress(OSError):  # a note that cannot be kept is only found out again
            (self.root / _NOTES).mkdir(parents=True, exist_ok=True)
            write_json(self.root / _NOTES / f"{key}.json", dict(facts))

    def noted(self, key: str) -> dict[str, Any] | None:
        """What was noted under a key."""
        try:
            facts = json.loads((self.root / _NOTES / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None

    def size(self) -> int:
        """Bytes that all stores take."""
        return sum(size for _, size, _ in self._stores())

    def _evictable(self) -> list[tuple[str, int]]:
        """Key and size of the stores that nobody uses, the least recently used first."""
        stores = sorted(self._stores(), key=lambda store: store[2])
        return [(name, size) for name, size, _ in stores if not is_in_use(self.root / name)]

    def _stores(self) -> Iterator[tuple[str, int, int]]:
        """Key, bytes and time of last use of each store."""
        if not self.root.is_dir():
            return
        for folder in self.root.iterdir():
            with contextlib.suppress(OSError):
                if folder.name.startswith(".") or not (folder / ENTRY_FILE).is_file():
                    continue
                used = folder / _USED if (folder / _USED).exists() else folder / ENTRY_FILE
                yield folder.name, sum(f.stat().st_size for f in folder.iterdir()), used.stat().st_mtime_ns

    def _free_bytes(self) -> int:
        there = next(path for path in (self.root, *self.root.parents) if path.exists())
        return shutil.disk_usage(there).free
