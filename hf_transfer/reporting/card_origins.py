"""Names of the base model and the data set, with links where they are on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_transfer.reporting.base_model import origin_is_known
from hf_transfer.reporting.card_metadata import hub_dataset
from hf_transfer.reporting.markdown import escape, link
from hf_transfer.utils.hub_ids import is_repo_id

HUB = "https://huggingface.co/"


def base_name(record: Mapping[str, Any]) -> str:
    """The model that the training started from; empty where that is not known."""
    base = record["base_model"]
    if not origin_is_known(record):
        return ""
    return link(base["id"], f"{HUB}{base['id']}") if base["on_hub"] and is_repo_id(base["id"]) else escape(base["id"])


def data_name(record: Mapping[str, Any]) -> str:
    """The data set; empty where it has no name."""
    name, hub_id = record["data"].get("name") or "", hub_dataset(record)
    return link(name if escape(name) else hub_id, f"{HUB}datasets/{hub_id}") if hub_id else escape(name)
