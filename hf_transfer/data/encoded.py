"""Columns of images of any type as one type: encoded images, `{"bytes", "path"}`, that are not decoded yet."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, Value

from hf_transfer.data.columns import is_image_feature
from hf_transfer.data.raw import RawSplit
from hf_transfer.errors import DataError

FEATURES = Features({"image": Image(decode=False)})


def encoded_images(raw: RawSplit, column: str) -> Dataset:
    """The images of a split as a data set with the single column "image", not decoded.

    Images that are stored in the table stay where they are, mapped from disk where they are now; paths become
    absolute; arrays of pixels `(height, width)` or `(height, width, channels)` become PNG files in memory.

    Raises:
        DataError: The column holds arrays that are no pixels from 0 to 255.
    """
    feature = raw.table.features[column]
    table = raw.table.select_columns([column])
    if column != "image":
        table = table.rename_column(column, "image")
    if table._indices is not None:
        table = table.flatten_indices(keep_in_memory=True)
    if is_image_feature(feature):
        return _with_absolute_paths(table.cast_column("image", Image(decode=False)), raw.folder)
    if isinstance(feature, Value) and "binary" in feature.dtype:
        return _from_columns(table.data.column("image").to_pylist(), [None] * len(table))
    if isinstance(feature, Value):
        if raw.folder is None:
            raise DataError(
                f"Column {column!r} holds text, not images, and a data set of the Hub cannot name files of this "
                "machine. Name the column with the images with --image_column."
            )
        paths = table.data.column("image").to_pylist()
        return _from_columns([None] * len(table), [_absolute(path, raw.folder) for path in paths])
    rows = table.with_format(None)
    return _from_columns([_png(rows[row]["image"], column) for row in range(len(rows))], [None] * len(rows))


def image_names(raw: RawSplit, column: str, split: str) -> tuple[str, ...]:
    """What to call the images of a split: the relative path where the table has paths, else split and row.

    Args:
        raw: The split.
        column: Column of the images.
        split: For the names.
    """
    if raw.names is not None:
        return raw.names
    feature = raw.table.features[column]
    if not isinstance(feature, Value) or "string" not in feature.dtype:
        return tuple(f"{split}/{row}" for row in range(len(raw.table)))
    values = raw.table.select_columns([column]).with_format(None)[:][column]
    return tuple(_relative(value, raw.folder) or f"{split}/{row}" for row, value in enumerate(values))


def _relative(path: str | None, folder: Path | None) -> str | None:
    if not path:
        return path
    pure = Path(path)
    if folder is not None and pure.is_absolute() and pure.is_relative_to(folder.absolute()):
        return pure.relative_to(folder.absolute()).as_posix()
    if pure.is_absolute() or path.startswith("~") or "://" in path or "\\" in path:
        return PurePosixPath(path.replace("\\", "/")).name
    return PurePosixPath(path).as_posix()


def _is_relative(path: str | None) -> bool:
    return bool(path) and "://" not in str(path) and not Path(str(path)).is_absolute()


def _absolute(path: str | None, folder: Path) -> str | None:
    return str(folder.absolute() / str(path)) if _is_relative(path) else path


def _with_absolute_paths(table: Dataset, folder: Path | None) -> Dataset:
    stored: pa.ChunkedArray = table.data.column("image")
    paths = pc.struct_field(stored, "path").to_pylist()
    contents = pc.struct_field(stored, "bytes")
    without = pc.is_null(contents).to_pylist()
    # Beside stored bytes the path is only the name that the image once had.
    if folder is None or not any(empty and _is_relative(path) for empty, path in zip(without, paths, strict=True)):
        return table
    return _from_columns(contents.to_pylist(), [_absolute(path, folder) for path in paths])


def _from_columns(contents: Sequence[bytes | None], paths: Sequence[str | None]) -> Dataset:
    images = [{"bytes": content, "path": path} for content, path in zip(contents, paths, strict=True)]
    return Dataset.from_dict({"image": images}, features=FEATURES)


def _png(values: Any, column: str) -> bytes | None:
    if values is None:
        return None
    pixels = np.asarray(values)
    known_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    if not known_shape or not np.issubdtype(pixels.dtype, np.integer) or pixels.min() < 0 or pixels.max() > 255:
        raise DataError(
            f"Column {column!r} holds arrays of shape {pixels.shape} and type {pixels.dtype}; expected pixels as "
            "whole numbers from 0 to 255, of shape (height, width) or (height, width, 1, 3 or 4). Convert them, or "
            "name another column with --image_column."
        )
    buffer = BytesIO()
    squeezed = pixels.astype(np.uint8).squeeze(2) if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    PIL.Image.fromarray(squeezed.astype(np.uint8)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
