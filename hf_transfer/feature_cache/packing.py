"""Stored rows on their way through a data loader: packed into one tensor in the place of the image.

A packed row is the bytes of the stored row and a trailer that says which image and which store it belongs to.
Collators stack it as they stack images, samplers never see a difference, and the model's forward hook unpacks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from hf_transfer.errors import DataError
from hf_transfer.feature_cache.cut import Captured
from hf_transfer.features.extraction import Columns
from hf_transfer.features.reading import PIXELS, Row
from hf_transfer.features.store import FeatureStore
from hf_transfer.utils.files import replacing

CONSTANTS_FILE = "constants.safetensors"
_KEY = "key:"
_TRAILER = np.dtype([("image", "<i8"), ("stamp", "<i8")])
# Stored as float32, which holds it exactly; NumPy does not know it.
_STORED_AS = {torch.bfloat16: torch.float32}


@dataclass(frozen=True)
class RowLayout:
    """How a captured row is stored.

    Attributes:
        dtypes: Type of each captured tensor, as torch's name, such as "float32".
        channels_last: For each, whether its memory is `(height, width, channels)`, which is then stored so.
        keys: Names of the other values of a row (labels), each with its kind: "int", "float", "bool", "list",
            "ndarray" or "tensor".
    """

    dtypes: tuple[str, ...]
    channels_last: tuple[bool, ...]
    keys: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, captured: Captured, row: Row) -> RowLayout:
        """The layout for captured tensors and for a row of the data set."""
        last = tuple(
            t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
            for t in captured.rows
        )
        kinds = ((key, _kind(value)) for key, value in row.items() if key != PIXELS)
        names = tuple(str(t.dtype).removeprefix("torch.") for t in captured.rows)
        return cls(names, last, tuple((key, kind) for key, kind in kinds if kind is not None))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"dtypes": list(self.dtypes), "channels_last": list(self.channels_last), "keys": list(self.keys)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RowLayout:
        """Inverse of `to_dict`."""
        keys = tuple((str(key), str(kind)) for key, kind in data["keys"])
        return cls(tuple(data["dtypes"]), tuple(data["channels_last"]), keys)

    def columns(self, captured: Captured, rows: Sequence[Row]) -> Columns:
        """Columns of a store for a batch.

        Raises:
            DataError: The rows' other values are not alike in kind and shape.
        """
        columns: dict[str, npt.NDArray[Any]] = {}
        for number, (tensor, last) in enumerate(zip(captured.rows, self.channels_last, strict=True)):
            plain = tensor.detach().to(_STORED_AS.get(tensor.dtype, tensor.dtype))
            plain = plain.permute(0, 2, 3, 1) if last else plain
            columns[f"x{number}"] = plain.contiguous().cpu().numpy()
        for key, kind in self.keys:
            try:
                if any(_kind(row[key]) != kind for row in rows):
                    raise TypeError("of several kinds")
                columns[_KEY + key] = np.stack([np.asarray(row[key]) for row in rows])
            except (TypeError, ValueError, KeyError) as error:
                raise DataError(f"The values of {key!r} differ in kind or shape between images: {error}.") from error
        return columns


def without_image(row: Row) -> dict[str, Any]:
    """A row's other values as they come back from a store."""
    kinds = {key: _kind(value) for key, value in row.items() if key != PIXELS}
    return {key: _restored(np.asarray(row[key]), kind) for key, kind in kinds.items() if kind is not None}


