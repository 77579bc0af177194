"""Factories of tiny models: real classes of transformers and timm, most of a few thousand weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

IMAGE_SIZE = 32


def vit(num_labels: int = 3, **options: object) -> nn.Module:
    defaults: dict[str, object] = {"num_hidden_layers": 3, "hidden_dropout_prob": 0.1}
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=IMAGE_SIZE,
            patch_size=8,
            num_labels=num_labels,
            **(defaults | options),
        )
    )


def dinov2(num_labels: int = 3) -> nn.Module:
    return Dinov2ForImageClassification(
        Dinov2Config(
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            mlp_ratio=2,
            image_size=IMAGE_SIZE,
            patch_size=8,
            drop_path_rate=0.1,
            num_labels=num_labels,
        )
    )


def swin(num_labels: int = 3) -> nn.Module:
    return SwinForImageClassification(
        SwinConfig(
            image_size=IMAGE_SIZE,
            patch_size=4,
            embed_dim=8,
            depths=[2, 1, 2],
            num_heads=[1, 2, 4],
            window_size=2,
            num_labels=num_labels,
        )
    )


def convnext(num_labels: int = 3) -> nn.Module:
    return ConvNextForImageClassification(
        ConvNextConfig(
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 2, 1],
            image_size=IMAGE_SIZE,
            drop_path_rate=0.1,
            num_labels=num_labels,
        )
    )


def resnet(num_labels: int = 3) -> nn.Module:
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 2, 1, 2],
            layer_type="basic",
            num_labels=num_labels,
        )
    )


def efficientnet(num_labels: int = 3) -> nn.Module:
    return EfficientNetForImageClassification(
        EfficientNetConfig(
            image_size=IMAGE_SIZE,
            width_coefficient=0.25,
            depth_coefficient=0.5,
            hidden_dim=320,  # 1280 * width_coefficient: the width of its last convolution
            num_labels=num_labels,
        )
    )


def mobilenet_v2(num_labels: int = 3) -> nn.Module:
    return MobileNetV2ForImageClassification(
        MobileNetV2Config(image_size=IMAGE_SIZE, depth_multiplier=0.25, num_labels=num_labels)
    )


TRANSFORMERS_MODELS: dict[str, Callable[..., nn.Module]] = {
    "vit": vit,
    "dinov2": dinov2,
    "swin": swin,
    "convnext": convnext,
    "resnet": resnet,
    "efficientnet": efficientnet,
    "mobilenet_v2": mobilenet_v2,
}
# What makes each timm architecture small.
_TIMM_OPTIONS: dict[str, dict[str, object]] = {
    "resnet18": {"channels": (8, 16, 24, 32), "stem_width": 8},
    "tf_efficientnet_lite0": {},  # takes no smaller width: 3.4 million weights
    "vit_tiny_patch16_224": {"img_size": IMAGE_SIZE, "patch_size": 8, "embed_dim": 24, "depth": 3},
}
TIMM_NAMES = tuple(_TIMM_OPTIONS)


def timm_model(name: str, num_labels: int = 3) -> nn.Module:
    return timm.create_model(name, pretrained=False, num_classes=num_labels, **_TIMM_OPTIONS.get(name, {}))


def timm_wrapper(name: str, num_labels: int = 3) -> nn.Module:
    return TimmWrapperForImageClassification(
        TimmWrapperConfig(
            architecture=name, num_labels=num_labels, model_args=dict(_TIMM_OPTIONS.get(name, {})), do_pooling=True
        )
    )


TIMM_MODELS: dict[str, Callable[..., nn.Module]] = {f"timm:{name}": partial(timm_model, name) for name in TIMM_NAMES}
TIMM_WRAPPERS: dict[str, Callable[..., nn.Module]] = {
    f"wrapped:{name}": partial(timm_wrapper, name) for name in TIMM_NAMES
}
ALL_MODELS: dict[str, Callable[..., nn.Module]] = TRANSFORMERS_MODELS | TIMM_MODELS | TIMM_WRAPPERS
