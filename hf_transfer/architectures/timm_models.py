"""timm models, bare or inside transformers' TimmWrapper, through timm's own `group_matcher`."""

from __future__ import annotations

import re
from typing import Any, get_args

from hf_transfer.architectures.classifier import classifier_paths, is_inside
from hf_transfer.layers import Role
from hf_transfer.registry import TIMM, TIMM_WRAPPER, GroupDraft, ModelWrapper, register_wrapper

_UNMATCHED = "\0unmatched"
# Name, up to the number, of a block whose parts have no module path in common.
_INVENTED = "block."
MATCH_PREV_GROUP = (99999,)


@register_wrapper(TIMM, TIMM_WRAPPER)
class TimmModelWrapper(ModelWrapper):
    """Layer groups of a timm model.

    `group_matcher` gives ordered groups, but puts all that it does not match into the last one: the classifier and
    every pretrained part behind the blocks. The classifier is split out by `pretrained_cfg["classifier"]`, which may
    name several modules; the rest is the neck.
    """

    source = "timm"

    def draft_groups(self) -> list[GroupDraft]:
        inner: Any = getattr(self.model, "timm_model", self.model)
        coarse = self.granularity == "stage"
        head_paths = classifier_paths(inner)
        names = [name for name, _ in inner.named_parameters()]
        drafts = _body_groups([name for name in names if not is_inside(name, head_paths)], _matcher(inner, coarse))
        if coarse:
            drafts = _with_stage_names(drafts)
        drafts.append(GroupDraft("head", "head", [name for name in names if is_inside(name, head_paths)]))
        return _with_unique_names(drafts, "" if inner is self.model else "timm_model.")


def _matcher(model: Any, coarse: bool) -> Any:
    try:
        return model.group_matcher(coarse=coarse)
    except AssertionError:  # RDNet has no coarse groups and says so by an assertion
        return model.group_matcher(coarse=False)


def _body_groups(names: list[str], matcher: Any) -> list[GroupDraft]:
    """Group all but the classifier; what no pattern matches is the neck."""
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
        name = role if role != "block" else common_path(members) or f"{_INVENTED}{position}"
        drafts.append(GroupDraft(name, role, members))
    return _with_shared_parts_in_stem(drafts, names)


def _with_shared_parts_in_stem(drafts: list[GroupDraft], names: list[str]) -> list[GroupDraft]:
    """Move unmatched modules that are made before the blocks, such as shared position embeddings, to the stem."""
    ends = {draft.role: draft.parameter_names for draft in drafts if draft.role in ("stem", "neck")}
    place = {name: position for position, name in enumerate(names)}
    first_block = min((place[draft.parameter_names[0]] for draft in drafts if draft.role == "block"), default=0)
    for name in list(ends["neck"]):
        if "stem" in ends and "." in name and place[name] < first_block:
            ends["neck"].remove(name)
            ends["stem"].append(name)
    return drafts


def _is_stem(name: str, matcher: Any) -> bool:
    """Whether the parameter is of the stem: matched by a first pattern of that name; functions number it 0."""
    if not isinstance(matcher, dict):
        return True
    key, patterns = next(iter(matcher.items()))
    alternatives = [patterns] if isinstance(patterns, str) else [pattern for pattern, _ in patterns or ()]
    return key.startswith("stem") and any(re.match(pattern, name) for pattern in alternatives)


def _without_tail(matcher: Any) -> Any:
    """Drop the patterns without a number that timm joins to the last block, such as the final norm.

    Unmatched names form a last group of their own, which is where a pretrained part behind the blocks belongs.
    """
    if not isinstance(matcher, dict):
        return matcher
    kept: dict[str, Any] = {}
    for key, patterns in matcher.items():
        if key != "stem" and isinstance(patterns, list | tuple):
            patterns = [p for p in patterns if p[1] != MATCH_PREV_GROUP or re.compile(p[0]).groups]
        kept[key] = patterns
    return kept


def _with_stage_names(drafts: list[GroupDraft]) -> list[GroupDraft]:
    """Name a stage of one block "blocks.0" as its neighbours are, not "blocks.0.0"."""
    paths = [draft.name for draft in drafts if draft.role == "block" and not draft.name.startswith(_INVENTED)]
    depth = min((path.count(".") for path in paths), default=0) + 1
    short = [".".join(draft.name.split(".")[:depth]) if draft.name in paths else draft.name for draft in drafts]
    if len(set(short)) < len(short):
        return drafts
    return [GroupDraft(name, draft.role, draft.parameter_names) for name, draft in zip(short, drafts, strict=True)]


def common_path(names: list[str]) -> str:
    """The longest module path that all parameter names share."""
    split = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _with_unique_names(drafts: list[GroupDraft], prefix: str) -> list[GroupDraft]:
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
