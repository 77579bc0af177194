"""What a record says of the base model: where it is from, and what its weights were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_transfer.utils.hub_ids import is_repo_id


def initial_weights(record: Mapping[str, Any]) -> str | None:
    """Where training started: "pretrained" or "random"; None where it is not known.

    That is so for a run without a plan, which does not say, and where nothing tells that weights were loaded.
    """
    if record["base_model"].get("random_weights"):
        return "random"
    plan = record["training"]["plan"]
    init = None if plan is None else str(plan["plan"]["init"])
    return None if init == "pretrained" and not origin_is_known(record) else init


def origin_is_known(record: Mapping[str, Any]) -> bool:
    """Whether the record tells where the weights came from that the run was given."""
    return record["base_model"]["id"] is not None


def hub_base(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The model on the Hub, "id" and "revision", from whose weights the run started, be it by way of local folders."""
    if initial_weights(record) != "pretrained":
        return None
    base = record["base_model"]
    found = base if base["on_hub"] else base.get("lineage")
    return found if found and is_repo_id(found["id"]) else None
