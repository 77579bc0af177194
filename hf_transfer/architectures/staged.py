"""Architectures whose blocks are grouped in stages."""

from __future__ import annotations

from hf_transfer.architectures.layout import Layout, LayoutWrapper
from hf_transfer.registry import register_wrapper


@register_wrapper("resnet")
class ResNetWrapper(LayoutWrapper):
    """ResNet; the shortcut convolution is inside the first block of each stage."""

    layout = Layout(stem=("resnet.embedder",), blocks="resnet.encoder.stages.*.layers.*", head=("classifier",))


@register_wrapper("convnext")
class ConvNextWrapper(LayoutWrapper):
    """ConvNeXt; a stage starts with its downsampling layer."""

    layout = Layout(
        stem=("convnext.embeddings",),
        blocks="convnext.encoder.stages.*.layers.*",
        stage_entry=("convnext.encoder.stages.*.downsampling_layer",),
        neck=("convnext.layernorm",),
        head=("classifier",),
    )


@register_wrapper("swin")
class SwinWrapper(LayoutWrapper):
    """Swin; a stage ends with its patch merging."""

    layout = Layout(
        stem=("swin.embeddings",),
        blocks="swin.encoder.layers.*.blocks.*",
        stage_exit=("swin.encoder.layers.*.downsample",),
        neck=("swin.layernorm",),
        head=("classifier",),
    )
