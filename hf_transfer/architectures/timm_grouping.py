"""From the names of a timm model's parameters to its layer groups, with matchers of timm's form.

timm's own matchers put all that they do not match into the last group, the classifier as well as every pretrained part
behind the blocks; here that is the neck, and the classifier is split out before.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from hf_transfer.architectures.layer_groups import Role
from hf_transfer.architectures.timm_layouts import MATCH_PREV_GROUP
from hf_transfer.architectures.wrapper import GroupDraft

Matcher = Mapping[str, Any] | Callable[[str], Any]
_UNMATCHED = "\0unmatched"


def body_groups(names: Sequence[str], matcher: Matcher) -> list[GroupDraft]:
    """Group all but the classifier's parameters; what no pattern matches is the neck.

    Args:
        names: Names of the parameters, in the order of the model.
        matcher: As timm's `group_matcher` returns it.
    """
    from timm.models._manipulate import group_with_matcher  # two seconds that other models need not wait for

    numbered = group_with_matcher(((name, name) for name in [*names, _UNMATCHED]), _without_tail(matcher))
    drafts: list[GroupDraft] = []
    for position, number in enumerate(sorted(numbered)):
        members = [name for name in numbered[number] if name != _UNMATCHED]
        role: Role = "block"
        if len(members) < len(numbered[number]):
            role = "neck"
        elif position == 0 and _is_stem(members[0], matcher):
            role = "stem"
        drafts.append(GroupDraft(role, role, members))
    return _with_names(_with_shared_parts_in_stem(drafts, names))


def with_stage_names(drafts: list[GroupDraft]) -> list[GroupDraft]:
    """Name a stage of one block "blocks.0" as its neighbours are, not "blocks.0.0"."""
    paths = [draft.name for draft in drafts if draft.role == "block"]
    depth = min((path.count(".") for path in paths), default=0) + 1
    short = [".".join(d.name.split(".")[:depth]) if d.role == "block" else d.name for d in drafts]
    if len(set(short)) < len(short):
        return drafts
    return [GroupDraft(name, draft.role, draft.parameter_names) for name, draft in zip(short, drafts, strict=True)]


def with_unique_names(drafts: Sequence[GroupDraft], prefix: str) -> list[GroupDraft]:
    """Prefix names as in the wrapping model; number a path that two groups share, or that is the name of a role."""
    seen: set[str] = set()
    renamed: list[GroupDraft] = []
    for position, draft in enumerate(drafts):
        if not draft.parameter_names:
            continue
        name = prefix + draft.name if draft.role == "block" else draft.name
        name = f"{name}#{position}" if name in seen or (draft.role == "block" and name in get_args(Role)) else name
        seen.add(name)
        renamed.append(GroupDraft(name, draft.role, [prefix + parameter for parameter in draft.parameter_names]))
    return renamed


def common_path(names: Sequence[str]) -> str:
    """The longest module path that all parameter names share."""
    split = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _with_names(drafts: Sequence[GroupDraft]) -> list[GroupDraft]:
    """Name each block by the module path that holds it alone: of all its parameters, or else of most of them."""
    homes: defaultdict[str, set[int]] = defaultdict(set)
    for index, draft in enumerate(drafts):
        for path in {path for name in draft.parameter_names for path in _paths_above(name)}:
            homes[path].add(index)
    named: list[GroupDraft] = []
    for draft in drafts:
        name = draft.name
        if draft.role == "block" and draft.parameter_names:
            name = common_path(draft.parameter_names)
            if not name or len(homes[name]) > 1:
                own = (next((p for p in _paths_above(n) if len(homes[p]) == 1), "") for n in draft.parameter_names)
                most = Counter(path for path in own if path).most_common(1)
                name = most[0][0] if most else name or draft.parameter_names[0]
        named.append(GroupDraft(name, draft.role, draft.parameter_names))
    return named


def _paths_above(name: str) -> Iterator[str]:
    """The paths of the modules that a parameter is in, from the outermost inwards."""
    parts = name.split(".")
    return (".".join(parts[:depth]) for depth in range(1, len(parts)))


def _with_shared_parts_in_stem(drafts: list[GroupDraft], names: Sequence[str]) -> list[GroupDraft]:
    """Move unmatched modules that are made before the blocks, such as shared position embeddings, to the stem."""
    ends = {draft.role: draft.parameter_names for draft in drafts if draft.role in ("stem", "neck")}
    place = {name: position for position, name in enumerate(names)}
    first_block = min((place[draft.parameter_names[0]] for draft in drafts if draft.role == "block"), default=0)
    for name in list(ends["neck"]):
        if "stem" in ends and "." in name and place[name] < first_block:
            ends["neck"].remove(name)
            ends["stem"].append(name)
    return drafts


def _is_stem(name: str, matcher: Matcher) -> bool:
    """Whether the parameter is of the stem: matched by a first pattern of that name; functions number it 0."""
    if not isinstance(matcher, Mapping):
        return True
    key, patterns = next(iter(matcher.items()))
    alternatives = [patterns] if isinstance(patterns, str) else [pattern for pattern, _ in patterns or ()]
    return key.startswith("stem") and any(re.match(pattern, name) for pattern in alternatives)


def _without_tail(matcher: Matcher) -> Matcher:
    """Drop the patterns without a number that timm joins to the last block, such as the final norm.

    Unmatched names form a last group of their own, which is where a pretrained part behind the blocks belongs.
    """
    if not isinstance(matcher, Mapping):
        return matcher
    kept: dict[str, Any] = {}
    for key, patterns in matcher.items():
        if key != "stem" and isinstance(patterns, list | tuple):
            patterns = [p for p in patterns if p[1] != MATCH_PREV_GROUP or re.compile(p[0]).groups]
        kept[key] = patterns
    return kept
