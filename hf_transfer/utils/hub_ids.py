"""The form of ids on the Hub."""

from __future__ import annotations

import re

_REPO_ID = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")


def is_repo_id(repo_id: str) -> bool:
    """Whether a text has the form of a Hub id: "name" or "owner/name"."""
    return bool(_REPO_ID.fullmatch(repo_id)) and not any(part in repo_id for part in ("--", ".."))
