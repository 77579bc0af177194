"""The files of a folder: which are images, which folders are no data, and a count of all that is left out."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import PIL.Image

from hf_transfer import run_files

logger = logging.getLogger(__name__)

try:  # an optional extra; every process that decodes images imports this package, and so this module
    import pillow_heif  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:
    HEIF = False
else:
    pillow_heif.register_heif_opener()
    HEIF = True

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
IMAGE_SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *("avif", "bmp", "dib", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
) | (HEIF_SUFFIXES if HEIF else frozenset())
_SYSTEM_FOLDERS = frozenset(
    {
        *("__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "lost+found", "$recycle.bin"),
        *("recycler", "system volume information", "node_modules", "site-packages", "wandb", "mlruns"),
    }
)
_SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".gitkeep", ".gitignore"})
_RUN_MARKS = frozenset(
    {*run_files.EVIDENCE, run_files.DIAGNOSIS_FILE, run_files.EVALUATION_FILE, run_files.PROBE_FILE} - {"config.json"}
)
_FOLDERS_OF_RUNS = frozenset({"figures", run_files.SAMPLES, run_files.EARLIER_RUN, run_files.STAGING})
# What follows the last dot of a name such as "St. Peter 3" or "image.0007" is no suffix.
_SUFFIX = re.compile(r"\.(?=[^.]*[A-Za-z])[A-Za-z0-9_~-]{1,10}")
_SHOWN = 10


class LeftOut:
    """Counts the files and folders that are no data, for one warning."""

    def __init__(self) -> None:
        self._files: Counter[str] = Counter()
        self._named: dict[str, None] = {}

    def count(self, kind: str | None) -> None:
        """Count a file of a kind, as `kind_of` tells it."""
        if kind:
            self._files[kind] += 1

    def named(self, text: str) -> None:
        """Add what is named and not counted."""
        self._named.setdefault(text)

    def folder(self, folder: Path, why: str) -> None:
        """Name a folder, unless there is nothing in it."""
        try:
            empty = not any(folder.iterdir())
        except OSError:
            empty = False
        if not empty:
            self.named(f"the folder {folder.name!r} ({why})")

    def __str__(self) -> str:
        kinds = self._files.most_common()
        parts = [f"{count:,} {kind}{_advice(kind)}" for kind, count in kinds[:_SHOWN]]
        if len(kinds) > _SHOWN:
            parts.append(f"{sum(count for _, count in kinds[_SHOWN:]):,} other files")
        parts += list(self._named)[:_SHOWN]
        if len(self._named) > _SHOWN:
            parts.append(f"{len(self._named) - _SHOWN:,} more")
        return ", ".join(parts)

    def warn(self, split: str) -> None:
        """Warn once, if anything was left out."""
        if text := str(self):
            logger.warning("%s: left out are %s.", split, text)


def kind_of(path: Path) -> str | None:
    """What a file is, if no image: the suffix, or words; empty for files of the system. None for an image.

    A file without suffix is looked into.
    """
    name = path.name.lower()
    if name in _SYSTEM_FILES:
        return ""
    if name.startswith("."):
        return "hidden"
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return None
    if _SUFFIX.fullmatch(suffix):
        return suffix
    return None if _holds_image(path) else "without a suffix (no images)"


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its suffix; by its content if it has none."""
    return not path.is_dir() and kind_of(path) is None


def no_data(folder: Path) -> str | None:
    """Why a folder holds no data: it is hidden, of the system, or of a run; None if it may hold data."""
    name = folder.name.lower()
    if name in _SYSTEM_FOLDERS:
        return "of the system or of a tool"
    if name.startswith("."):
        return "hidden"
    if is_run(folder) or (name in _FOLDERS_OF_RUNS and is_run(folder.parent)):
        return "results of a run"
    return None


def is_run(folder: Path) -> bool:
    """Whether a folder holds the results of a run, or is a checkpoint."""
    return any((folder / name).exists() for name in _RUN_MARKS)


def subfolders(folder: Path, left_out: LeftOut | None = None) -> list[Path]:
    """The folders in a folder that may hold data, sorted; the others are counted."""
    found = []
    with os.scandir(folder) as entries:  # tells folders from files without asking for each
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    for entry in (folder / name for name in folders):
        why = no_data(entry)
        if why is None:
            found.append(entry)
        elif left_out is not None:
            left_out.folder(entry, why)
    return found


def walk(folder: Path, left_out: LeftOut | None = None) -> Iterator[Path]:
    """All files below a folder, in the order of their names; links are followed, but not in circles.

    Raises:
        PermissionError: A folder may not be read.
    """
    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        kept = []
        for entry in (Path(place) / name for name in sorted(folders)):
            why = no_data(entry)
            if why is not None:
                if left_out is not None:
                    left_out.folder(entry, why)
            elif os.path.realpath(entry) not in seen:
                kept.append(entry)
        folders[:] = [entry.name for entry in kept]
        seen.update(map(os.path.realpath, kept))
        yield from (Path(place) / name for name in sorted(files))


def images_in(folder: Path, left_out: LeftOut | None = None) -> Iterator[Path]:
    """All images below a folder; other files are counted."""
    for file in walk(folder, left_out):
        kind = kind_of(file)
        if kind is None:
            yield file
        elif left_out is not None:
            left_out.count(kind)


def has_image(folder: Path) -> bool:
    """Whether there is an image somewhere below a folder."""
    return next(images_in(folder), None) is not None


def contents(folder: Path) -> str:
    """What a folder holds besides images, in words that begin with a blank; empty if nothing."""
    left_out = LeftOut()
    for _ in images_in(folder, left_out):
        pass
    return f" It holds {text}." if (text := str(left_out)) else ""


def _holds_image(path: Path) -> bool:
    try:
        with PIL.Image.open(path):
            return True
    # Pillow's plugins raise almost anything on files that are no images.
    except Exception:
        return False


def _advice(kind: str) -> str:
    if kind in HEIF_SUFFIXES:
        return " (pip install 'hf-transfer-learning[heif]' reads them)"
    return " (archives: unpack them)" if kind in (".tar", ".zip", ".gz", ".tgz", ".7z", ".rar") else ""


def _raise(error: OSError) -> None:
    raise error
