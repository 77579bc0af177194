"""What differs between two runs of the very same code, by name; nothing else is hidden from the comparison."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

MASK = "(volatile)"
"""Stands for a volatile value, so that an entry that is missing still is a difference."""

TIMINGS = frozenset(
    f"{prefix}_{what}"
    for prefix in ("train", "eval", "test")
    for what in ("runtime", "samples_per_second", "steps_per_second")
)
"""Keys of Trainer's logs and metrics, wherever in a JSON file they stand."""

ENTRIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "run.json": (
            "created",
            "timing.train_seconds",
            "timing.evaluation_seconds",
            "timing.images_per_second",
            "training.cache_decisions.*.expected_speed_up",
            "training.cache_decisions.*.extraction_seconds",
        )
    }
)
"""Patterns of dotted places in the JSON files of one name; positions in lists count as names."""

SPEED = re.compile(r"^[\d,]+ images/s$")
"""Text in JSON files that is nothing but a speed, such as the reason of a cache decision."""

CARD_ROWS = ("Date", "Training time", "Training throughput", "Evaluation time")
"""Rows of the card's tables."""

REPORT_TERMS = ("Training time", "Training throughput", "Evaluation time")
"""Terms of the report's lists; the day in its line "Run of ..." is volatile, too."""

UNREAD_FILES = ("training_args.bin",)
"""Files of which only the presence is compared: a pickle of a class, whose module may move."""

_ROW = re.compile(rf"^\| ({'|'.join(CARD_ROWS)}) \| .* \|$", re.MULTILINE)
_TERM = re.compile(rf"(<dt>(?:{'|'.join(REPORT_TERMS)})</dt><dd>)[^<]*(</dd>)")
_DAY = re.compile(r"\bRun of \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")


def mask_data(data: Any, file: str, ignored: Collection[str] = (), place: str = "") -> Any:
    """The content of a JSON file with each volatile value replaced by `MASK`.

    Args:
        data: The content.
        file: Name of the file, without folders.
        ignored: Patterns of dotted places that are left out altogether; positions in lists count as names.
        place: Of `data` in the file.
    """
    if isinstance(data, Mapping):
        kept: dict[Any, Any] = {}
        for key, value in data.items():
            here = f"{place}.{key}" if place else str(key)
            if any(fnmatchcase(here, pattern) for pattern in ignored):
                continue
            volatile = key in TIMINGS or any(fnmatchcase(here, pattern) for pattern in ENTRIES.get(file, ()))
            kept[key] = MASK if volatile else mask_data(value, file, ignored, here)
        return kept
    if isinstance(data, list):
        return [mask_data(value, file, ignored, f"{place}.{i}".lstrip(".")) for i, value in enumerate(data)]
    return MASK if isinstance(data, str) and SPEED.match(data) else data


def mask_card(text: str) -> str:
    """A card with the volatile cells of its tables replaced."""
    return _ROW.sub(rf"| \1 | {MASK} |", text)


def mask_report(text: str) -> str:
    """An HTML report with its volatile values replaced."""
    return _DAY.sub(f"Run of {MASK}", _TERM.sub(rf"\1{MASK}\2", text))
