"""hf_transfer.models.channels, and processors for them: the first convolution is made from the pretrained one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    CLIPImageProcessor,
    MobileViTImageProcessor,
    PerceiverConfig,
    ViTImageProcessor,
)
from transformers import PerceiverForImageClassificationLearned as Perceiver

from hf_transfer.data import Preprocessing, eval_transform, train_transform, with_num_channels
from hf_transfer.data.preprocessing import image_mode
from hf_transfer.errors import ArgumentError, ModelError
from hf_transfer.models.channels import change_channels, num_channels
from hf_transfer.models.loading import load_for_training
from tests.helpers import tiny
from tests.helpers.adapted import check_loads_alone, images_of, logits, randomise
from tests.helpers.checkpoints import save_timm_resnet, save_vit

MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": tiny.vit,
    "resnet": tiny.resnet,
    "swin": tiny.swin,
    "wrapped timm": lambda: tiny.timm_wrapper("resnet18"),
    "timm vit": lambda: tiny.timm_model("vit_tiny_patch16_224"),
}


@pytest.mark.parametrize("name", MODELS)
def test_grey_is_the_sum_and_loads_alone(name: str, tmp_path: Path) -> None:
    """A grey image gives what its copies in red, green and blue gave; the saved model takes one channel."""
    model = randomise(MODELS[name]())
    grey = change_channels(model, 1)
    images = images_of(tiny.IMAGE_SIZE, 1)
    assert torch.allclose(logits(grey, images), logits(model, images.repeat(1, 3, 1, 1)), rtol=1e-3, atol=1e-5)
    assert (num_channels(grey), num_channels(model)) == (1, 3)
    check_loads_alone(grey, tmp_path, images)


@pytest.mark.parametrize("name", ["vit", "wrapped timm"])
def test_four_channels_repeat_and_rescale(name: str, tmp_path: Path) -> None:
    """Kernels R, G, B, R times 3/4, as timm does for in_chans; everything else bit for bit."""
    model = randomise(MODELS[name]())
    changed = change_channels(model, 4)
    old, differing = model.state_dict(), []
    for key, value in changed.state_dict().items():
        if old[key].shape != value.shape:
            differing.append(key)
            assert torch.allclose(value, old[key][:, [0, 1, 2, 0]] * 0.75)
        else:
            assert torch.equal(value, old[key])
    assert len(differing) == 1
    check_loads_alone(changed, tmp_path, images_of(tiny.IMAGE_SIZE, 4))


def test_what_has_no_channels_is_refused() -> None:
    """Counts without images, and a model whose configuration has no such setting."""
    with pytest.raises(ModelError, match="one of 1"):
        change_channels(tiny.vit(), 2)
    config = PerceiverConfig(
        num_latents=4,
        d_latents=16,
        d_model=512,
        num_self_attends_per_block=1,
        num_self_attention_heads=2,
        num_cross_attention_heads=1,
        image_size=8,
    )
    with pytest.raises(ModelError, match="no setting"):
        change_channels(Perceiver(config), 1)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("kind", [ViTImageProcessor, CLIPImageProcessor, MobileViTImageProcessor])
def test_processors_follow(kind: type, channels: int, tmp_path: Path) -> None:
    """Mode, mean and standard deviation fit the channels, also after saving; colour files are converted."""
    with_num_channels(kind(), channels).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert image_mode(processor) == {1: "L", 4: "RGBA"}[channels]
    assert len(Preprocessing.from_processor(processor).mean) == channels
    photo = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    for transform in (eval_transform(processor), *(train_transform(processor, a) for a in ("light", "standard"))):
        assert transform({"image": [photo, photo]})["pixel_values"].shape[:2] == (2, channels)


def test_processor_of_no_such_count() -> None:
    """Two channels are no image mode."""
    with pytest.raises(ArgumentError, match="one of 1, 3, 4"):
        with_num_channels(ViTImageProcessor(), 2)


@pytest.mark.parametrize("save", [save_vit, save_timm_resnet])
def test_size_and_channels_together(save: Callable[[Path], Path], tmp_path: Path) -> None:
    """load_for_training fits model and processor; the saved folder alone takes a grey picture of the new size."""
    loaded = load_for_training(str(save(tmp_path / "base")), ("a", "b"), image_size=48, num_channels=1)
    folder = tmp_path / "run"
    check_loads_alone(loaded.model, folder, images_of(48, 1))
    loaded.processor.save_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)(PIL.Image.new("L", (70, 60)), return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 1, 48, 48)
