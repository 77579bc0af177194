"""The licence in a card's metadata: the user's, else the base model's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hf_transfer.errors import ArgumentError
from hf_transfer.reporting.base_model import initial_weights
from hf_transfer.reporting.markdown import metadata_of

# The Hub's list of licences grows, and huggingface_hub has no copy of it: only the form can be checked.
_LICENSE = re.compile(r"[a-z0-9]+(?:[.+-][a-z0-9]+)*")
INHERITED_LICENSE = re.compile(r"^<!-- The licence is that of the base model: (\S+) -->\n", re.MULTILINE)
"""The mark in a card that distinguishes an inherited licence from one that a user gave."""
_LICENSE_DETAILS = ("license_name", "license_link")
LICENSE_KEYS = ("license", *_LICENSE_DETAILS)


def may_keep_license(own: Mapping[str, Any], theirs: Mapping[str, Any], existing_card: str) -> bool:
    """Whether the existing card's licence is the user's, or was inherited from the same base model and is missing."""
    if users_license(existing_card) is not None:
        return True
    return "license" not in own and own.get("base_model") == theirs.get("base_model")


def license_keys(own: Mapping[str, Any], theirs: Mapping[str, Any], keep: bool) -> dict[str, Any]:
    """The licence with its own name and link, which belong together."""
    ours = {key: own[key] for key in LICENSE_KEYS if key in own}
    given = {key: theirs[key] for key in LICENSE_KEYS if key in theirs}
    if keep:
        return {key: value for key, value in ours.items() if key not in _LICENSE_DETAILS} | given
    return given | ours if ours.get("license") == given.get("license") else ours


def users_license(card_text: str) -> str | None:
    """The licence of a card, unless it was inherited from a base model, which the mark in the card's text tells."""
    try:
        stated = metadata_of(card_text).get("license")
    except ArgumentError:
        return None
    mark = INHERITED_LICENSE.search(card_text)
    return stated if isinstance(stated, str) and (mark is None or mark.group(1) != stated) else None


def check_license(license: str) -> None:
    """Check that a licence is written as the Hub writes them.

    Raises:
        ArgumentError: It has another form.
    """
    if not _LICENSE.fullmatch(license):
        raise ArgumentError(
            f"The card's license must be an identifier of the Hub in small letters, such as apache-2.0, mit or "
            f"cc-by-nc-4.0 (other for all that have none), found {license!r}."
        )


def license_of(record: Mapping[str, Any], license: str | None) -> str | None:
    """The given licence, else the base model's."""
    if license is not None:
        check_license(license)
        return license
    return inherited_license(record)


def inherited_license(record: Mapping[str, Any]) -> str | None:
    """The base model's licence, where the model was made from its weights."""
    inherited = record["base_model"].get("license")
    if initial_weights(record) == "random" or not isinstance(inherited, str):
        return None
    return inherited.lower() if _LICENSE.fullmatch(inherited.lower()) else None


def license_details(record: Mapping[str, Any]) -> dict[str, Any]:
    """Name and link of the base model's licence, where that is inherited."""
    if inherited_license(record) is None:
        return {}
    found = {key: record["base_model"].get(key) for key in _LICENSE_DETAILS}
    return {key: value for key, value in found.items() if isinstance(value, str)}
