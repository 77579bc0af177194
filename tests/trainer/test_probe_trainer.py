"""LinearProbeTrainer: checkpoints decide as the solver did, after reloading, whatever the head is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    LevitConfig,
    LevitForImageClassification,
    LevitForImageClassificationWithTeacher,
)

import hf_transfer as ht
from hf_transfer.data import eval_transform
from hf_transfer.errors import ArgumentError, DataError, ModelError, PlanError
from hf_transfer.models.origins import base_model_of
from hf_transfer.reporting.card import render_card
from hf_transfer.trainer.record import bare_record
from tests.helpers import tiny
from tests.helpers.labelled_images import counting, labelled_images, processor
from tests.helpers.training import RandomImages, arguments


def _levit(kind: type[nn.Module]) -> nn.Module:
    config = LevitConfig(
        image_size=32, patch_size=16, hidden_sizes=[16, 24, 32], num_attention_heads=[1, 2, 2], depths=[1, 1, 1],
        key_dim=[8, 8, 8], mlp_ratio=[1, 1, 1], attention_ratio=[1, 1, 1], num_labels=3,
    )  # fmt: skip
    model = kind(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return model


def _deit_with_two_heads() -> nn.Module:
    return DeiTForImageClassificationWithTeacher(
        DeiTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
                   patch_size=8, num_labels=3)
    )  # fmt: skip


def _without_bias() -> nn.Module:
    model: Any = tiny.vit()
    model.classifier = nn.Linear(16, 3, bias=False)
    return model


def _convolution() -> nn.Module:
    return timm.create_model("resnetv2_18", num_classes=3, channels=(8, 16, 24, 32), stem_chs=8)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit with dropout": tiny.vit,
    "resnet": tiny.resnet,
    "convnext": tiny.convnext,
    "swin": tiny.swin,
    "levit": lambda: _levit(LevitForImageClassification),
    "levit with two heads": lambda: _levit(LevitForImageClassificationWithTeacher),
    "deit with two heads": _deit_with_two_heads,
    "timm": lambda: tiny.timm_wrapper("resnet18"),
    "bare timm": lambda: tiny.timm_model("vit_tiny_patch16_224"),
    "no bias": _without_bias,
    "1x1 convolution": _convolution,
}
RELOADED = ("vit with dropout", "resnet", "convnext", "swin", "levit", "levit with two heads", "timm")


def _logits(model: nn.Module, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        output: Any = model.eval()(images)
    return (output if isinstance(output, torch.Tensor) else output.logits).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_model_gives_the_solvers_scores(name: str, tmp_path: Path) -> None:
    """The model's own forward pass, after saving and loading where it can, gives what predict() gave from features."""
    torch.manual_seed(0)
    data = RandomImages(30)
    trainer = ht.LinearProbeTrainer(MODELS[name](), arguments(tmp_path), train_dataset=data, eval_dataset=data)
    result = trainer.train()
    assert result.global_step == 0 and result.metrics["held_out_accuracy"] == trainer.solution.solved.accuracy
    predicted = trainer.predict(data)
    model = trainer.model
    if name in RELOADED:
        trainer.save_model()
        model = AutoModelForImageClassification.from_pretrained(tmp_path)
        if name == "levit with two heads":
            model = type(trainer.model).from_pretrained(tmp_path)
    logits = _logits(model, data.pixels)
    np.testing.assert_allclose(logits, predicted.predictions, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(logits.argmax(1), predicted.predictions.argmax(1))
    assert (logits.argmax(1) == data.labels.numpy()).mean() == pytest.approx(result.metrics["train_accuracy"])
    assert predicted.metrics["test_loss"] == pytest.approx(result.training_loss, rel=1e-3)


@pytest.mark.parametrize("solver", ["svm", "ridge", "sgd"])
def test_other_solvers(solver: Any, tmp_path: Path) -> None:
    """Each solver's head is in the model, and the body is untouched."""
    model, data = tiny.resnet(), RandomImages(30)
    before = {n: p.clone() for n, p in model.named_parameters() if not n.startswith("classifier")}
    trainer = ht.LinearProbeTrainer(model, arguments(tmp_path), train_dataset=data, solver=solver)
    trainer.train()
    np.testing.assert_allclose(_logits(model, data.pixels), trainer.predict(data).predictions, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)
    assert trainer.solver_facts()["solver"] == solver
    assert trainer.plan_facts()["plan"]["recipe"] == ("svm" if solver == "svm" else "linear_probe")


def test_images_pass_through_the_network_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second training and all evaluations decode no image and run no backbone, but for the check of a few."""
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    model: Any = tiny.vit()
    images = processor()
    data, held_out = (
        d.with_transform(eval_transform(images)) for d in (labelled_images(40), labelled_images(12, 100))
    )
    trainer = ht.LinearProbeTrainer(
        model, arguments(tmp_path), train_dataset=data, eval_dataset=held_out, processing_class=images
    )
    with counting(monkeypatch, model.vit.layers[0]) as first:
        trainer.train()
        trainer.evaluate()
    assert first.decoded == 40 + 12 + 8
    again = ht.LinearProbeTrainer(
        model, arguments(tmp_path), train_dataset=data, eval_dataset=held_out, processing_class=images, solver="svm"
    )
    with counting(monkeypatch, model.vit.layers[0]) as second:
        again.train()
        again.evaluate()
        again.predict(held_out)
    assert second.decoded == 8 and second.images == 8


def test_a_named_layer_gives_a_truncated_model(tmp_path: Path) -> None:
    """For an earlier layer the checkpoint is a smaller model of the same class; it decides as the solver did."""
    data = RandomImages(30)
    trainer = ht.LinearProbeTrainer(tiny.vit(), arguments(tmp_path), train_dataset=data, layer="vit.layers.1")
    trainer.train()
    trainer.save_model()
    loaded: Any = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.num_hidden_layers == 2
    assert trainer.solution is not None and trainer.solution.layer.layer == "vit.layers.1"
    saved = sum(parameter.numel() for parameter in loaded.parameters())
    record = bare_record(trainer).to_dict() | {"base_model": base_model_of(tiny.vit()).to_dict()}
    assert record["training"]["parameters"] == saved < record["base_model"]["parameters"]
    assert f"{saved:,} parameters, architecture" in render_card(record)
    np.testing.assert_allclose(_logits(loaded, data.pixels), trainer.predict(data).predictions, rtol=1e-3, atol=1e-3)


def test_a_layer_that_no_checkpoint_can_end_at_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """timm's EfficientNets with SiLU cannot be truncated: the last layer is read, and the reason is kept."""
    model = tiny.timm_wrapper("efficientnet_b0")
    trainer = ht.LinearProbeTrainer(
        model, arguments(tmp_path), train_dataset=RandomImages(18), layer="timm_model.blocks.3.0"
    )
    trainer.train()
    assert trainer.solution is not None
    choice = trainer.solution.layer
    assert choice.layer == "last" and "no ordinary checkpoint can end there" in choice.reason
    assert {e.layer for e in choice.evidence} == {"timm_model.blocks.3.0", "last"}
    assert "The head reads the last layer" in caplog.text


def test_auto_keeps_the_last_layer_within_one_standard_error() -> None:
    """The rule on plain evidence: the latest layer within one standard error of the best wins."""
    from hf_transfer.linear_probe.layer_choice import judge_layers, latest_within_one_error

    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    good = np.eye(3)[labels] * 4 + generator.normal(size=(300, 3))
    bad = np.eye(3)[labels] + 2 * generator.normal(size=(300, 3))
    evidence = judge_layers({"early": good, "last": bad}, labels)
    assert latest_within_one_error(evidence) == "early"
    same = judge_layers({"early": good, "last": good[:, ::-1].copy()}, labels)
    assert latest_within_one_error(same) == "last"


def test_auto_runs(tmp_path: Path) -> None:
    """With layer="auto" the choice comes with evidence for each block and the last layer."""
    trainer = ht.LinearProbeTrainer(
        tiny.resnet(), arguments(tmp_path), train_dataset=RandomImages(36), layer="auto", class_weights="balanced"
    )
    trainer.train()
    facts = trainer.solver_facts()
    assert facts["class_weights"] == "balanced" and len(facts["layer"]["evidence"]) == 7


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": "all"}, ArgumentError, "no head of an ordinary checkpoint"),
        ({"solver": "magic"}, ArgumentError, "logistic, svm, ridge, sgd; found 'magic'"),
        ({"layer": "nowhere"}, ArgumentError, "nowhere"),
    ],
)
def test_unusable_options(options: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    """Errors say what exists."""
    with pytest.raises(error, match=message):
        ht.LinearProbeTrainer(tiny.vit(), arguments(tmp_path), train_dataset=RandomImages(12), **options).train()


def test_nan_features_one_class_and_a_foreign_head(tmp_path: Path) -> None:
    """Broken weights, data of one class and a head with a hidden layer are named, not trained."""
    broken, one = tiny.vit(), RandomImages(12)
    next(iter(broken.parameters())).data.fill_(float("nan"))
    with pytest.raises(DataError, match="12 of 12 images are not finite"):
        ht.LinearProbeTrainer(broken, arguments(tmp_path), train_dataset=RandomImages(12)).train()
    one.labels = torch.zeros_like(one.labels)
    with pytest.raises(DataError, match="at least two classes"):
        ht.LinearProbeTrainer(tiny.vit(), arguments(tmp_path), train_dataset=one).train()
    model: Any = tiny.vit()
    model.classifier = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    with pytest.raises(ModelError, match="cannot hold an exact solution.*Linear, Linear"):
        ht.LinearProbeTrainer(model, arguments(tmp_path), train_dataset=RandomImages(12)).train()
    with pytest.raises(PlanError, match="use LinearProbeTrainer"):
        ht.TransferTrainer(tiny.vit(), arguments(tmp_path), plan=ht.recipes.svm())


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A mistyped path is told, although a solved head needs no checkpoint; True goes on from the cache."""
    trainer = ht.LinearProbeTrainer(tiny.vit(), arguments(tmp_path), train_dataset=RandomImages(12))
    with pytest.raises(PlanError, match="no checkpoint folder.*nowhere"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "nowhere"))
    trainer.train(resume_from_checkpoint=True)
