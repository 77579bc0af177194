"""`RunRecord`: what is known about a finished run, as plain data for `run.json`; nothing private goes into it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from hf_transfer.errors import ArgumentError
from hf_transfer.utils.environment import utc_now
from hf_transfer.utils.files import write_atomically
from hf_transfer.utils.privacy import check_private

SCHEMA = 1
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "versions": ("python",),
    "hardware": ("device",),
    "base_model": ("id", "on_hub", "architecture", "library", "parameters"),
    "data": ("evaluation_split", "label_names", "counts"),
    "preprocessing": (),
    "training": ("plan", "optimizer"),
    "timing": (),
    "evaluation": (),
}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of `run.json`: plain data from which the card is written.

    Tuples become lists, enums their values, and numbers that are not finite (such as the gradient norm of a step that
    overflowed in half precision) become None, so that the record is the same after a round trip through JSON.

    Attributes:
        command: The command as `hf_transfer.utils.privacy.sanitise_command` returns it.
        versions: Result of `collect_versions`.
        hardware: Result of `collect_hardware`.
        seed: Seed of the training.
        split_seed: Seed of the split into training and evaluation images.
        base_model: "id" (None where the origin of the weights is not known), "on_hub", "revision", "architecture",
            "library", "parameters", "license".
        data: `hf_transfer.data.ImageData.to_dict()`.
        preprocessing: "height", "width", "mean", "std", "interpolation", "augmentation" and what else applies.
        training: "plan" (the content of `transfer_plan.json`, or None for a run without a plan), "optimizer" with
            "class" and "defaults", and the settings and results of the training loop.
        timing: "train_seconds", "evaluation_seconds", "images_per_second".
        evaluation: `EvaluationReport.to_dict()` by the name of the split.
        diagnosis: `Diagnosis.to_dict()` of a run whose recipe was chosen by it, else None.
        log_history: What Trainer logged.
        created: Time in UTC as ISO 8601.

    Raises:
        ArgumentError: A part is missing or is no plain data; the message names the key.
    """

    command: str
    versions: Mapping[str, Any]
    hardware: Mapping[str, Any]
    seed: int
    split_seed: int
    base_model: Mapping[str, Any]
    data: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    training: Mapping[str, Any]
    timing: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    diagnosis: Mapping[str, Any] | None = None
    log_history: list[Any] = field(default_factory=list)
    created: str = field(default_factory=utc_now)

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            object.__setattr__(self, name, _plain(value, name))
        for name, kind in {
            "command": str,
            "created": str,
            "seed": int,
            "split_seed": int,
            "log_history": list,
        }.items():
            _check_kind(name, vars(self)[name], kind)
        if self.diagnosis is not None:
            _check_kind("diagnosis", self.diagnosis, dict)
        for name, required in _REQUIRED.items():
            part = vars(self)[name]
            _check_kind(name, part, dict)
            missing = [key for key in required if key not in part]
            if missing:
                raise ArgumentError(f"The run record's {name} must have {', '.join(required)}; missing: {missing}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"schema": SCHEMA, "created": self.created} | vars(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunRecord:
        """Inverse of `to_dict`.

        Raises:
            ArgumentError: A key is missing or unknown, or the schema is that of another version.
        """
        if not isinstance(data, Mapping):
            raise ArgumentError(f"A run record is a JSON object, found {type(data).__name__}.")
        if data.get("schema") != SCHEMA:
            raise ArgumentError(
                f"Expected a run record of schema {SCHEMA}, found schema {data.get('schema')!r}. It was written by "
                "another version of hf-transfer-learning, or is not a run.json."
            )
        known = {item.name for item in fields(cls)}
        found = set(data) - {"schema"} | {"diagnosis"}  # records of before there were diagnoses have none
        if found != known:
            raise ArgumentError(
                f"A run record has the keys {', '.join(sorted(known))}; missing: {sorted(known - found)}, unknown: "
                f"{sorted(found - known)}."
            )
        return cls(**{name: data[name] for name in known if name in data})

    def save(self, path: str | Path) -> None:
        """Write the record as JSON, whole or not at all.

        Raises:
            OutputError: A value is private, or the file cannot be written; an existing file is unchanged.
        """
        data = self.to_dict()
        check_private(data)
        write_atomically(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> RunRecord:
        """Read a record.

        Raises:
            ArgumentError: The file is missing, is not JSON or is not a run record.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArgumentError(f"No run record can be read from {path}: {error}.") from error
        return cls.from_dict(data)


def _plain(value: Any, key: str) -> Any:
    """Reduce a value to what JSON holds."""
    if isinstance(value, Enum):
        return _plain(value.value, key)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        # A file name that is not UTF-8 gives a label with lone surrogates, which no UTF-8 file can hold.
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_plain_key(name, key): _plain(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{key}[{index}]") for index, item in enumerate(value)]
    if type(value).__module__ in ("numpy", "torch") and callable(getattr(value, "item", None)) and not value.shape:
        return _plain(value.item(), key)
    raise ArgumentError(
        f"A run record holds plain data only; {key} is a {type(value).__name__}. Give text, numbers, lists or dicts."
    )


def _plain_key(name: Any, key: str) -> str:
    if not isinstance(name, str):
        raise ArgumentError(f"The keys of {key} must be text for JSON, found {name!r}.")
    return name


def _check_kind(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ArgumentError(f"The run record's {name} must be of type {kind.__name__}, found {type(value).__name__}.")
