"""timm models, bare or inside transformers' TimmWrapper, through timm's own `group_matcher` or a declared one."""

from __future__ import annotations

import logging
import re
import weakref
from typing import Any

from torch import nn

from hf_transfer.architectures.classifier import classifier_paths
from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.registry import TIMM, TIMM_WRAPPER, register
from hf_transfer.architectures.timm_grouping import Matcher, body_groups, with_stage_names, with_unique_names
from hf_transfer.architectures.timm_layouts import LAYOUTS, Patterns, TimmLayout
from hf_transfer.architectures.wrapper import Granularity, GroupDraft, ModelWrapper
from hf_transfer.errors import LayerGroupError
from hf_transfer.utils.foreign import configured, timm_inner, timm_settings
from hf_transfer.utils.modules import is_inside

logger = logging.getLogger(__name__)

# A model is wrapped many times in a run, but warned about once.
_WARNED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@register(TIMM, TIMM_WRAPPER)
class TimmModelWrapper(ModelWrapper):
    """Layer groups of a timm model.

    Blocks come from a declared layout (see `timm_layouts`), or else from timm's `group_matcher`. The head is what timm
    names as classifier; there may be several.
    """

    source = "timm"

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether a layout is declared for the model, or timm itself groups it."""
        inner = timm_inner(model)
        return callable(getattr(inner, "group_matcher", None)) or declared_layout(inner) is not None

    @property
    def head(self) -> LayerGroup:
        """The group that maps features to labels.

        Raises:
            LayerGroupError: The model was made with `num_classes=0`, or is an encoder that takes no classifier.
        """
        if without_classifier(self.inner):
            raise LayerGroupError(_without_classifier_message(self.inner))
        return super().head

    @property
    def inner(self) -> Any:
        """The timm model itself, also where transformers' TimmWrapper is around it."""
        return timm_inner(self.model)

    @property
    def unused_parameters(self) -> tuple[str, ...]:
        """The declared weights that mix classifiers, in a model without any: timm keeps them, switched off."""
        layout = declared_layout(self.inner)
        if layout is None or classifier_paths(self.inner):
            return ()
        prefix = "" if self.inner is self.model else "timm_model."
        names = [name for name, _ in self.inner.named_parameters()]
        return tuple(prefix + name for name in names if any(re.search(pattern, name) for pattern in layout.head))

    def draft_groups(self) -> list[GroupDraft]:
        inner = self.inner
        if without_classifier(inner) and inner not in _WARNED:
            _WARNED.add(inner)
            logger.warning(_without_classifier_message(inner))
        names = [name for name, _ in inner.named_parameters()]
        head = head_parameters(inner)
        body = [name for name in names if name not in head]
        drafts = body_groups(body, matcher_of(inner, self.granularity))
        if self.granularity == "stage":
            drafts = with_stage_names(drafts)
        drafts.append(GroupDraft("head", "head", [name for name in names if name in head]))
        drafts = with_unique_names(drafts, "" if inner is self.model else "timm_model.")
        return with_tail(drafts, configured(self.model, "ends_after"))


def with_tail(drafts: list[GroupDraft], ends_after: Any) -> list[GroupDraft]:
    """One group of all that lies between the block after which a model ends and its head."""
    names = [draft.name for draft in drafts]
    if ends_after not in names:
        return drafts
    kept = drafts[: names.index(ends_after) + 1]
    behind = drafts[len(kept) :]
    tail = [name for draft in behind if draft.role != "head" for name in draft.parameter_names]
    return [*kept, GroupDraft("tail", "tail", tail), *(draft for draft in behind if draft.role == "head")]


def without_classifier(model: nn.Module) -> bool:
    """Whether a timm model is an encoder of a vision-language model, which ignores the number of labels."""
    return type(model).__module__.startswith("timm.") and not hasattr(model, "get_classifier")


def _without_classifier_message(model: Any) -> str:
    name = timm_settings(model).get("architecture") or type(model).__name__
    return (
        f"{name} is an encoder without a classification head, whatever `num_classes` says: its features can be used, "
        f"but it cannot be trained on labels. Load {name.removesuffix('_enc')!r} of timm instead."
    )


def declared_layout(model: nn.Module) -> TimmLayout | None:
    """The layout declared for a class of timm or one that it derives from; none for classes of that name elsewhere."""
    for cls in type(model).__mro__:
        layout = LAYOUTS.get(cls.__name__) if cls.__module__.startswith("timm.") else None
        if layout and (not layout.where or any(re.search(layout.where, name) for name, _ in model.named_parameters())):
            return layout
    return None


def matcher_of(model: Any, granularity: Granularity) -> Matcher:
    """The declared matcher of a timm model, or timm's own."""
    layout = declared_layout(model)
    if layout is not None:
        chosen = layout.stages if granularity == "stage" and layout.stages else layout.blocks
        return {key: _resolved(patterns, model) for key, patterns in chosen.items()}
    try:
        return model.group_matcher(coarse=granularity == "stage")
    except AssertionError:  # RDNet has no coarse groups and says so by an assertion
        return model.group_matcher(coarse=False)


def head_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that map features to labels; empty for a model without a classifier."""
    paths = classifier_paths(model)
    layout = declared_layout(model)
    extras = layout.head if layout is not None and paths else ()
    return frozenset(
        name
        for name, _ in model.named_parameters()
        if is_inside(name, paths) or any(re.search(pattern, name) for pattern in extras)
    )


def _resolved(patterns: Patterns, model: nn.Module) -> Patterns:
    """The patterns with the names of integer attributes replaced by their values."""
    if isinstance(patterns, str):
        return patterns
    return tuple(
        (pattern, numbers and tuple(getattr(model, n) if isinstance(n, str) else n for n in numbers))
        for pattern, numbers in patterns
    )
