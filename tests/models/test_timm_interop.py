"""hf_transfer.models.timm_interop: a timm model in a transformers checkpoint is one for timm, too."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

import hf_transfer as ht
from hf_transfer.models.timm_interop import complete_timm_config, strip_timm_prefix
from tests.helpers import tiny
from tests.helpers.checkpoints import save_timm_resnet, save_vit
from tests.helpers.training import arguments


def test_timm_and_transformers_give_the_same_logits(tmp_path: Path) -> None:
    """A saved TimmWrapper loads in both libraries with equal logits; the weights keep their metadata."""
    save_timm_resnet(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours = AutoModelForImageClassification.from_pretrained(tmp_path).eval()(images).logits
        theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(images)
    assert torch.equal(ours, theirs)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert weights.metadata() == {"format": "pt"}


def test_new_label_names_replace_the_old_ones(tmp_path: Path) -> None:
    """After loading with another head, the configuration names the new labels, not those of the checkpoint."""
    save_timm_resnet(tmp_path / "old")
    names = {0: "x", 1: "y"}
    model = AutoModelForImageClassification.from_pretrained(
        tmp_path / "old", num_labels=2, id2label=names, ignore_mismatched_sizes=True
    )
    complete_timm_config(model)
    model.save_pretrained(tmp_path / "new")
    written = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (written["label_names"], written["num_classes"]) == (["x", "y"], 2)
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "new").config.id2label == names


def test_processor_settings_are_merged() -> None:
    """What the processor says replaces the preprocessing and keeps the rest, such as the classifier's name."""

    class Processor:
        pretrained_cfg = {"input_size": [3, 48, 48], "num_classes": 7}

    model = tiny.timm_wrapper("resnet18")
    model.config.pretrained_cfg = {"classifier": "fc", "input_size": [3, 32, 32]}
    complete_timm_config(model, Processor())
    assert model.config.pretrained_cfg == {"classifier": "fc", "input_size": [3, 48, 48]}
    assert model.config.model_args


def test_trainer_strips_the_prefix_of_wrappers_only(tmp_path: Path) -> None:
    """A user's own module that has a part called timm_model keeps its names; its own state dict fits the file."""

    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.timm_model = torch.nn.Linear(2, 2)

    trainer = ht.TransferTrainer(Own(), arguments(tmp_path))
    trainer.save_model()
    assert set(load_file(tmp_path / "model.safetensors")) == {"timm_model.weight", "timm_model.bias"}


def test_other_models_are_left_alone(tmp_path: Path) -> None:
    """A ViT's configuration and weights do not change, and a folder without weights is no error."""
    save_vit(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    strip_timm_prefix(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    strip_timm_prefix(tmp_path / "empty")
    model = tiny.vit()
    keys = set(model.config.to_dict())
    complete_timm_config(model)
    assert set(model.config.to_dict()) == keys
