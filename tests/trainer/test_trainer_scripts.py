"""hf_transfer.trainer: scripts that are written for transformers' Trainer get the same truth as the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from transformers import ResNetForImageClassification, ViTForImageClassification, ViTImageProcessor, pipeline

import hf_transfer as ht
from hf_transfer.errors import ArgumentError
from tests.helpers import stock_script, tiny
from tests.helpers.checkpoints import save_timm_resnet, save_vit
from tests.helpers.image_files import picture, write_classes
from tests.helpers.training import RandomImages, arguments

LABELS = ("ant", "bee", "cat")


def _save_resnet(folder: Path) -> Path:
    model = tiny.resnet()
    assert isinstance(model, ResNetForImageClassification)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


SAVERS = {"timm": save_timm_resnet, "vit": save_vit, "resnet": _save_resnet}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of three classes."""
    folder = tmp_path_factory.mktemp("images")
    write_classes(folder / "train", dict.fromkeys(LABELS, 6))
    write_classes(folder / "validation", dict.fromkeys(LABELS, 5), seed=90)
    return folder


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("recipe", [None, "lp_ft"])
def test_a_stock_script_with_two_names_swapped(kind: str, recipe: str | None, images: Path, tmp_path: Path) -> None:
    """It ends with our card, record and figures, a model that `pipeline` loads, and the figures that it computed."""
    base, out = SAVERS[kind](tmp_path / "base"), tmp_path / "out"
    flags = ["--output_dir", str(out), "--num_train_epochs", "1", "--report_to", "none", "--use_cpu"]
    flags += ["--remove_unused_columns", "false", "--eval_strategy", "epoch", "--disable_tqdm", "true"]
    stock_script.main([str(base), str(images), *flags, *(["--recipe", recipe] if recipe else [])])
    card, record = (out / "README.md").read_text(), json.loads((out / "run.json").read_text())
    metrics = json.loads((out / "eval_results.json").read_text())
    evaluation = record["evaluation"]["evaluation"]
    assert evaluation["n"] == 15
    assert evaluation["metrics"]["accuracy"]["value"] == pytest.approx(metrics["eval_accuracy"])
    assert record["data"]["label_names"] == list(LABELS)
    assert ("lp_ft" in card) is (recipe is not None)
    assert "generated from information the Trainer had" not in card
    assert "my images" in card
    assert (out / "figures" / "confusion_matrix.png").is_file()
    answer = pipeline("image-classification", str(out), device="cpu")(picture())
    assert {each["label"] for each in answer} == set(LABELS)


def _trainer(plan: str | None, **options: Any) -> ht.TransferTrainer:
    """The trainer for a plan of this name, or for none."""
    if plan == "linear_probe":
        return ht.LinearProbeTrainer(**options)
    return ht.TransferTrainer(plan=plan, **options)


def _raw(count: int = 12) -> datasets.Dataset:
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=list(LABELS))})
    rows = {"img": [picture(seed) for seed in range(count)], "fine_label": [seed % 3 for seed in range(count)]}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("plan", ["lp_ft", "linear_probe", None])
def test_raw_images_are_passed_through_the_processor(plan: str | None, tmp_path: Path) -> None:
    """Columns of images and labels under any name, without a transform or collator: trained and evaluated."""
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    trainer = _trainer(
        plan,
        model=tiny.vit(),
        args=arguments(tmp_path),
        train_dataset=_raw(),
        eval_dataset=_raw(7),
        processing_class=processor,
    )
    trainer.train()
    assert trainer.predict(trainer.eval_dataset).predictions.shape == (7, 3)


def test_raw_images_without_a_processor_are_refused(tmp_path: Path) -> None:
    """The error says what to give, before anything is trained; so do labels that are text."""
    with pytest.raises(ArgumentError, match="processing_class, or the data set with a transform"):
        ht.TransferTrainer(model=tiny.vit(), args=arguments(tmp_path), train_dataset=_raw(), plan="lp_ft")
    text = _raw().cast_column("fine_label", datasets.Value("string"))
    with pytest.raises(ArgumentError, match="class_encode_column"):
        ht.TransferTrainer(
            model=tiny.vit(),
            args=arguments(tmp_path),
            train_dataset=text.rename_column("fine_label", "label"),
            processing_class=ViTImageProcessor(),
            plan="lp_ft",
        )


