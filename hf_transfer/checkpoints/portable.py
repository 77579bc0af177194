"""Checkpoints that can be given away: what Trainer pickles, as safetensors and JSON, and back.

Each file `X.pt` or `X.pth` becomes `X.json`, which holds its structure, and `X.safetensors`, which holds its tensors
if it has any. In the JSON, lists and dictionaries with text as keys stand as they are; anything else is an object of
one key that starts with `$`: a tensor's name, a tuple, an array of numpy, a dictionary with other keys, a number that
is not finite.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.trainer_pt_utils import safe_globals

from hf_transfer.errors import PlanError, PublishError
from hf_transfer.run_files import TRAINER_STATE

logger = logging.getLogger(__name__)

STATE_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
"""Patterns of what Trainer pickles in a checkpoint and reads when it resumes."""
_NEEDED = ("optimizer.pt", "scheduler.pt")
_HERE = "."
_SCHEMA = 1


def pack(checkpoint: Path, target: Path) -> list[str]:
    """Write the state of a checkpoint as safetensors and JSON.

    Args:
        checkpoint: As Trainer saved it; not changed.
        target: An existing folder.

    Returns:
        Names of the files that were written; `trainer_state.json`, without local paths, is one of them.

    Raises:
        PublishError: The checkpoint cannot be resumed, is sharded, or holds what is no plain data.
    """
    if not all((checkpoint / name).is_file() for name in _NEEDED):
        raise PublishError(
            f"{checkpoint.name} holds no optimizer state in one file, without which nobody could resume it: it was "
            "saved with save_only_model, or in shards (FSDP, DeepSpeed). Publish without include_checkpoint."
        )
    written = []
    for path in sorted(found for pattern in STATE_FILES for found in checkpoint.glob(pattern)):
        with safe_globals():
            content = torch.load(path, map_location="cpu", weights_only=True)
        tensors: dict[str, torch.Tensor] = {}
        try:
            structure = _encoded(content, path.stem, tensors)
        except TypeError as error:
            raise PublishError(
                f"{path.name} of {checkpoint.name} holds {error}, for which there is no safe format. Publish without "
                "include_checkpoint."
            ) from error
        data = {"schema": _SCHEMA, "file": path.name, "content": structure}
        (target / f"{path.stem}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        written.append(f"{path.stem}.json")
        if tensors:
            save_file(tensors, target / f"{path.stem}.safetensors", metadata={"format": "pt"})
            written.append(f"{path.stem}.safetensors")
    state = _without_paths(json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8")), checkpoint.name)
    (target / TRAINER_STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    return [*written, TRAINER_STATE]


@contextmanager
def unpacked(checkpoint: str | None) -> Iterator[str | None]:
    """A checkpoint in the form that Trainer reads; what needs no change is given back as it is.

    Args:
        checkpoint: A folder; one that `pack` filled gets a temporary twin whose weights are links.

    Raises:
        PlanError: A file is damaged, or of a later version.
    """
    if not isinstance(checkpoint, str) or not _packed_files(Path(checkpoint)):
        yield checkpoint
        return
    source = Path(checkpoint)
    with tempfile.TemporaryDirectory(prefix="hf_transfer_resume_") as temporary:
        twin = Path(temporary) / source.name
        twin.mkdir()
        packed = _packed_files(source)
        for path in source.iterdir():
            if path.is_file() and path.stem not in packed and path.name != TRAINER_STATE:
                _link(path, twin / path.name)
        try:
            for stem in packed:
                _unpack(source, stem, twin)
            state = json.loads((source / TRAINER_STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise PlanError(
                f"The checkpoint {source.name} is damaged: {' '.join(str(error).split())[:200]}. Download it again."
            ) from error
        if state.get("best_model_checkpoint") == _HERE:
            state["best_model_checkpoint"] = str(source)
        (twin / TRAINER_STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        yield str(twin)


def _packed_files(folder: Path) -> list[str]:
    """Names, without ending, of the files of a folder that `pack` wrote."""
    names = [path.stem for pattern in STATE_FILES for path in folder.glob(f"{Path(pattern).stem}.json")]
    return sorted(name for name in names if not any((folder / f"{name}{end}").exists() for end in (".pt", ".pth")))


def _unpack(source: Path, stem: str, target: Path) -> None:
    data = json.loads((source / f"{stem}.json").read_text(encoding="utf-8"))
    if data["schema"] != _SCHEMA:
        raise ValueError(f"{stem}.json has schema {data['schema']}, expected {_SCHEMA}")
    name = str(data["file"])
    if name not in (f"{stem}.pt", f"{stem}.pth"):  # it may come from anybody, and must not name another place
        raise ValueError(f"{stem}.json is the content of {name!r}")
    path = source / f"{stem}.safetensors"
    tensors = load_file(path) if path.is_file() else {}
    torch.save(_decoded(data["content"], tensors), target / name)


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:  # Windows without the right to make links
        shutil.copyfile(source, target)


def _encoded(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Plain data for JSON; tensors are put into `tensors` under their place in the structure."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        while name in tensors:  # keys may hold dots
            name += "_"
        tensors[name] = value.detach().clone().contiguous()
        return {"$tensor": name}
    if isinstance(value, np.ndarray):
        return {"$array": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, list | tuple):
        items = [_encoded(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        items = [[key, _encoded(item, f"{name}.{key}", tensors)] for key, item in value.items()]
        plain = all(isinstance(key, str) and not key.startswith("$") for key, _ in items)
        return dict(items) if plain else {"$dict": items}
    raise TypeError(f"a {type(value).__name__} at {name}")


def _decoded(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Inverse of `_encoded`."""
    if isinstance(value, list):
        return [_decoded(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match next(iter(value), ""):
        case "$tensor":
            return tensors[value["$tensor"]]
        case "$array":
            return np.array(value["$array"], dtype=value["dtype"])
        case "$float":
            return float(value["$float"])
        case "$tuple":
            return tuple(_decoded(item, tensors) for item in value["$tuple"])
        case "$dict":
            return {key: _decoded(item, tensors) for key, item in value["$dict"]}
    return {key: _decoded(item, tensors) for key, item in value.items()}


def _without_paths(state: dict[str, Any], name: str) -> dict[str, Any]:
    """Trainer's state, in which the best checkpoint is this one or, as others are not given away, none."""
    best = state.get("best_model_checkpoint")
    if best and Path(best).name == name:
        return state | {"best_model_checkpoint": _HERE}
    if not best:
        return state
    logger.warning(
        "The best checkpoint is another one: a run that resumes %s starts its search for the best again.", name
    )
    # With the old best value, weights that are not there would count as the best to the end.
    return state | {"best_model_checkpoint": None, "best_metric": None, "best_global_step": None}
