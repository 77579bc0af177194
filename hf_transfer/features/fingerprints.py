"""Fingerprints of what features depend on: weights, transform and data; equal fingerprints mean equal features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets.fingerprint import Hasher
from torch import nn

from hf_transfer.architectures.lookup import architecture_name
from hf_transfer.data.columns import is_image_feature
from hf_transfer.utils.environment import COMPUTING, versions_of
from hf_transfer.utils.foreign import config_of
from hf_transfer.utils.hashing import digests

# To be raised where the same model and images give other digits than before; 2: batch normalisation is fused.
_COMPUTATION = "2"
# What a configuration says about the head, the labels and the origin of a checkpoint changes no feature.
_NOT_OF_THE_BODY = frozenset(
    (
        *("id2label", "label2id", "num_labels", "num_classes", "problem_type", "label_names"),
        *("classifier_dropout", "classifier_dropout_prob", "architectures", "transformers_version"),
        *("_name_or_path", "_commit_hash", "torch_dtype", "dtype"),
        "use_cache",  # of text; Trainer sets it
    )
)
_ROWS_AT_A_TIME = 1000


def fingerprint(parts: Mapping[str, Any]) -> str:
    """A key of 32 hexadecimal digits for plain data."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def weights_fingerprint(model: nn.Module, names: Collection[str] | None = None) -> str:
    """Fingerprint of the parameters and buffers of these names (None: all), and of the model's configuration."""
    tensors = {name: t for name, t in _tensors(model).items() if names is None or name in names}
    config: Any = config_of(model)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    body = {name: value for name, value in settings.items() if name not in _NOT_OF_THE_BODY}
    return fingerprint(
        {"architecture": architecture_name(model), "class": type(model).__qualname__, "config": body}
        | {"tensors": digests(tensors)}
    )


def tensor_names(model: nn.Module) -> list[str]:
    """Names of a model's parameters and buffers."""
    return list(_tensors(model))


def versions() -> dict[str, str]:
    """Versions of the libraries that features are computed with, and of our own way of computing them."""
    return versions_of(COMPUTING) | {"computation": _COMPUTATION}


def transform_fingerprint(transform: Any) -> str | None:
    """Fingerprint of a transform or processor; None where it cannot be told apart from others of its kind."""
    try:
        return str(Hasher.hash(_plain_transform(transform)))
    except Exception:  # pickling runs foreign code; whatever it raises, there is no fingerprint
        return None


def content_fingerprint(dataset: Any) -> str | None:
    """Fingerprint of the rows of a data set: their order, images and other columns; images are not decoded.

    Images that are files are known by path, size and time of change, as `make` knows them.

    Args:
        dataset: A `datasets.Dataset`; for anything else the answer is None, since its rows cannot be read without
            running it.
    """
    if not isinstance(dataset, datasets.Dataset):
        return None
    content = hashlib.blake2b(digest_size=16)
    content.update(str(dataset.features).encode())
    images = [name for name, feature in dataset.features.items() if is_image_feature(feature)]
    plain = dataset.with_format("arrow")
    for start in range(0, len(plain), _ROWS_AT_A_TIME):
        table: pa.Table = plain[start : start + _ROWS_AT_A_TIME]
        with pa.ipc.new_stream(_HashSink(content), table.schema.remove_metadata()) as writer:
            writer.write_table(table.combine_chunks().replace_schema_metadata(None))
        for name in images:
            content.update(_file_facts(table.column(name)).encode())
    return content.hexdigest()


def transform_of(dataset: Any) -> Any:
    """The transform that a `datasets.Dataset` makes its rows with, or its format where it has none."""
    stated = dataset.format
    return stated["format_kwargs"].get("transform") or {key: stated[key] for key in ("type", "format_kwargs")}


def _plain_transform(transform: Any) -> Any:
    """A transform as what it is made of, where that is known: processors hold more than what they do."""
    processor = getattr(transform, "processor", None)
    if processor is not None and type(transform).__module__.startswith("hf_transfer."):
        return type(transform).__qualname__, _plain_transform(processor)
    if hasattr(transform, "data_config") and hasattr(transform, "val_transforms"):
        return type(transform).__qualname__, transform.data_config, repr(transform.val_transforms)
    if hasattr(transform, "image_mean") and callable(getattr(transform, "to_dict", None)):
        return type(transform).__qualname__, json.dumps(transform.to_dict(), sort_keys=True, default=str)
    return transform


def _tensors(model: nn.Module) -> dict[str, Any]:
    return {name: p.data for name, p in model.named_parameters()} | dict(model.named_buffers())


def _file_facts(column: pa.ChunkedArray) -> str:
    """Size and time of change of the images that are files of their own."""
    facts = []
    if not pa.types.is_struct(column.type):
        return ""
    stored = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
    for path, inside in zip(pc.struct_field(column, "path").to_pylist(), stored, strict=True):
        path = None if inside else path
        try:
            status = Path(path).stat() if path else None
        except OSError:
            status = None
        facts.append((status.st_size, status.st_mtime_ns) if status else None)
    return str(facts) if any(facts) else ""


class _HashSink:
    """A file that keeps nothing but the hash of what is written to it."""

    closed = False

    def __init__(self, content: Any) -> None:
        self._content = content

    def write(self, data: Any) -> int:
        self._content.update(memoryview(data))
        return len(data)

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None: ...

    def close(self) -> None: ...
