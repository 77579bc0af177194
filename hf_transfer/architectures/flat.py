"""Architectures whose blocks are one flat list."""

from __future__ import annotations

from hf_transfer.architectures.layout import Layout, LayoutWrapper
from hf_transfer.registry import register_wrapper


@register_wrapper("vit")
class ViTWrapper(LayoutWrapper):
    """ViT."""

    layout = Layout(stem=("vit.embeddings",), blocks="vit.layers.*", neck=("vit.layernorm",), head=("classifier",))


@register_wrapper("dinov2")
class Dinov2Wrapper(LayoutWrapper):
    """DINOv2."""

    layout = Layout(
        stem=("dinov2.embeddings",),
        blocks="dinov2.encoder.layer.*",
        neck=("dinov2.layernorm",),
        head=("classifier",),
    )


@register_wrapper("efficientnet")
class EfficientNetWrapper(LayoutWrapper):
    """EfficientNet; the last 1x1 convolution is pretrained, hence neck."""

    layout = Layout(
        stem=("efficientnet.embeddings",),
        blocks="efficientnet.encoder.blocks.*",
        neck=("efficientnet.encoder.top_conv", "efficientnet.encoder.top_bn"),
        head=("classifier",),
    )


@register_wrapper("mobilenet_v2")
class MobileNetV2Wrapper(LayoutWrapper):
    """MobileNetV2; the last 1x1 convolution is pretrained, hence neck."""

    layout = Layout(
        stem=("mobilenet_v2.conv_stem",),
        blocks="mobilenet_v2.layer.*",
        neck=("mobilenet_v2.conv_1x1",),
        head=("classifier",),
    )
