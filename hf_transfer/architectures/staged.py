"""Architectures whose blocks are grouped in stages, each declared as data."""

from __future__ import annotations

from hf_transfer.architectures.layout import Layout, register_layout

_CLASSIFIER = ("classifier",)


def _swin(prefix: str) -> Layout:
    """Swin and its descendants: a stage ends with its patch merging."""
    return Layout(
        stem=(f"{prefix}.embeddings",),
        blocks=f"{prefix}.encoder.layers.*.blocks.*",
        stage_exit=(f"{prefix}.encoder.layers.*.downsample",),
        neck=(f"{prefix}.layernorm",),
        head=_CLASSIFIER,
        unused=(f"{prefix}.embeddings.mask_token",),
    )


def _convnext(prefix: str) -> Layout:
    """ConvNeXt and its successor: a stage starts with its downsampling layer."""
    return Layout(
        stem=(f"{prefix}.embeddings",),
        blocks=f"{prefix}.encoder.stages.*.layers.*",
        stage_entry=(f"{prefix}.encoder.stages.*.downsampling_layer",),
        neck=(f"{prefix}.layernorm",),
        head=_CLASSIFIER,
    )


def _mobilevit(prefix: str) -> Layout:
    """MobileViT 1 and 2: stages of inverted residuals, then stages of one transformer block each.

    The transformer block is one group, as its layers run between two ends of one skip connection.
    """
    return Layout(
        stem=(f"{prefix}.conv_stem",),
        blocks=(f"{prefix}.encoder.layer.*.layer.*", f"{prefix}.encoder.layer.*"),
        neck=(f"{prefix}.conv_1x1_exp",),
        head=_CLASSIFIER,
    )


STAGED = {
    "bit": Layout(
        stem=("bit.embedder",), blocks="bit.encoder.stages.*.layers.*", neck=("bit.norm",), head=_CLASSIFIER
    ),
    "convnext": _convnext("convnext"),
    "convnextv2": _convnext("convnextv2"),
    "cvt": Layout(
        stem=(),
        blocks="cvt.encoder.stages.*.layers.*",
        stage_entry=("cvt.encoder.stages.*.embedding", "cvt.encoder.stages.*.cls_token"),
        neck=("layernorm",),
        head=_CLASSIFIER,
    ),
    "dinat": Layout(
        stem=("dinat.embeddings",),
        blocks="dinat.encoder.levels.*.layers.*",
        stage_exit=("dinat.encoder.levels.*.downsample",),
        neck=("dinat.layernorm",),
        head=_CLASSIFIER,
    ),
    "donut-swin": _swin("donut"),
    "focalnet": Layout(
        stem=("focalnet.embeddings",),
        blocks="focalnet.encoder.stages.*.layers.*",
        stage_exit=("focalnet.encoder.stages.*.downsample",),
        neck=("focalnet.layernorm",),
        head=_CLASSIFIER,
        unused=("focalnet.embeddings.mask_token",),
    ),
    "hgnet_v2": Layout(
        stem=("embedder",),
        blocks="encoder.stages.*.blocks.*",
        stage_entry=("encoder.stages.*.downsample",),
        head=("fc",),
    ),
    "hiera": Layout(
        stem=("hiera.embeddings",),
        blocks="hiera.encoder.stages.*.layers.*",
        neck=("hiera.pooler",),
        head=_CLASSIFIER,
    ),
    # A head is a batch norm and a linear layer, drawn together.
    "levit": Layout(
        stem=("levit.patch_embeddings",),
        blocks="levit.encoder.stages.*.layers.*",
        head=("classifier", "classifier_distill"),
    ),
    "mobilevit": _mobilevit("mobilevit"),
    "mobilevitv2": _mobilevit("mobilevitv2"),
    # Stages lie in two parallel lists: patch_embeddings.0, block.0, patch_embeddings.1, block.1, ...
    "poolformer": Layout(
        stem=(),
        blocks="poolformer.encoder.block.*.*",
        stage_entry=("poolformer.encoder.patch_embeddings.*",),
        neck=("norm",),
        head=_CLASSIFIER,
    ),
    # The last convolution is pretrained, hence neck.
    "pp_lcnet": Layout(
        stem=("encoder.convolution",),
        blocks="encoder.blocks.*.layers.*",
        neck=("last_convolution",),
        head=("head",),
    ),
    "pvt": Layout(
        stem=(),
        blocks="pvt.encoder.block.*.*",
        stage_entry=("pvt.encoder.patch_embeddings.*",),
        neck=("pvt.encoder.layer_norm",),
        head=_CLASSIFIER,
    ),
    "pvt_v2": Layout(
        stem=(),
        blocks="pvt_v2.encoder.layers.*.blocks.*",
        stage_entry=("pvt_v2.encoder.layers.*.patch_embedding",),
        stage_exit=("pvt_v2.encoder.layers.*.layer_norm",),
        head=_CLASSIFIER,
    ),
    # The shortcut convolution is inside the first block of each stage.
    "regnet": Layout(stem=("regnet.embedder",), blocks="regnet.encoder.stages.*.layers.*", head=_CLASSIFIER),
    "resnet": Layout(stem=("resnet.embedder",), blocks="resnet.encoder.stages.*.layers.*", head=_CLASSIFIER),
    "segformer": Layout(
        stem=(),
        blocks="segformer.stages.*.blocks.*",
        stage_entry=("segformer.stages.*.patch_embeddings",),
        stage_exit=("segformer.stages.*.layer_norm",),
        head=_CLASSIFIER,
    ),
    # One list holds the stages and, between them, the downsampling: network.1 opens the stage network.2.
    "swiftformer": Layout(
        stem=("swiftformer.patch_embed",),
        blocks="swiftformer.encoder.network.*.blocks.*",
        stage_entry=("swiftformer.encoder.network.*",),
        neck=("norm",),
        head=("head", "dist_head"),
    ),
    "swin": _swin("swin"),
    "swinv2": _swin("swinv2"),
    "textnet": Layout(stem=("textnet.stem",), blocks="textnet.encoder.stages.*.stage.*", head=("fc",)),
}

for _model_type, _layout in STAGED.items():
    register_layout(_model_type, layout=_layout)
