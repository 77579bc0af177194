"""Cards and reports compared: their text, or their metadata and numbers alone."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import Any

import yaml

from .values import differences
from .volatile import mask_card, mask_report

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
# Figures inside a report are compared as files of their own; a style sheet tells nothing of the run.
_UNREAD = re.compile(r"<(style|script)\b.*?</\1>|data:[\w/+-]+;base64,[A-Za-z0-9+/=]+|<[^>]*>", re.DOTALL)


def card_differences(old: str, new: str, numbers_only: bool) -> list[str]:
    """How two cards differ.

    Args:
        old: Text of the old `README.md`.
        new: Text of the new one.
        numbers_only: Compare the YAML metadata, and which numbers the text holds and how often, whatever their order.

    Returns:
        Lines of a unified diff, or differences in words; empty where there are none.
    """
    first, second = mask_card(old), mask_card(new)
    if not numbers_only:
        return _text_differences(first, second, "README.md")
    (old_data, old_body), (new_data, new_body) = _parts(first), _parts(second)
    return differences(old_data, new_data, "metadata") + _number_differences(old_body, new_body)


def report_differences(old: str, new: str, numbers_only: bool) -> list[str]:
    """How two HTML reports differ; arguments and result as of `card_differences`."""
    first, second = mask_report(old), mask_report(new)
    if not numbers_only:
        return _text_differences(first, second, "report.html")
    return _number_differences(_UNREAD.sub(" ", first), _UNREAD.sub(" ", second))


def numbers(text: str) -> Counter[str]:
    """The numbers in a text as they are written, and how often each is there."""
    return Counter(_NUMBER.findall(text))


def _parts(card: str) -> tuple[Any, str]:
    """Metadata and body of a card."""
    if not card.startswith("---\n"):
        return None, card
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(head), body


def _text_differences(old: str, new: str, name: str) -> list[str]:
    return list(difflib.unified_diff(old.splitlines(), new.splitlines(), f"old/{name}", f"new/{name}", "", "", 1, ""))


def _number_differences(old: str, new: str) -> list[str]:
    first, second = numbers(old), numbers(new)
    return [
        f"the number {number}: {first[number]} times became {second[number]} times"
        for number in sorted(first.keys() | second.keys())
        if first[number] != second[number]
    ]
