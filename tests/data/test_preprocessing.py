"""hf_transfer.data.preprocessing: what processors do, as they are seen to do it, and the change of their size."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import timm
import torch
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    EfficientNetImageProcessor,
    LevitImageProcessor,
    MobileNetV2ImageProcessor,
    MobileViTImageProcessor,
    PerceiverImageProcessor,
    PoolFormerImageProcessor,
    Siglip2ImageProcessor,
    TextNetImageProcessor,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
    ViTImageProcessorPil,
)

from hf_transfer.data import Preprocessing, with_image_size
from hf_transfer.data.preprocessing import output_size
from hf_transfer.errors import ArgumentError
from tests.helpers.image_files import picture

HALF = (0.5, 0.5, 0.5)


def timm_processor(name: str = "tf_efficientnet_lite0", **changes: Any) -> Any:
    """The processor of a timm model, from its published settings."""
    settings = timm.get_pretrained_cfg(name).to_dict() | changes
    return TimmWrapperImageProcessor(pretrained_cfg=settings, architecture=name)


# Processor, then height, resize, resize_to, crop, std.
CASES: dict[str, tuple[Any, int | None, str, tuple[int, ...], str, tuple[float, ...]]] = {
    "vit": (ViTImageProcessor(), 224, "squash", (224, 224), "none", HALF),
    "vit pil": (ViTImageProcessorPil(), 224, "squash", (224, 224), "none", HALF),
    "deit": (DeiTImageProcessor(), 224, "squash", (256, 256), "center", HALF),
    "clip": (CLIPImageProcessor(), 224, "shortest_edge", (224,), "center", (0.26862954, 0.26130258, 0.27577711)),
    "convnext": (ConvNextImageProcessor(), 384, "squash", (384, 384), "none", HALF),
    "convnext 224": (
        ConvNextImageProcessor(size={"shortest_edge": 224}),
        224,
        "shortest_edge",
        (256,),
        "center",
        HALF,
    ),
    # Its published checkpoints divide by the standard deviation twice.
    "efficientnet": (EfficientNetImageProcessor(), 346, "squash", (346, 346), "none", (0.25, 0.25, 0.25)),
    "mobilenet": (MobileNetV2ImageProcessor(), 224, "shortest_edge", (256,), "center", HALF),
    "mobilevit": (MobileViTImageProcessor(), 256, "shortest_edge", (224,), "center", (1.0, 1.0, 1.0)),
    "levit": (LevitImageProcessor(), 224, "shortest_edge", (256,), "center", (0.229, 0.224, 0.225)),
    "poolformer": (PoolFormerImageProcessor(), 224, "shortest_edge", (248,), "center", (0.229, 0.224, 0.225)),
    "textnet": (TextNetImageProcessor(), None, "shortest_edge", (640,), "none", (0.229, 0.224, 0.225)),
    "siglip2": (Siglip2ImageProcessor(), None, "none", (), "none", HALF),
    "timm": (timm_processor(), 224, "shortest_edge", (256,), "center", HALF),
    "timm squash": (timm_processor(crop_mode="squash"), 224, "squash", (256, 256), "center", HALF),
}


@pytest.mark.parametrize("name", CASES)
def test_settings_are_read(name: str) -> None:
    """Size, resize, crop and normalisation of the processors of all families."""
    processor, height, resize, resize_to, crop, std = CASES[name]
    found = Preprocessing.from_processor(processor)
    assert (found.height, found.width) == (height, height)
    assert (found.resize, found.resize_to, found.crop) == (resize, resize_to, crop)
    assert found.std == std
    assert found.rescale == pytest.approx(1 / 255)
    assert json.loads(json.dumps(found.to_dict()))["std"] == list(std)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"siglip2", "textnet"}))
def test_settings_describe_what_is_applied(name: str) -> None:
    """(v * rescale - mean) / std is what becomes of a plain image, whatever the attributes say."""
    processor = CASES[name][0]
    found = Preprocessing.from_processor(processor)
    image = picture().resize((1, 1)).convert("L").convert("RGB").resize((400, 400))
    value = image.getpixel((0, 0))[0]  # type: ignore[index]
    pixels = processor(images=[image], return_tensors="pt")["pixel_values"][0, :, 120, 120]
    expected = (value * found.rescale - np.array(found.mean)) / np.array(found.std)
    assert np.allclose(pixels, expected, atol=1e-4)


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(),
        ViTImageProcessorPil(size={"height": 64, "width": 48}),
        DeiTImageProcessor(),
        CLIPImageProcessor(),
        BitImageProcessor(size={"shortest_edge": 448}, crop_size={"height": 384, "width": 384}),
        ConvNextImageProcessor(),
        ConvNextImageProcessor(size={"shortest_edge": 224}),
        EfficientNetImageProcessor(),
        MobileNetV2ImageProcessor(),
        MobileViTImageProcessor(),
        LevitImageProcessor(),
        PoolFormerImageProcessor(),
        PerceiverImageProcessor(),
        TextNetImageProcessor(),
        timm_processor(),
        timm_processor("vit_base_patch16_clip_224.openai"),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_size_can_be_changed(processor: Any) -> None:
    """Every form of size gives square images of the new one; the original stays as it is."""
    before = output_size(processor)
    changed = with_image_size(processor, 96)
    assert output_size(changed) == (96, 96)
    assert output_size(processor) == before
    assert changed(images=[picture(0, 300, 200)], return_tensors="pt")["pixel_values"].shape == (1, 3, 96, 96)


def test_the_share_that_a_crop_keeps_stays() -> None:
    """256 to 224 becomes 110 to 96; ConvNeXt's and timm's fractions stay."""
    assert dict(with_image_size(DeiTImageProcessor(), 96).size) == {"height": 110, "width": 110}
    assert with_image_size(ConvNextImageProcessor(), 96).crop_pct == ConvNextImageProcessor().crop_pct
    changed = with_image_size(timm_processor(), 96)
    assert changed.data_config == {**timm_processor().data_config, "input_size": (3, 96, 96)}
    assert changed.pretrained_cfg["input_size"] == (3, 96, 96)


def test_the_changed_size_is_saved(tmp_path: Any) -> None:
    """A checkpoint with another size loads with that size."""
    with_image_size(CLIPImageProcessor(), 64).save_pretrained(tmp_path)
    assert output_size(CLIPImageProcessor.from_pretrained(tmp_path)) == (64, 64)


@pytest.mark.parametrize("size", [0, -32])
def test_sizes_must_be_positive(size: int) -> None:
    """No image has zero pixels."""
    with pytest.raises(ArgumentError, match="positive number of pixels"):
        with_image_size(ViTImageProcessor(), size)


def test_a_processor_without_images_has_no_size() -> None:
    """SigLIP 2 makes patches: the error says to leave the flag out."""
    with pytest.raises(ArgumentError, match="Siglip2ImageProcessor cannot make images of 96 pixels. Leave out"):
        with_image_size(Siglip2ImageProcessor(), 96)


def test_sizes_that_depend_on_the_image_are_none() -> None:
    """Without a crop the shortest edge alone is fixed."""
    assert output_size(TextNetImageProcessor(size={"shortest_edge": 64})) == (None, None)
    assert torch.is_tensor(TextNetImageProcessor()(images=[picture()], return_tensors="pt")["pixel_values"])