class Packer:
    """Rows of a store in packed form.

    Args:
        store: Filled.
        images: Number of images; the store has this number of rows for each view.
        stamp: Tells rows of this store from those of others.
    """

    def __init__(self, store: FeatureStore, images: int, stamp: int) -> None:
        self.store = store
        self.layout = RowLayout.from_dict(store.entry.facts["layout"])
        self.images = images
        self.stamp = stamp
        self.width = store.entry.dtype.itemsize + _TRAILER.itemsize
        self.constants = load_constants(store.folder)

    def row(self, index: int, epoch: int = 0) -> dict[str, Any]:
        """The row of an image: what the data set gives, packed."""
        index %= self.images  # negative numbers count from the end
        view = epoch % (self.store.entry.rows // self.images)
        stored = self.store.rows[view * self.images + index]
        packed = np.empty(self.width, np.uint8)
        packed[: -_TRAILER.itemsize] = np.frombuffer(stored.tobytes(), np.uint8)
        trailer = np.array((index, self.stamp), _TRAILER)
        packed[-_TRAILER.itemsize :] = np.frombuffer(trailer.tobytes(), np.uint8)
        values = {key: _restored(stored[_KEY + key], kind) for key, kind in self.layout.keys}
        return {PIXELS: torch.from_numpy(packed), **values}

    def unpack(self, packed: torch.Tensor) -> Captured | None:
        """What was captured of a packed batch; None for anything that is no packed batch of this store."""
        if not is_packed(packed) or packed.shape[1] != self.width or stamps(packed) != {self.stamp}:
            return None
        rows = []
        kind = self.store.entry.dtype
        assert kind.fields is not None
        for number, (name, last) in enumerate(zip(self.layout.dtypes, self.layout.channels_last, strict=True)):
            column, start = kind.fields[f"x{number}"][:2]
            dtype = getattr(torch, name)
            stored = packed[:, start : start + column.itemsize].contiguous().view(_STORED_AS.get(dtype, dtype))
            tensor = stored.reshape(len(packed), *column.shape).to(dtype)
            rows.append(tensor.permute(0, 3, 1, 2) if last else tensor)
        return Captured(tuple(rows), tuple(constant.to(packed.device) for constant in self.constants))


def is_packed(value: Any) -> bool:
    """Whether a value is a batch of packed rows; images are never of this type and shape."""
    return isinstance(value, torch.Tensor) and value.dtype == torch.uint8 and value.ndim == 2


def images_of(packed: torch.Tensor) -> list[int]:
    """Which images a packed batch is of."""
    return [int(image) for image in _trailers(packed)["image"].ravel()]


def stamps(packed: torch.Tensor) -> set[int]:
    """The stores that a packed batch comes from."""
    return {int(stamp) for stamp in _trailers(packed)["stamp"].ravel()}


def save_constants(folder: Path, constants: Sequence[torch.Tensor]) -> None:
    """Keep tensors that are the same for all images next to the rows."""
    with replacing(folder / CONSTANTS_FILE) as temporary:
        save_file({f"{n:03d}": c.detach().cpu().contiguous().clone() for n, c in enumerate(constants)}, temporary)


def load_constants(folder: Path) -> list[torch.Tensor]:
    """Inverse of `save_constants`; empty where there are none."""
    path = folder / CONSTANTS_FILE
    return [tensor for _, tensor in sorted(load_file(path).items())] if path.is_file() else []


def _trailers(packed: torch.Tensor) -> npt.NDArray[Any]:
    return np.ascontiguousarray(packed[:, -_TRAILER.itemsize :].cpu().numpy()).view(_TRAILER)


def _kind(value: Any) -> str | None:
    """How a value of a row is stored; None for what is no number, which models do not take."""
    if isinstance(value, torch.Tensor):
        return "tensor" if value.dtype not in _STORED_AS else None
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, int | np.integer):
        return "int"
    if isinstance(value, float | np.floating):
        return "float"
    if isinstance(value, np.ndarray):
        return "ndarray" if value.dtype.kind in "biuf" else None
    if isinstance(value, list):
        return "list" if value and _numeric(value) else None
    return None


def _numeric(value: list[Any]) -> bool:
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except ValueError:  # nested lists of different lengths
        return False


def _restored(value: Any, kind: str) -> Any:
    match kind:
        case "tensor":
            return torch.from_numpy(np.array(value))
        case "ndarray":
            return np.array(value)
        case "list":
            return value.tolist()
        case _:
            return {"int": int, "float": float, "bool": bool}[kind](value)
