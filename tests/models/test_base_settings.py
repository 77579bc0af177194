"""hf_transfer.models.base_settings: what a base checkpoint's configuration may decide for a new task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from hf_transfer.errors import ModelError
from hf_transfer.models.loading import check_trainable, load_for_training, load_trained
from tests.helpers.checkpoints import save_timm_resnet, save_vit

SAVERS = {"vit": save_vit, "timm": save_timm_resnet}
OVERRIDDEN: dict[str, tuple[dict[str, Any], str, Any]] = {
    "regression": ({"problem_type": "regression"}, "problem_type", "single_label_classification"),
    "several labels": ({"problem_type": "multi_label_classification"}, "problem_type", "single_label_classification"),
    "attentions": ({"output_attentions": True}, "output_attentions", False),
    "hidden states": ({"output_hidden_states": True}, "output_hidden_states", False),
    "tuples": ({"return_dict": False}, "return_dict", True),
    "half precision": ({"dtype": "float16"}, "dtype", torch.float32),
    "half precision, as transformers 4 wrote it": ({"torch_dtype": "bfloat16"}, "dtype", torch.float32),
}


def _with(folder: Path, settings: dict[str, Any], file: str = "config.json") -> str:
    """The folder, with other settings in one of its files."""
    path = folder / file
    stored = json.loads(path.read_text())
    stored.pop("dtype", None)
    path.write_text(json.dumps(stored | settings))
    return str(folder)


@pytest.mark.parametrize("kind", sorted(SAVERS))
@pytest.mark.parametrize("case", sorted(OVERRIDDEN))
def test_the_task_of_the_base_is_overridden(
    kind: str, case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Loss, outputs and type of the weights are those of the new task; a warning and the record name the old ones."""
    settings, field, wanted = OVERRIDDEN[case]
    name = _with(SAVERS[kind](tmp_path / "m"), settings)
    loaded = load_for_training(name, ("a", "b", "c"))
    assert getattr(loaded.model.config, field) == wanted
    assert loaded.base.to_dict()["overridden"] == {field: next(iter(settings.values()))}
    assert f"{field}: {next(iter(settings.values()))}" in caplog.text
    assert all(value.dtype == torch.float32 for value in loaded.model.parameters())
    labels = torch.tensor([0, 1, 2])
    output = loaded.model(torch.randn(3, 3, 32, 32), labels=labels)
    assert torch.allclose(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    loaded.model.save_pretrained(tmp_path / "saved")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert getattr(again.config, field) == wanted


def test_an_ordinary_base_is_not_talked_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is overridden in a checkpoint that says nothing of its task."""
    for kind, saver in SAVERS.items():
        assert "overridden" not in load_for_training(str(saver(tmp_path / kind)), ("a", "b")).base.to_dict()
    assert "overridden" not in caplog.text


def test_weights_in_half_precision_are_trained_in_single_precision(tmp_path: Path) -> None:
    """Weights stored as float16 under a configuration that says nothing: float32, with the stored values."""
    folder = save_vit(tmp_path / "m")
    weights = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config))
    stored = load_trained(str(folder)).model
    assert stored.dtype == torch.float16
    own, expected = load_for_training(str(folder), ("a", "b", "c")).model.state_dict(), stored.float().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in own.items())


def test_another_name_of_the_weights_is_forgotten(tmp_path: Path) -> None:
    """A base whose configuration names its file of weights: the saved model loads from the usual one."""
    folder = save_vit(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "average.safetensors")
    name = _with(folder, {"transformers_weights": "average.safetensors"})
    load_for_training(name, ("a", "b")).model.save_pretrained(tmp_path / "saved")
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "saved").config.num_labels == 2


def test_arguments_of_timm_that_name_files_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`checkpoint_path` and the like in model_args would read other weights; sizes stay."""
    folder = save_timm_resnet(tmp_path / "m")
    given = json.loads((folder / "config.json").read_text())["model_args"]
    name = _with(folder, {"model_args": given | {"checkpoint_path": "elsewhere.pth", "drop_rate": 0.25}})
    loaded = load_for_training(name, ("a", "b"))
    assert loaded.model.config.model_args == given | {"drop_rate": 0.25}
    assert loaded.base.to_dict()["overridden"] == {"model_args.checkpoint_path": "set"}  # and no path


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("vit", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantised weights"),
        ("timm", {"model_args": {"features_only": True}}, "feature extractor without a classifier"),
    ],
)
def test_what_cannot_be_trained_is_refused(kind: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Quantised weights and feature extractors: a ModelError, also before any image is read."""
    name = _with(SAVERS[kind](tmp_path / "m"), settings)
    with pytest.raises(ModelError, match=message):
        check_trainable(name)
    with pytest.raises(ModelError, match=message):
        load_for_training(name, ("a", "b"))


@pytest.mark.parametrize(
    "settings",
    [{"size": {"height": 64, "width": 64}}, {"image_mean": [0.5], "image_std": [0.5]}],
    ids=["size", "channels"],
)
def test_a_processor_of_another_size_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    """Images that the model cannot take are refused before any is read, unless their size is to be changed."""
    name = _with(save_vit(tmp_path / "m"), settings, "preprocessor_config.json")
    with pytest.raises(ModelError, match="makes images of .*which the model of its config.json does not take"):
        check_trainable(name)
    check_trainable(name, own_size=False)


def test_the_memory_layout_of_a_processor_is_overridden(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A processor that puts channels last, or works on a GPU: channels come first, on the CPU, as saved."""
    name = _with(save_vit(tmp_path / "m"), {"data_format": "channels_last"}, "preprocessor_config.json")
    loaded = load_for_training(name, ("a", "b"))
    loaded.processor.save_pretrained(tmp_path / "saved")
    stored = json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
    assert stored["data_format"] == "channels_first"
    assert "processor.data_format: channels_last" in caplog.text
