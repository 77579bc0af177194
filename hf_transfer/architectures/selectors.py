"""Layer groups: the parts of a model, from input to output, that are frozen or trained together.

Pure rules on names: nothing here imports torch, so that a plan can be checked before a model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.errors import SelectorError

Selector = str | tuple[str, ...]

SELECTOR_HELP = (
    '"head", "all", "last:K", "blocks:K", "from:NAME", "only:NAME", "only:I-J", "part:first", "part:middle", '
    '"part:last", "part:half", "part:most", "norm", "bias", "re:REGEX" or a tuple of these'
)


def select_groups(
    groups: Sequence[LayerGroup], selector: Selector, norm_parameters: Collection[str] = ()
) -> tuple[LayerGroup, ...]:
    """Resolve a selector to the layer groups that it trains.

    Args:
        groups: All groups of a model, from input to output.
        selector: One selector, or a tuple of them (their union). In `"from:"` and `"only:"` the end of a module path
            is enough where it is unique ("layers.3"), and a number that is not a group's name is an index.
        norm_parameters: Names of the parameters of normalisation layers, for `"norm"`.

    Returns:
        The groups with at least one selected parameter, from input to output. Selectors of parameters (`"norm"`,
        `"bias"`, `"re:..."`) give groups narrowed to the selected names.

    Raises:
        SelectorError: The selector is malformed, or matches nothing; the message lists what exists.
    """
    check_selector(selector)
    groups = [group for group in groups if group.role != "tail"]
    chosen: set[str] = set()
    for part in (selector,) if isinstance(selector, str) else selector:
        names = _selected_names(groups, part, norm_parameters)
        if not names:
            raise SelectorError(f"The selector {part!r} matches nothing. {_what_exists(groups)}")
        chosen |= names
    narrowed = (replace(g, parameter_names=tuple(n for n in g.parameter_names if n in chosen)) for g in groups)
    return tuple(g for g in narrowed if g.parameter_names)


def check_selector(selector: Selector) -> None:
    """Check a selector's form without a model.

    Raises:
        SelectorError: The form is none of those listed in `SELECTOR_HELP`.
    """
    parts = (selector,) if isinstance(selector, str) else selector
    if not isinstance(parts, tuple | list) or not parts or not all(isinstance(part, str) for part in parts):
        raise SelectorError(f"A selector is {SELECTOR_HELP}; found {selector!r}.")
    for part in parts:
        kind, _, value = part.partition(":")
        whole = part in ("head", "all", "norm", "bias")
        counted = kind in ("last", "blocks") and value.isascii() and value.isdigit()
        named = kind in ("from", "only", "re") and bool(value)
        share = kind == "part" and value in ("first", "middle", "last", "half", "most")
        if not (whole or counted or named or share):
            raise SelectorError(f"A selector is {SELECTOR_HELP}; found {part!r}.")
        if kind == "re":
            _compile(value)


def _selected_names(groups: Sequence[LayerGroup], selector: str, norm_parameters: Collection[str]) -> set[str]:
    head = {name for g in groups if g.role == "head" for name in g.parameter_names}
    every = [name for g in groups for name in g.parameter_names]
    kind, _, value = selector.partition(":")
    match kind:
        case "head":
            return head
        case "all":
            return set(every)
        case "norm":
            return _with_head({n for n in every if n in norm_parameters} - head, head)
        case "bias":
            return _with_head({n for n in every if re.search(r"(^|[._])bias$", n)} - head, head)
        case "re":
            pattern = _compile(value)
            return _with_head({n for n in every if pattern.search(n)}, head)
        case "last":
            body = [g for g in groups if g.role != "head"]
            return _names(_last(body, int(value), selector, groups)) | head
        case "blocks":
            blocks = [g for g in groups if g.role == "block"]
            kept = _last(blocks, int(value), selector, groups)
            before = [g.index for g in groups if g.role in ("stem", "block")]
            start = kept[0].index if kept else max(before, default=-1) + 1
            return _names(g for g in groups if g.index >= start) | head
        case "part":
            return _with_head(_names(_share(groups, value)), head)
        case "from":
            start = _find(groups, value).index
            return _names(g for g in groups if g.index >= start) | head
        case _:
            return _names(_only(groups, value)) | head


def _with_head(names: set[str], head: set[str]) -> set[str]:
    """Add the head, but not to nothing: a model without what is selected must not train its head alone unnoticed."""
    return names | head if names else set()


def _names(groups: Iterable[LayerGroup]) -> set[str]:
    return {name for g in groups for name in g.parameter_names}


def _last(items: list[LayerGroup], count: int, selector: str, groups: Sequence[LayerGroup]) -> list[LayerGroup]:
    if count > len(items):
        raise SelectorError(
            f"{selector!r} asks for {count} groups, but there are {len(items)}. {_what_exists(groups)}"
        )
    return items[len(items) - count :]


def _share(groups: Sequence[LayerGroup], part: str) -> list[LayerGroup]:
    """A third of the blocks, the last half or two thirds, at least one; with the stem before or the neck behind."""
    blocks = [g for g in groups if g.role == "block"]
    shares = {
        "first": [b for i, b in enumerate(blocks) if 3 * i < len(blocks)],
        "middle": [b for i, b in enumerate(blocks) if len(blocks) <= 3 * i < 2 * len(blocks)],
        "last": [b for i, b in enumerate(blocks) if 2 * len(blocks) <= 3 * i],
        "half": [b for i, b in enumerate(blocks) if len(blocks) <= 2 * i],
        "most": [b for i, b in enumerate(blocks) if len(blocks) <= 3 * i],
    }
    chosen = shares[part] or blocks[-1:]
    before = [g for g in groups if g.role == "stem" and part == "first"]
    return [*before, *chosen, *(g for g in groups if g.role == "neck" and part in ("last", "half", "most"))]


def _only(groups: Sequence[LayerGroup], value: str) -> list[LayerGroup]:
    span = re.fullmatch(r"([0-9]+)-([0-9]+)", value)
    if span is None:
        return [_find(groups, value)]
    first, last = int(span[1]), int(span[2])
    if first > last or last > groups[-1].index:
        raise SelectorError(f"'only:{value}' is not a range of group indices. {_what_exists(groups)}")
    return [group for group in groups if first <= group.index <= last]


def _find(groups: Sequence[LayerGroup], name: str) -> LayerGroup:
    """The group of this name, index or unique end of a module path, in this order."""
    found = [g for g in groups if g.name == name]
    if not found and re.fullmatch("[0-9]+", name):
        found = [g for g in groups if g.index == int(name)]
    elif not found:
        found = [g for g in groups if g.name.endswith(f".{name}")]
    if len(found) != 1:
        what = "several groups" if found else "no group"
        raise SelectorError(f"The name {name!r} fits {what}. {_what_exists(groups)}")
    return found[0]


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise SelectorError(f"'re:{pattern}' is not a regular expression: {error}.") from error


def _what_exists(groups: Sequence[LayerGroup]) -> str:
    return "The groups are: " + ", ".join(f"{g.index} {g.name} ({g.role})" for g in groups) + "."
