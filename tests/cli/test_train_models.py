"""hf-transfer train on models of all kinds: bare names, other sizes and channels, and what it refuses early."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ImageGPTImageProcessor,
    PerceiverImageProcessor,
    Siglip2ImageProcessor,
)

from hf_transfer.cli import main
from hf_transfer.reporting.record import RunRecord
from tests.helpers import every_transformers_class
from tests.helpers.checkpoints import save_vit
from tests.helpers.image_files import write_classes

LABELS = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="module")
def few_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for split, count, seed in (("train", 2, 0), ("validation", 1, 1000)):
        write_classes(folder / split, dict.fromkeys(LABELS, count), seed)
    return folder


def _train(model: Path | str, images: Path | str, output: Path, *flags: str) -> int:
    required = ("--model_name_or_path", str(model), "--dataset", str(images), "--output_dir", str(output))
    return main(["train", *required, "--max_steps", "1", "--per_device_train_batch_size", "8", *flags])


@pytest.mark.slow
def test_bare_name_is_trained_and_not_called_fine_tuned(
    few_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An architecture's name trains from random weights, on small grey images, and output and card say so."""
    flags = ("--recipe", "fine_tune", "--image_size", "32", "--num_channels", "1")
    assert _train("timm:test_resnet", few_photos, tmp_path / "run", *flags) == 0
    assert "all weights are random" in capsys.readouterr().out
    card = (tmp_path / "run" / "README.md").read_text()
    assert "trained from scratch" in card
    assert "base_model:" not in card
    record = RunRecord.load(tmp_path / "run" / "run.json")
    assert record.base_model["random_weights"] is True
    assert len(record.preprocessing["mean"]) == 1
    weights = load_file(tmp_path / "run" / "model.safetensors")
    stem = [value.shape[1] for name, value in weights.items() if name.startswith("conv1.") and value.ndim == 4]
    assert min(stem) == 1
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["model_args"], config["pretrained_cfg"]["input_size"]) == ({"in_chans": 1}, [1, 32, 32])
    assert main(["evaluate", str(tmp_path / "run"), "--dataset", str(few_photos)]) == 0


@pytest.mark.slow
def test_size_and_channels_reach_the_saved_model(few_photos: Path, tmp_path: Path) -> None:
    """--image_size and --num_channels: the output folder takes a grey image of the new size without hf_transfer."""
    flags = ("--recipe", "linear_probe", "--image_size", "48", "--num_channels", "1")
    assert _train(save_vit(tmp_path / "vit"), few_photos, tmp_path / "run", *flags) == 0
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "run")(PIL.Image.new("L", (9, 9)), return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 1, 48, 48)
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "run")(**pixels).logits.shape == (1, 4)


def _save(name: str, processor: object, folder: Path) -> Path:
    every_transformers_class.make(name).save_pretrained(folder)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


@pytest.mark.slow
def test_perceiver_is_trained(few_photos: Path, tmp_path: Path) -> None:
    """A model that calls its images `inputs` takes them as pixel_values, too."""
    processor = PerceiverImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    model = _save("PerceiverForImageClassificationLearned", processor, tmp_path / "model")
    assert _train(model, few_photos, tmp_path / "run", "--recipe", "fine_tune") == 0
    assert RunRecord.load(tmp_path / "run" / "run.json").training["steps"] == 1


@pytest.mark.parametrize(
    ("name", "processor", "message"),
    [
        ("ImageGPTForImageClassification", ImageGPTImageProcessor(), "it takes input_ids, and not"),
        ("Siglip2ForImageClassification", Siglip2ImageProcessor(), "it takes pixel_attention_mask, spatial_shapes"),
    ],
)
def test_other_inputs_are_refused_before_images_are_read(
    name: str, processor: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is told in one line, although the folder of images does not even exist."""
    model = _save(name, processor, tmp_path / "model")
    assert _train(model, tmp_path / "no images", tmp_path / "run") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert message in line and name in line


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:mobilenetv5_300m_enc", "Load 'mobilenetv5_300m' of timm instead"),
        ("transformers:imagegpt", "it takes input_ids"),
        ("transformers:shieldgemma2", "it has no classification head"),
        ("transformers:vitt", "Similar: transformers:vit"),
    ],
)
def test_architectures_that_cannot_be_trained_are_refused_first(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Encoders without classifier, other inputs and unknown names end in one line before images are read."""
    assert _train(name, tmp_path / "no images", tmp_path / "run") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert message in line
