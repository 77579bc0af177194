"""Where the weights in a local folder came from: its own record or card tells, and nothing is guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hf_transfer.utils.hub_ids import is_repo_id


def lineage_of(folder: str | Path) -> dict[str, str | None] | None:
    """The model on the Hub that a local folder's weights were made from.

    Args:
        folder: A saved model; `run.json` says the most, else the metadata of `README.md`.

    Returns:
        "id" and "revision" (None where only the id is known); None if the folder does not tell.
    """
    return _from_record(Path(folder) / "run.json") or _from_card(Path(folder) / "README.md")


def _from_record(path: Path) -> dict[str, str | None] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        base, plan = record["base_model"], record["training"]["plan"]
        if plan is not None and plan["plan"]["init"] == "random":
            return None
        told = base if base["on_hub"] else base.get("lineage") or {}
        return _checked(told.get("id"), told.get("revision"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _from_card(path: Path) -> dict[str, str | None] | None:
    try:
        text = path.read_text(encoding="utf-8")
        data: Any = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return None
    base = data.get("base_model") if isinstance(data, Mapping) else None
    if isinstance(base, list):  # of a merge of several models none is the one
        base = base[0] if len(base) == 1 else None
    return _checked(base, None)


def _checked(repo_id: Any, revision: Any) -> dict[str, str | None] | None:
    if not isinstance(repo_id, str) or not is_repo_id(repo_id):
        return None
    return {"id": repo_id, "revision": revision if isinstance(revision, str) else None}