class _Returns(ViTForImageClassification):
    """A ViT whose forward returns what a test wants."""

    form = "dict"

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = super().forward(pixel_values).logits
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if self.form == "dict":
            return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}
        return (logits,) if loss is None else (loss, logits)


@pytest.mark.parametrize("form", ["dict", "tuple"])
@pytest.mark.parametrize("plan", ["lp_ft", "linear_probe", "fine_tune"])
def test_any_form_of_outputs_is_understood(form: str, plan: str, tmp_path: Path) -> None:
    """Models whose forward returns a plain dictionary or a tuple are trained, solved and evaluated."""
    model = _Returns(tiny.vit().config)
    model.form = form
    data = RandomImages(24)
    trainer = _trainer(plan, model=model, args=arguments(tmp_path), train_dataset=data, eval_dataset=data)
    trainer.train()
    predicted = trainer.predict(data).predictions
    with torch.no_grad():
        expected = ViTForImageClassification.forward(model.eval(), data.pixels).logits.numpy()
    assert np.allclose(predicted, expected, atol=1e-5)


@pytest.mark.parametrize("plan", ["lp_ft", "linear_probe", None])
def test_evaluations_leave_out_no_image(plan: str | None, tmp_path: Path) -> None:
    """`dataloader_drop_last` is for training: 15 images in batches of 4 are all evaluated."""
    args = arguments(tmp_path, dataloader_drop_last=True, per_device_eval_batch_size=4, eval_strategy="epoch")
    seen: list[int] = []
    trainer = _trainer(
        plan,
        model=tiny.vit(),
        args=args,
        train_dataset=RandomImages(30),
        eval_dataset=RandomImages(15),
        compute_metrics=lambda predicted: seen.append(len(predicted.label_ids)) or {},
    )
    trainer.train()
    trainer.evaluate()
    assert len(trainer.predict(RandomImages(15)).predictions) == 15
    assert set(seen) == {15}
    assert args.dataloader_drop_last


@pytest.mark.parametrize("plan", ["lp_ft", None])
@pytest.mark.parametrize(
    ("count", "options"),
    [(5, {"dataloader_drop_last": True}), (0, {}), (12, {"num_train_epochs": 0})],
    ids=["all dropped", "no images", "no epochs"],
)
def test_no_step_is_an_error_before_training(
    plan: str | None, count: int, options: dict[str, Any], tmp_path: Path
) -> None:
    """Nothing to train is told at once, and nothing is written."""
    args = arguments(tmp_path / "out", save_strategy="epoch", **options)
    with pytest.raises((ArgumentError, ht.TransferError, ValueError), match="step|images|epochs|num_samples"):
        ht.TransferTrainer(model=tiny.vit(), args=args, train_dataset=RandomImages(count), plan=plan).train()
    assert not list((tmp_path / "out").glob("**/*.safetensors"))


def test_parameters_frozen_by_hand_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The plan decides what is trained, and a line says so; a second training is no other case."""
    model = tiny.vit()
    for parameter in model.vit.embeddings.parameters():
        parameter.requires_grad_(False)
    trainer = ht.TransferTrainer(
        model=model, args=arguments(tmp_path), train_dataset=RandomImages(16), plan="fine_tune"
    )
    trainer.train()
    assert "it trains 4 parameters that had been frozen (vit.embeddings" in caplog.text
    caplog.clear()
    fresh = ht.TransferTrainer(
        model=tiny.vit(), args=arguments(tmp_path), train_dataset=RandomImages(16), plan="lp_ft"
    )
    fresh.train()
    fresh.train()
    assert "had been frozen" not in caplog.text


def test_loaders_are_public(images: Path) -> None:
    """`ht.load_images` and the transforms give what the command line trains on."""
    data = ht.load_images(str(images))
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    assert data.train is not None
    rows = data.train.with_transform(ht.train_transform(processor, "light"))
    batch = ht.collate([rows[0], rows[1]])
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert ht.eval_transform(processor) is not None
