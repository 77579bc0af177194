"""What timm's `group_matcher` leaves out or gets wrong, declared in its own form.

A matcher maps the name of a part to patterns over parameter names; a parameter belongs to the first pattern that
fits. Its place is the part's position, then the numbers in the pattern's parentheses, then the numbers behind the
pattern; the same place is the same group. `MATCH_PREV_GROUP` joins the group before. What no pattern fits is the neck.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Patterns = str | tuple[tuple[str, tuple[int | str, ...] | None], ...]
MATCH_PREV_GROUP = (99999,)


@dataclass(frozen=True)
class TimmLayout:
    """Groups of one timm class; its subclasses have them, too.

    Attributes:
        blocks: The matcher for granularity "block". A number behind a pattern may be the name of an integer
            attribute of the model.
        stages: The matcher for granularity "stage"; empty where there are no stages, or each is one block.
        head: Parameters of the head that do not depend on the number of labels, as patterns.
        where: Pattern of a parameter that a model must have for the layout to be used; empty for all of the class.
        reason: Why timm's matcher is not used; empty where timm has none.
    """

    blocks: Mapping[str, Patterns]
    stages: Mapping[str, Patterns] = field(default_factory=dict)
    head: tuple[str, ...] = ()
    where: str = ""
    reason: str = ""


_METAFORMER = TimmLayout(
    blocks={
        "stem": r"^stem",
        "blocks": ((r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^stages\.(\d+)\.downsample", (0,))),
    },
    stages={"stem": r"^stem", "stages": r"^stages\.(\d+)"},
)

_PIT = TimmLayout(
    blocks={
        "stem": r"^(?:patch_embed|pos_embed)",
        "blocks": (
            (r"^transformers\.(\d+)\.blocks\.(\d+)", None),
            (r"^transformers\.(\d+)\.pool", (0,)),
            (r"^cls_token$", (0, 0)),
        ),
    },
    stages={
        "stem": r"^(?:patch_embed|pos_embed)",
        "stages": ((r"^transformers\.(\d+)", None), (r"^cls_token$", (0,))),
    },
)

# A stage is one sequence: a convolution that opens it (but for the first), the blocks, a norm (but for the last).
_CSATV2 = TimmLayout(
    blocks={
        "stem": r"^stem_dct",
        "blocks": (
            (r"^stages\.(\d+)\.0\.(?:weight|bias)$", (1,)),
            (r"^stages\.(\d+)\.(\d+)\.(?:weight|bias)$", MATCH_PREV_GROUP),
            (r"^stages\.(\d+)\.(\d+)", None),
        ),
    },
    stages={"stem": r"^stem_dct", "stages": r"^stages\.(\d+)"},
)

_MOBILENETV5_ENCODER = TimmLayout(
    blocks={"stem": r"^conv_stem", "blocks": r"^blocks\.(\d+)\.(\d+)"},
    stages={"stem": r"^conv_stem", "stages": r"^blocks\.(\d+)"},
)

_CAIT = TimmLayout(
    blocks={
        "stem": r"^(?:patch_embed|pos_embed)",
        "blocks": r"^blocks\.(\d+)",
        "token_blocks": ((r"^blocks_token_only\.(\d+)", None), (r"^cls_token$", (0,))),
    },
    reason="timm joins the class-attention blocks to earlier ones, and the class token to the stem",
)

_COAT = TimmLayout(
    blocks={
        "stem": r"^(?:patch_embed1|cls_token1)",
        "serial": (
            (r"^serial_blocks(\d+)\.(\d+)", None),
            (r"^(?:patch_embed|cls_token|cpe|crpe)(\d+)", (0,)),
        ),
        "parallel": r"^parallel_blocks\.(\d+)",
    },
    stages={
        "stem": r"^(?:patch_embed1|cls_token1)",
        "serial": r"^(?:serial_blocks|patch_embed|cls_token|cpe|crpe)(\d+)",
        "parallel": r"^parallel_blocks",
    },
    reason="timm groups the position encodings that the blocks of a stage share apart from the first block",
)

_CONVIT = TimmLayout(
    blocks={
        "stem": r"^(?:patch_embed|pos_embed)",
        "blocks": ((r"^blocks\.(\d+)", None), (r"^cls_token$", ("local_up_to_layer",))),
    },
    reason="timm puts the class token, which enters at a late block, into the stem",
)

_DPN = TimmLayout(
    blocks={"stem": r"^features\.conv1_", "blocks": r"^features\.conv(\d+)_(\d+)"},
    stages={"stem": r"^features\.conv1_", "stages": r"^features\.conv(\d+)_\d"},
    reason="timm joins the final norm to the last stage",
)

_EFFICIENTVIM = TimmLayout(
    blocks={
        "stem": r"^patch_embed",
        "blocks": (
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.downsample", MATCH_PREV_GROUP),
            (r"^norm\.([012])\.", MATCH_PREV_GROUP),
        ),
    },
    stages={"stem": r"^patch_embed", "stages": ((r"^stages\.(\d+)", None), (r"^norm\.([012])\.", None))},
    head=(r"^weights(?:_dist)?$",),
    reason="timm joins the norms of all stages to the last block; each runs at the end of its stage",
)

_HYBRID_STEM = r"^patch_embed\.backbone\.(?:stem|conv1|bn1)"
_HYBRID_TOKENS = r"^(?:patch_embed|cls_token|reg_token|pos_embed|norm_pre)"
_HYBRID_VIT = TimmLayout(
    blocks={
        "stem": _HYBRID_STEM,
        "backbone": r"^patch_embed\.backbone\.(?:stages\.|layer)(\d+)\.(?:blocks\.)?(\d+)",
        "tokens": _HYBRID_TOKENS,
        "blocks": r"^blocks\.(\d+)",
    },
    stages={
        "stem": _HYBRID_STEM,
        "backbone": r"^patch_embed\.backbone\.(?:stages\.|layer)(\d+)",
        "tokens": _HYBRID_TOKENS,
        "blocks": r"^blocks\.(\d+)",
    },
    where=r"^patch_embed\.backbone\.(?:stages\.|layer)\d",
    reason="timm takes a whole convolutional network in front of the blocks for the stem",
)

_HRNET = TimmLayout(
    blocks={
        "stem": r"^(?:conv|bn)[12]",
        "blocks": (
            (r"^(?:layer|stage)(\d+)\.(\d+)", None),
            (r"^transition(\d+)", MATCH_PREV_GROUP),
        ),
        "fusion": (
            (r"^incre_modules\.(\d+)", None),
            *((rf"^downsamp_modules\.{scale}\.", (scale + 1,)) for scale in range(3)),
        ),
    },
    stages={
        "stem": r"^(?:conv|bn)[12]",
        "stages": r"^(?:layer|stage|transition)(\d+)",
        "fusion": r"^(?:incre|downsamp)_modules",
    },
    reason="timm leaves the modules that join the four resolutions, up to 70% of the weights, to the last group",
)

_SELECSLS = TimmLayout(
    blocks={"stem": r"^stem", "blocks": r"^features\.(\d+)"},
    reason='timm has the pretrained convolutions behind the blocks, which are called "head", as one more block',
)

_VOLO = TimmLayout(
    blocks={
        "stem": r"^patch_embed",
        "blocks": (
            (r"^network\.(\d+)\.(\d+)", None),
            (r"^network\.(\d+)", (0,)),
            (r"^pos_embed$", (2, 0)),
        ),
        "token_blocks": ((r"^post_network\.(\d+)", None), (r"^cls_token$", (0,))),
    },
    stages={
        "stem": r"^patch_embed",
        "stages": ((r"^network\.(\d+)", None), (r"^pos_embed$", (2,))),
        "token_blocks": r"^(?:post_network|cls_token$)",
    },
    reason="timm puts the position embedding and the class token, which enter at later blocks, into the stem",
)

_XCIT = TimmLayout(
    blocks={
        "stem": r"^(?:patch_embed|pos_embed)",
        "blocks": r"^blocks\.(\d+)",
        "token_blocks": ((r"^cls_attn_blocks\.(\d+)", None), (r"^cls_token$", (0,))),
    },
    reason="timm puts the class token, which enters behind the blocks, into the stem",
)

# By class name, as in timm.
LAYOUTS: Mapping[str, TimmLayout] = {
    "CSATv2": _CSATV2,
    "Cait": _CAIT,
    "CoaT": _COAT,
    "ConVit": _CONVIT,
    "DPN": _DPN,
    "EfficientViM": _EFFICIENTVIM,
    "HighResolutionNet": _HRNET,
    "MetaFormer": _METAFORMER,
    "MobileNetV5Encoder": _MOBILENETV5_ENCODER,
    "PoolingVisionTransformer": _PIT,
    "SelecSls": _SELECSLS,
    "VOLO": _VOLO,
    "VisionTransformer": _HYBRID_VIT,
    "Xcit": _XCIT,
}
