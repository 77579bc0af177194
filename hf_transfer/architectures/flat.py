"""Architectures whose blocks are one flat list, each declared as data."""

from __future__ import annotations

from hf_transfer.architectures.layout import Layout, register_layout

_CLASSIFIER = ("classifier",)


def _transformer(
    prefix: str,
    blocks: str,
    *,
    head: tuple[str, ...] = _CLASSIFIER,
    unused: tuple[str, ...] = (),
    reused: tuple[str, ...] = (),
) -> Layout:
    """A vision transformer: embeddings, layers, and a final norm, which some configurations put into a pooler."""
    return Layout(
        # A relative position bias that all layers share first runs before the first of them.
        stem=tuple(
            f"{prefix}.{part}" for part in ("embeddings", "shared_position_bias", "encoder.relative_position_bias")
        ),
        blocks=f"{prefix}.{blocks}.*",
        neck=(f"{prefix}.layernorm", f"{prefix}.pooler"),
        head=head,
        unused=tuple(f"{prefix}.{part}" for part in unused),
        reused=tuple(f"{prefix}.{part}" for part in reused),
    )


def _vision_tower(unused: tuple[str, ...] = ()) -> Layout:
    """The image half of a model of images and texts; its `head` is a pretrained pooling, not the classifier."""
    return Layout(
        stem=("vision_model.embeddings", "vision_model.pre_layrnorm"),
        blocks="vision_model.encoder.layers.*",
        neck=("vision_model.post_layernorm", "vision_model.head"),
        head=_CLASSIFIER,
        unused=unused,
    )


FLAT = {
    "beit": _transformer("beit", "layers", unused=("embeddings.mask_token",)),
    # The classifier averages the patches as they are before the norm, which only the class token would pass.
    "clip": _vision_tower(unused=("vision_model.post_layernorm",)),
    "data2vec-vision": _transformer(
        "data2vec_vision",
        "encoder.layer",
        unused=("embeddings.mask_token",),
        reused=("encoder.relative_position_bias",),
    ),
    "deit": _transformer("deit", "layers", head=("classifier", "cls_classifier", "distillation_classifier")),
    "dinov2": _transformer("dinov2", "encoder.layer", unused=("embeddings.mask_token",)),
    "dinov2_with_registers": _transformer("dinov2_with_registers", "encoder.layer", unused=("embeddings.mask_token",)),
    # The last 1x1 convolution is pretrained, hence neck.
    "efficientnet": Layout(
        stem=("efficientnet.embeddings",),
        blocks="efficientnet.encoder.blocks.*",
        neck=("efficientnet.encoder.top_conv", "efficientnet.encoder.top_bn"),
        head=_CLASSIFIER,
    ),
    "ijepa": _transformer("ijepa", "layers"),
    "imagegpt": Layout(
        stem=("transformer.wte", "transformer.wpe"),
        blocks="transformer.h.*",
        neck=("transformer.ln_f",),
        head=("score",),
    ),
    "metaclip_2": _vision_tower(unused=("vision_model.post_layernorm",)),
    "mobilenet_v1": Layout(stem=("mobilenet_v1.conv_stem",), blocks="mobilenet_v1.layer.*", head=_CLASSIFIER),
    # The last 1x1 convolution is pretrained, hence neck.
    "mobilenet_v2": Layout(
        stem=("mobilenet_v2.conv_stem",),
        blocks="mobilenet_v2.layer.*",
        neck=("mobilenet_v2.conv_1x1",),
        head=_CLASSIFIER,
    ),
    # The classifier averages the patches itself and passes the pooling by.
    "siglip": _vision_tower(unused=("vision_model.head",)),
    "siglip2": _vision_tower(unused=("vision_model.head",)),
    "vit": _transformer("vit", "layers", unused=("embeddings.mask_token",)),
    "vit_msn": _transformer("vit", "layers", unused=("embeddings.mask_token",)),
}

for _model_type, _layout in FLAT.items():
    register_layout(_model_type, layout=_layout)
