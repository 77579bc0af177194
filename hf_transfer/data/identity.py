"""What training data are, told cheaply and alike in every process and on every machine."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from types import CodeType
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Subset
from transformers.trainer_utils import RemoveColumnsCollator

from hf_transfer.utils.foreign import is_indexed, stated

_SAMPLES = 8
_ROWS_AT_A_TIME = 10_000
_LABELS = ("targets", "labels")
_TRANSFORMS = ("transform", "transforms", "target_transform")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LIBRARIES = ("hf_transfer", "transformers", "torch", "torchvision", "datasets", "timm")
_SHOWN = 200  # characters of a long description; the rest is in its hash
_DEPTH = 3


def data_identity(dataset: Any) -> dict[str, Any]:
    """A cheap description of training data that is the same in every process and on every machine.

    For any data set with a length that and its class. For those of `datasets` also columns, a hash of all columns of
    numbers and text (labels among them), and a hash of eight rows as they are stored, whatever transform is set; not
    `Dataset._fingerprint`, which may depend on paths, on modification times or on chance. For others labels that they
    hold as `targets` or `labels`, as those of torchvision do; for `Subset` also which rows. Their images are not read.
    """
    found: dict[str, Any] = {"type": type(dataset).__name__}
    if hasattr(dataset, "__len__"):
        found["length"] = len(dataset)
    if isinstance(dataset, datasets.Dataset):
        return found | _table_facts(dataset)
    if isinstance(dataset, Subset):
        return found | {"indices": _digest(list(dataset.indices)), "of": data_identity(dataset.dataset)}
    for name in _LABELS:
        labels = _plain(getattr(dataset, name, None))
        if labels is not None and len(labels) == found.get("length"):
            return found | {"labels": _digest(labels)}
    return found


def transform_description(*parts: Any) -> str:
    """What is done with images on their way into a batch, in words that are the same in every process.

    Known are the transforms of this library, whatever says what it is (as those of torchvision do), and the source of
    functions with the objects that they name; not what objects hold that show nothing of it.

    Args:
        *parts: Data sets, transforms or collators.
    """
    text = "; ".join(filter(None, (_described(part, _DEPTH) for part in parts)))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… {_digest(text)}"


def _table_facts(dataset: datasets.Dataset) -> dict[str, Any]:
    columns = list(dataset.column_names)
    plain = dataset.with_format("arrow")
    spaced = sorted({i * (len(dataset) - 1) // (_SAMPLES - 1) for i in range(_SAMPLES)}) if len(dataset) else []
    rows = plain[spaced].to_pylist() if spaced else []
    labels = [plain.select_columns(name)[:][name].to_pylist() for name in ("label", "labels") if name in columns]
    facts = {"columns": sorted(columns), "content": _digest([_without_folders(rows), labels])}
    schema = dataset.data.schema
    simple = sorted(name for name in columns if _is_simple(schema.field(name).type))
    if not simple:
        return facts
    hashed, values = hashlib.blake2b(digest_size=16), plain.select_columns(simple)
    for start in range(0, len(dataset), _ROWS_AT_A_TIME):
        table: pa.Table = values[start : start + _ROWS_AT_A_TIME]
        for name in simple:
            hashed.update(_json([name, [_without_folder(value) for value in table[name].to_pylist()]]))
    return facts | {"values": hashed.hexdigest()}


def _is_simple(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_simple(kind.value_type)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return text or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _plain(labels: Any) -> list[Any] | None:
    if isinstance(labels, torch.Tensor | np.ndarray):
        return list(labels.tolist()) if labels.ndim else None
    return list(labels) if isinstance(labels, list | tuple) else None


def _digest(value: Any) -> str:
    return hashlib.blake2b(_json(value), digest_size=16).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, default=_text_of, sort_keys=True).encode()


def _text_of(value: Any) -> str:
    return hashlib.blake2b(value).hexdigest() if isinstance(value, bytes) else str(value)


def _without_folders(value: Any) -> Any:
    """Images are stored with their path, and columns may hold paths, which are others on another machine."""
    if isinstance(value, Mapping):
        return {
            k: Path(v).name if k == "path" and isinstance(v, str) else _without_folders(v) for k, v in value.items()
        }
    return [_without_folders(item) for item in value] if isinstance(value, list) else _without_folder(value)


def _without_folder(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    kinds: Sequence[type[PurePath]] = (PurePosixPath, PureWindowsPath)
    return next((kind(value).name for kind in kinds if kind(value).is_absolute()), value)


def _described(value: Any, depth: int) -> str:
    """An object in words without an address in memory; its type's name where it says no more of itself."""
    kind = type(value)
    if value is None or inspect.ismodule(value) or isinstance(value, type) or depth == 0:
        return ""
    if isinstance(value, datasets.Dataset):
        return _described(value.format["format_kwargs"].get("transform"), depth)
    if isinstance(value, Subset):
        return _described(value.dataset, depth)
    if isinstance(value, RemoveColumnsCollator):  # which Trainer puts around the collator that it was given
        return _described(value.data_collator, depth)
    if kind.__module__.startswith("hf_transfer.") and hasattr(value, "processor"):
        return f"{kind.__name__}({_described(value.processor, depth)})"
    if callable(getattr(value, "to_dict", None)):
        settings = {k: v for k, v in value.to_dict().items() if not k.startswith("_") and k != "name_or_path"}
        return f"{kind.__name__} {_digest(_ADDRESS.sub('', json.dumps(settings, default=str, sort_keys=True)))}"
    if inspect.isfunction(value):
        return _described_function(value, depth)
    if is_indexed(value) and not isinstance(value, str | bytes):
        known = [_described(each, depth - 1) for each in stated(value, _TRANSFORMS).values()]
        return ", ".join(filter(None, known)) if not isinstance(value, list | tuple | dict) else _text(value)
    return _text(value)


def _described_function(function: Any, depth: int) -> str:
    if function.__module__.partition(".")[0] in _LIBRARIES:  # a new version of it is no other transform
        return str(function.__qualname__)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # typed in by hand
        source = ""
    named = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            named[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    # Not text and containers: they may name a folder, or hold a data set.
    telling = {name: value for name, value in named.items() if callable(value) or isinstance(value, int | float)}
    inner = {name: _described(value, depth - 1) for name, value in sorted(telling.items())}
    return f"{function.__qualname__} {_digest([source, inner])}"


def _names(code: CodeType) -> set[str]:
    """Names that a function reads, also in comprehensions and functions inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _text(value: Any) -> str:
    plain: Any = object.__repr__
    if type(value).__repr__ is plain:
        return type(value).__qualname__
    return _ADDRESS.sub("", " ".join(repr(value).split()))
