"""A tiny model of every image classifier that transformers registers, and a batch for it, each declared as data.

Dropout and drop path are off, so that two ways of computing one step can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

IMAGE_SIZE = 32
_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "drop_path_rate": 0.0,
}
_DINO = _VIT | {"mlp_ratio": 2}
_SWIN = {
    "image_size": IMAGE_SIZE,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [2, 1, 2],
    "num_heads": [1, 2, 4],
    "window_size": 2,
    "drop_path_rate": 0.0,
}
_WIDTHS = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]}
_PYRAMID = _WIDTHS | {"num_attention_heads": [1, 2, 2, 4], "drop_path_rate": 0.0}
_LEVIT = {
    "image_size": 64,
    "hidden_sizes": [16, 24, 32],
    "num_attention_heads": [1, 2, 2],
    "depths": [1, 2, 1],
    "key_dim": [4, 4, 4],
}
_MOBILEVIT = {"image_size": 64, "classifier_dropout_prob": 0.0}
_PERCEIVER = {
    "num_latents": 4,
    "d_latents": 16,
    "d_model": 16,
    "num_blocks": 2,
    "num_self_attends_per_block": 3,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 1,
    "image_size": IMAGE_SIZE,
    "attention_probs_dropout_prob": 0.0,
}
_TOWER = {k: _VIT[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
_VISION = {"vision_config": _TOWER | {"image_size": IMAGE_SIZE, "patch_size": 8}}

OPTIONS: dict[str, dict[str, Any]] = {
    "BeitForImageClassification": _VIT | {"use_mask_token": True, "use_shared_relative_position_bias": True},
    "BitForImageClassification": _WIDTHS | {"embedding_size": 8, "num_groups": 2},
    "CLIPForImageClassification": _VISION,
    "ConvNextForImageClassification": _WIDTHS | {"drop_path_rate": 0.0},
    "ConvNextV2ForImageClassification": _WIDTHS | {"drop_path_rate": 0.0},
    "CvtForImageClassification": {
        "embed_dim": [8, 16, 24],
        "num_heads": [1, 2, 2],
        "depth": [1, 2, 3],  # it reads the drop path rate of a block by the number of its stage
        "drop_path_rate": [0.0, 0.0, 0.0],
    },
    "Data2VecVisionForImageClassification": _VIT | {"use_mask_token": True, "use_shared_relative_position_bias": True},
    "DeiTForImageClassification": _VIT,
    "DeiTForImageClassificationWithTeacher": _VIT,
    "DinatForImageClassification": {
        "embed_dim": 8,
        "depths": [1, 2, 1],
        "num_heads": [1, 2, 2],
        "kernel_size": 3,
        "drop_path_rate": 0.0,
    },
    "Dinov2ForImageClassification": _DINO,
    "Dinov2WithRegistersForImageClassification": _DINO | {"num_register_tokens": 2},
    "DonutSwinForImageClassification": _SWIN,
    "EfficientNetForImageClassification": {
        "image_size": IMAGE_SIZE,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.5,
        "hidden_dim": 320,
        "dropout_rate": 0.0,
        "drop_connect_rate": 0.0,
        "initializer_range": 0.2,  # smaller weights vanish beside the epsilon of its batch norms
    },
    "FocalNetForImageClassification": {
        "image_size": IMAGE_SIZE,
        "embed_dim": 8,
        "depths": [1, 2, 1],
        "focal_levels": [1, 1, 1],
        "focal_windows": [3, 3, 3],
        "hidden_sizes": [8, 16, 32],
        "drop_path_rate": 0.0,
    },
    "HGNetV2ForImageClassification": _WIDTHS
    | {
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 8, 16, 24],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [8, 16, 24, 32],
        "stage_num_blocks": [1, 2, 1, 1],
        "stage_numb_of_layers": [2, 2, 2, 2],
    },
    "HieraForImageClassification": {
        "image_size": [64, 64],
        "embed_dim": 8,
        "depths": [1, 2, 1, 1],
        "num_heads": [1, 1, 2, 2],
    },
    "IJepaForImageClassification": _VIT,
    "ImageGPTForImageClassification": {
        "vocab_size": 17,
        "n_positions": 16,
        "n_embd": 16,
        "n_layer": 3,
        "n_head": 2,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "LevitForImageClassification": _LEVIT,
    "LevitForImageClassificationWithTeacher": _LEVIT,
    "MetaClip2ForImageClassification": _VISION,
    "MobileNetV1ForImageClassification": {
        "image_size": IMAGE_SIZE,
        "depth_multiplier": 0.25,
        "classifier_dropout_prob": 0.0,
    },
    "MobileNetV2ForImageClassification": {
        "image_size": IMAGE_SIZE,
        "depth_multiplier": 0.25,
        "classifier_dropout_prob": 0.0,
    },
    "MobileViTForImageClassification": _MOBILEVIT
    | {"hidden_sizes": [8, 8, 16], "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32], "num_attention_heads": 2}
    | {"hidden_dropout_prob": 0.0},
    "MobileViTV2ForImageClassification": _MOBILEVIT | {"width_multiplier": 0.25, "base_attn_unit_dims": [32, 32, 32]},
    "PerceiverForImageClassificationLearned": _PERCEIVER,
    # The channels of their position encodings, 261 and 322, are no multiple of more heads than one.
    "PerceiverForImageClassificationFourier": _PERCEIVER,
    "PerceiverForImageClassificationConvProcessing": _PERCEIVER,
    "PoolFormerForImageClassification": _WIDTHS,
    "PPLCNetForImageClassification": {
        "scale": 0.25,
        "class_expand": 32,
        "hidden_dropout_prob": 0.0,
    },
    "PvtForImageClassification": _PYRAMID | {"image_size": IMAGE_SIZE},
    "PvtV2ForImageClassification": _PYRAMID | {"image_size": IMAGE_SIZE},
    "RegNetForImageClassification": _WIDTHS | {"embedding_size": 8, "groups_width": 8},
    "ResNetForImageClassification": _WIDTHS | {"embedding_size": 8, "layer_type": "basic"},
    "SegformerForImageClassification": _PYRAMID,
    "SiglipForImageClassification": _VISION,
    "Siglip2ForImageClassification": {"vision_config": _TOWER | {"num_patches": 16, "patch_size": 8}},
    "SwiftFormerForImageClassification": {"depths": [1, 2, 1, 1], "embed_dims": [8, 16, 24, 32]},
    "SwinForImageClassification": _SWIN,
    "Swinv2ForImageClassification": _SWIN,
    "TextNetForImageClassification": {
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "stem_out_channels": 8,
        "hidden_sizes": [8, 8, 16, 16, 24],
        "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3], [1, 3]], [[3, 3]], [[3, 1]]],
        "conv_layer_strides": [[2], [2, 1], [2], [2]],
    },
    "TimmWrapperForImageClassification": {
        "architecture": "resnet18",
        "do_pooling": True,
        "model_args": {"channels": (8, 16, 24, 32), "stem_width": 8},
    },
    "ViTForImageClassification": _VIT,
    "ViTMSNForImageClassification": _VIT,
}
# Parameters of a head whose shape does not depend on the number of labels.
HEAD_EXTRAS = {
    "LevitForImageClassification": {"classifier.batch_norm"},
    "LevitForImageClassificationWithTeacher": {"classifier.batch_norm", "classifier_distill.batch_norm"},
}
REFUSED = ("ShieldGemma2ForImageClassification",)
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def registered_classes() -> dict[str, str]:
    """Every class of `AutoModelForImageClassification`, with its model type."""
    found = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.items()
    return {c: model_type for model_type, names in found for c in ((names,) if isinstance(names, str) else names)}


def make(name: str, num_labels: int = 3) -> nn.Module:
    """A tiny model with the weights of a fixed seed."""
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    options = OPTIONS[name]
    zeros = {} if "vision_config" in options else {k: v for k, v in _NO_DROPOUT.items() if k not in options}
    if name.startswith("TimmWrapper"):
        zeros = {}
    with _without_natten(name):
        return cls(cls.config_class(num_labels=num_labels, **{**zeros, **options}))


def batch(name: str, images: int = 4) -> dict[str, torch.Tensor]:
    """Inputs, without labels."""
    generator = torch.Generator().manual_seed(1)
    if name.startswith("ImageGPT"):
        return {"input_ids": torch.randint(0, 16, (images, 16), generator=generator)}
    if name.startswith("Siglip2"):
        return {
            "pixel_values": torch.randn(images, 16, 3 * 8 * 8, generator=generator),
            "pixel_attention_mask": torch.ones(images, 16, dtype=torch.long),
            "spatial_shapes": torch.tensor([[4, 4]] * images),
        }
    size = {"Hiera": 64, "Levit": 64, "Mobil": 64}.get(name[:5], IMAGE_SIZE)
    size = 224 if name.endswith(("Fourier", "ConvProcessing")) else size
    size = IMAGE_SIZE if name.startswith("MobileNet") else size
    key = "inputs" if name.startswith("Perceiver") else "pixel_values"
    return {key: torch.randn(images, 3, size, size, generator=generator)}


@contextmanager
def _without_natten(name: str) -> Iterator[None]:
    """Build DiNAT without natten: its kernels are needed to run the model, not to make it."""
    if name.startswith("Dinat"):
        with mock.patch("transformers.models.dinat.modeling_dinat.requires_backends"):
            yield
    else:
        yield
