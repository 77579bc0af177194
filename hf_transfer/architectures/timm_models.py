"""timm models, bare or inside transformers' TimmWrapper, through timm's own `group_matcher`."""

from __future__ import annotations

import re
from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn

from hf_transfer.architectures.inferred import InferredWrapper
from hf_transfer.layers import Role
from hf_transfer.registry import TIMM, GroupDraft, ModelWrapper, register_wrapper

_UNMATCHED = "\0unmatched"
MATCH_PREV_GROUP = (99999,)


@register_wrapper(TIMM, "timm_wrapper")
class TimmModelWrapper(ModelWrapper):
    """Layer groups of a timm model.

    `group_matcher` gives ordered groups, but puts all that it does not match into the last one: the classifier and
    every pretrained part behind the blocks. The classifier is split out by `pretrained_cfg["classifier"]`, which may
    name several modules; the rest is the neck.
    """

    source = "timm"

    def draft_groups(self) -> list[GroupDraft]:
        inner, prefix = (
            (self.model.timm_model, "timm_model.") if hasattr(self.model, "timm_model") else (self.model, "")
        )
        if not callable(getattr(inner, "group_matcher", None)):
            return InferredWrapper(self.model, self.granularity).draft_groups()
        head_paths = classifier_paths(inner)
        names = [name for name, _ in inner.named_parameters()]
        head = [name for name in names if _inside(name, head_paths)]
        body = [name for name in names if not _inside(name, head_paths)]
        drafts = _body_groups(body, inner.group_matcher(coarse=self.granularity == "stage"))
        if self.granularity == "stage":
            drafts = _with_stage_names(drafts)
        drafts.append(GroupDraft("head", "head", head))
        return _with_unique_names(drafts, prefix)


def _body_groups(names: list[str], matcher: Any) -> list[GroupDraft]:
    """Group all but the classifier; what no pattern matches is the neck."""
    numbered = group_with_matcher(((name, name) for name in [*names, _UNMATCHED]), _without_tail(matcher))
    drafts: list[GroupDraft] = []
    for position, number in enumerate(sorted(numbered)):
        members = [name for name in numbered[number] if name != _UNMATCHED]
        role: Role = "block"
        if len(members) < len(numbered[number]):
            role = "neck"
        elif position == 0 and isinstance(matcher, dict) and next(iter(matcher)) == "stem":
            role = "stem"
        name = role if role != "block" else common_path(members) or f"block.{position}"
        drafts.append(GroupDraft(name, role, members))
    return drafts


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
    depth = min((draft.name.count(".") for draft in drafts if draft.role == "block"), default=0) + 1
    short = [".".join(draft.name.split(".")[:depth]) for draft in drafts]
    if len(set(short)) < len(short):
        return drafts
    return [GroupDraft(name, draft.role, draft.parameter_names) for name, draft in zip(short, drafts, strict=True)]


def classifier_paths(model: nn.Module) -> tuple[str, ...]:
    """Module paths of a timm model's classifiers; empty for a model without a head."""
    named = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    paths = (named,) if isinstance(named, str) else tuple(named)
    parameters = [name for name, _ in model.named_parameters()]
    if any(_inside(name, paths) for name in parameters):
        return paths
    getter = getattr(model, "get_classifier", None)
    found = getter() if callable(getter) else None
    classifiers = [m for m in (found if isinstance(found, tuple | list) else [found]) if isinstance(m, nn.Module)]
    return tuple(name for name, module in model.named_modules() if any(module is c for c in classifiers))


def common_path(names: list[str]) -> str:
    """The longest module path that all parameter names share."""
    split = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _inside(name: str, paths: tuple[str, ...]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _with_unique_names(drafts: list[GroupDraft], prefix: str) -> list[GroupDraft]:
    """Prefix names as in the wrapping model; number a path that two groups share."""
    seen: set[str] = set()
    renamed: list[GroupDraft] = []
    for position, draft in enumerate(drafts):
        if not draft.parameter_names:
            continue
        name = prefix + draft.name if draft.role == "block" else draft.name
        name = f"{name}#{position}" if name in seen else name
        seen.add(name)
        renamed.append(GroupDraft(name, draft.role, [prefix + parameter for parameter in draft.parameter_names]))
    return renamed
