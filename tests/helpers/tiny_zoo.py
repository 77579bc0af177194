"""Tiny random models of nearly all image classifiers of transformers, as options of their configurations."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForImageClassification,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    LevitForImageClassification,
    LevitForImageClassificationWithTeacher,
)

from tests.helpers.tiny import IMAGE_SIZE

_VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
}
_SWIN: dict[str, Any] = {
    "image_size": IMAGE_SIZE,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 2, 1],
    "num_heads": [1, 2, 4],
    "window_size": 2,
}
_FOUR: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_LEVIT: dict[str, Any] = {
    "image_size": 64,
    "hidden_sizes": [16, 24, 32],
    "num_attention_heads": [1, 2, 2],
    "depths": [1, 1, 1],
    "key_dim": [8, 8, 8],
}
_VISION: dict[str, Any] = {"vision_config": _VIT}
OPTIONS: dict[str, dict[str, Any]] = {
    "beit": _VIT,
    "bit": {**_FOUR, "embedding_size": 8, "num_groups": 4},
    "clip": _VISION,
    "convnext": _FOUR,
    "convnextv2": _FOUR,
    "cvt": {"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    "deit-distilled": _VIT,
    "data2vec-vision": _VIT,
    "deit": _VIT,
    "dinov2": {**_VIT, "mlp_ratio": 2},
    "dinov2_with_registers": {**_VIT, "mlp_ratio": 2},
    "donut-swin": _SWIN,
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320, "image_size": 32},
    "focalnet": {
        "image_size": IMAGE_SIZE,
        "embed_dim": 8,
        "hidden_sizes": [8, 16, 16],
        "depths": [1, 1, 2],
        "focal_levels": [1, 1, 1],
        "focal_windows": [3, 3, 3],
    },
    "hgnet_v2": {
        "embedding_size": 8,
        "hidden_sizes": [16, 16, 16, 32],
        "depths": [1, 1, 2, 1],
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 16, 16, 16],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 16, 16, 32],
        "stage_num_blocks": [1, 1, 2, 1],
        "stage_numb_of_layers": [2, 2, 2, 2],
    },
    "hiera": {
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "embed_dim": 8,
        "depths": [1, 1, 2],
        "num_heads": [1, 2, 4],
        "query_stride": [2, 2],
        "masked_unit_size": [4, 4],
        "num_query_pool": 1,
        "masked_unit_attention": [True, True, False],
        "patch_size": [3, 3],
        "patch_stride": [2, 2],
        "patch_padding": [1, 1],
    },
    "ijepa": _VIT,
    "levit": _LEVIT,
    "levit-distilled": _LEVIT,
    "metaclip_2": _VISION,
    "mobilenet_v1": {"image_size": IMAGE_SIZE, "depth_multiplier": 0.25},
    "mobilenet_v2": {"image_size": IMAGE_SIZE, "depth_multiplier": 0.25},
    "mobilevit": {
        "image_size": 64,
        "hidden_sizes": [16, 20, 24],
        "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32],
        "num_attention_heads": 2,
        "mlp_ratio": 2.0,
    },
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.25},
    "poolformer": {**_FOUR, "patch_sizes": [7, 3, 3, 3]},
    "pp_lcnet": {"scale": 0.25},
    "pvt": {**_FOUR, "image_size": IMAGE_SIZE, "num_attention_heads": [1, 2, 2, 2]},
    "pvt_v2": {"image_size": {"height": 32, "width": 32}, "hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 2, 1]},
    "regnet": {**_FOUR, "embedding_size": 8, "groups_width": 8},
    "resnet": {**_FOUR, "embedding_size": 8, "layer_type": "basic"},
    "segformer": {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 2, 1]},
    "siglip": _VISION,
    "swiftformer": {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]},
    "swin": _SWIN,
    "swinv2": _SWIN,
    "textnet": {
        "stem_num_channels": 3,
        "stem_out_channels": 8,
        "hidden_sizes": [8, 8, 16, 16, 32],
        "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3], [1, 3]], [[3, 3]], [[3, 3]]],
        "conv_layer_strides": [[1], [2, 1], [2], [2]],
    },
    "vit": _VIT,
    "vit_msn": _VIT,
}


_SEVERAL_CLASSES: dict[str, Any] = {
    "deit": DeiTForImageClassification,
    "deit-distilled": DeiTForImageClassificationWithTeacher,
    "levit": LevitForImageClassification,
    "levit-distilled": LevitForImageClassificationWithTeacher,
}


def zoo_model(model_type: str) -> nn.Module:
    """A tiny random classifier of three labels."""
    config = CONFIG_MAPPING[model_type.removesuffix("-distilled")](num_labels=3, **OPTIONS[model_type])
    if model_type in _SEVERAL_CLASSES:
        return _SEVERAL_CLASSES[model_type](config)
    model: nn.Module = AutoModelForImageClassification.from_config(config)
    return model


def zoo_image_size(model_type: str) -> int:
    """The size of its images."""
    return 64 if OPTIONS[model_type].get("image_size") == 64 or model_type in ("cvt", "textnet") else IMAGE_SIZE
