"""Labels that look alike: one class where only blanks or the form of Unicode differ, else a question to the user."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from hf_transfer.errors import DataError

logger = logging.getLogger(__name__)

SIMILAR = ("merge", "keep")
"""What `--similar_labels` can say of labels that look alike: they are one class, or classes of their own."""
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))
_MISSING = frozenset({"nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", "undefined", "missing", "?", "-"})
_SHOWN = 10


def normalised(label: str) -> str:
    """A label in composed Unicode (NFC), without invisible characters, with single blanks and none around it."""
    return unicodedata.normalize("NFC", " ".join(label.translate(_INVISIBLE).split()))


def spellings(
    labels: Mapping[str, Sequence[str]], similar: str | None = None, known: Sequence[str] | None = None
) -> dict[str, str]:
    """What labels to replace by which, so that no class is there twice.

    Args:
        labels: Split to its labels, normalised.
        similar: The user's answer for labels that look alike: "merge", "keep", or None to ask.
        known: A model's labels, whose spelling wins.

    Raises:
        DataError: Labels look alike, and there is no answer.
    """
    if similar not in (None, *SIMILAR):
        raise DataError(f"similar_labels must be one of {', '.join(SIMILAR)}; found {similar!r}.")
    counts = Counter(label for values in labels.values() for label in values)
    if known is not None:
        return _as_known(counts, similar, known)
    trained = Counter(labels.get("train", ()))
    groups = _alike(counts)
    if similar == "merge":
        best = {group: max(group, key=lambda name: (trained[name], counts[name], name)) for group in groups}
        return _told({name: best[group] for group in groups for name in group if name != best[group]}, counts)
    if similar is None:
        _ask([group for group in groups if not _are_letters(group)], counts)
        for group in filter(_are_letters, groups):
            logger.warning("%s are classes of their own; --similar_labels merge makes them one.", _both(group, counts))
    return {}


def warn_of_normalised(changed: Mapping[tuple[str, str], int]) -> None:
    """Show the labels that were normalised, old and new, with the number of images."""
    if changed:
        shown = [f"{ascii(old)} is {new!r} ({count:,} images)" for (old, new), count in changed.items()]
        logger.warning("Labels are written in one form of Unicode and of blanks: %s.", _first(shown))


def warn_of_missing(counts: Mapping[str, int]) -> None:
    """Show the labels that may stand for a missing one; they are kept, since "None" can be a class."""
    found = [f"{name!r} ({count:,} images)" for name, count in counts.items() if name.casefold() in _MISSING]
    if found:
        logger.warning(
            "The labels %s look like missing ones; they are taken as classes. Remove these images if so.",
            _first(found),
        )


def _as_known(counts: Mapping[str, int], similar: str | None, known: Sequence[str]) -> dict[str, str]:
    """Labels that a model spells otherwise, as the model spells them."""
    same, alike = defaultdict(list), defaultdict(list)
    for name in known:
        same[normalised(name)].append(name)
        alike[_look(name)].append(name)
    others = [label for label in counts if label not in set(known)]
    changes = {label: same[label][0] for label in others if len(same[label]) == 1}
    near = {label: alike[_look(label)] for label in others if label not in changes and alike[_look(label)]}
    if similar is None and near:
        raise DataError(
            f"Labels of the data look like labels of the model, but are spelt otherwise: "
            f"{_first([f'{label!r} ({counts[label]:,} images) and {names[0]!r}' for label, names in near.items()])}. "
            "Rename them, or take them as the model's with --similar_labels merge."
        )
    merged = {label: names[0] for label, names in near.items() if len(names) == 1} if similar == "merge" else {}
    return _told(changes | merged, counts)


def _told(changes: dict[str, str], counts: Mapping[str, int]) -> dict[str, str]:
    if changes:
        shown = [f"{ascii(old)} ({counts[old]:,} images) is {ascii(new)}" for old, new in changes.items()]
        logger.warning("Labels that look alike are one class: %s.", _first(shown))
    return changes


def _ask(groups: Sequence[Sequence[str]], counts: Mapping[str, int]) -> None:
    if groups:
        raise DataError(
            f"Labels look alike: {_first([_both(group, counts) for group in groups])}. Rename them, make one class of "
            "each with --similar_labels merge, or keep them apart with --similar_labels keep."
        )


def _alike(labels: Iterable[str]) -> list[tuple[str, ...]]:
    groups = defaultdict(list)
    for label in sorted(labels):
        groups[_look(label)].append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _look(label: str) -> str:
    """What is the same for labels that differ in case, width, underscores, a decimal point or as copies only."""
    text = unicodedata.normalize("NFKC", normalised(label).casefold())
    text = re.sub(r" - copy( \(\d+\))?$", "", text)  # what Windows calls a copied folder
    text = re.sub(r"(?<=[^\W_])[\s_\-\u2010-\u2015]+(?=[^\W_])", " ", text)
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


def _are_letters(group: Sequence[str]) -> bool:
    """Whether labels are single letters in both cases, as in data sets of handwriting."""
    return all(len(label) == 1 and label.isascii() for label in group)


def _both(group: Sequence[str], counts: Mapping[str, int]) -> str:
    return " and ".join(f"{label!r} ({counts[label]:,} images)" for label in group)


def _first(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN:,} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more
