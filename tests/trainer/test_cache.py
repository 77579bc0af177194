"""Training from the feature cache is the same training: same losses, without decoding and without the frozen part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import ViTImageProcessor

import hf_transfer as ht
from hf_transfer.data import collate, eval_transform, train_transform
from tests.helpers import labelled_images, tiny
from tests.helpers.fast import slow_but
from tests.helpers.labelled_images import processor
from tests.helpers.tiny_zoo import zoo_image_size, zoo_model
from tests.helpers.training import RandomImages, arguments, logged

LARGER = ("dinov2", "swin", "convnext", "efficientnet", "mobilevit", "segformer", "pvt", "lite0")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def images(n: int, size: int = tiny.IMAGE_SIZE, seed: int = 0) -> Any:
    made = ViTImageProcessor(size={"height": size, "width": size})
    return labelled_images.labelled_images(n, seed).with_transform(eval_transform(made))


def train(make: Callable[[], nn.Module], folder: Path, plan: ht.TransferPlan, data: Any, **options: Any) -> Any:
    """Train a fresh model; the same seeds, whatever the options."""
    torch.manual_seed(0)
    evaluated, collator = options.pop("evaluated", None), options.pop("collator", collate)
    given = {"learning_rate": 1e-3, "num_train_epochs": 3, "eval_strategy": "epoch" if evaluated else "no"} | options
    trainer = ht.TransferTrainer(
        make(),
        arguments(folder, **given),
        data_collator=collator,
        train_dataset=data,
        eval_dataset=evaluated,
        plan=plan,
    )
    trainer.train()
    return trainer


def one_phase(selector: str) -> ht.TransferPlan:
    return ht.TransferPlan((ht.Phase("only", train=selector),))


def assert_equal_losses(one: Any, other: Any) -> None:
    for key in ("loss", "eval_loss"):
        assert logged(one, key) == pytest.approx(logged(other, key), rel=1e-4)


@pytest.mark.parametrize("name", slow_but(("vit",), ("vit", "resnet", *LARGER)))
def test_cached_equals_uncached(name: str, tmp_path: Path) -> None:
    """Losses of each step and evaluation over three epochs, with dropout, at the head and at a cut in the middle."""

    def make() -> nn.Module:
        return tiny.timm_wrapper("tf_efficientnet_lite0") if name == "lite0" else zoo_model(name)

    size = tiny.IMAGE_SIZE if name == "lite0" else zoo_image_size(name)
    groups = ht.wrap(make()).layer_groups
    data, evaluated = images(20, size), images(9, size, seed=50)
    for selector in ("head", f"from:{groups[len(groups) // 2].name}"):
        plan = one_phase(selector)
        whole = train(make, tmp_path / "whole", plan, data, evaluated=evaluated, cache_features="off")
        cached = train(make, tmp_path / "cached", plan, data, evaluated=evaluated, cache_features="on")
        (decision,) = cached.cache_decisions
        assert decision.used and not whole.cache_decisions[0].used, str(decision)
        assert len(logged(cached, "loss")) == 9 and len(logged(cached, "eval_loss")) == 3
        assert_equal_losses(cached, whole)


def test_another_learning_rate_on_the_same_data_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run decodes no image and runs no backbone, and is still the same training as without the cache."""
    data, evaluated = images(20), images(9, seed=50)
    plan = one_phase("last:2")
    train(tiny.vit, tmp_path / "first", plan, data, evaluated=evaluated, cache_features="on")
    torch.manual_seed(0)
    model = tiny.vit()
    # Stand-ins are called where the frozen part was, and nothing in them.
    with labelled_images.counting(monkeypatch, model.vit.embeddings.patch_embeddings) as counter:
        options = {"cache_features": "on", "learning_rate": 3e-3}
        second = train(lambda: model, tmp_path / "second", plan, images(20), evaluated=images(9, seed=50), **options)
    assert (counter.decoded, counter.images) == (0, 0)
    assert second.cache_decisions[0].reused
    options["cache_features"] = "off"
    assert_equal_losses(second, train(tiny.vit, tmp_path / "whole", plan, data, evaluated=evaluated, **options))


def test_phases_with_and_without_a_cut(tmp_path: Path) -> None:
    """A probe from the cache, then all layers: the batch that was read ahead is computed from its images."""
    plan = ht.TransferPlan(
        (
            ht.Phase("probe", train="head", epochs=2),
            ht.Phase("last", train="blocks:1", max_steps=7),  # ends amid an epoch
            ht.Phase("all", train="all", epochs=1),
        )
    )
    whole = train(tiny.dinov2, tmp_path / "whole", plan, images(20), cache_features="off")
    cached = train(tiny.dinov2, tmp_path / "cached", plan, images(20), cache_features="on")
    assert [decision.used for decision in cached.cache_decisions] == [True, True, False]
    assert_equal_losses(cached, whole)
    for one, other in zip(cached.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in cached.model.modules())


def test_auto_decides_by_cost_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One epoch is not worth a store, many are; the log says which, and how much is expected."""
    once = train(tiny.resnet, tmp_path, one_phase("head"), images(20), num_train_epochs=1)
    assert not once.cache_decisions[0].used and "once" in once.cache_decisions[0].reason
    with caplog.at_level("INFO", logger="hf_transfer"):
        many = train(tiny.resnet, tmp_path, one_phase("head"), images(20), num_train_epochs=20)
    decision = many.cache_decisions[0]
    assert decision.used and decision.expected_speed_up > 1  # how much hangs on the machine
    assert str(decision) in caplog.text and "times as fast" in caplog.text
    assert decision.to_dict()["cut"] == "classifier"


def test_random_transforms_need_views(tmp_path: Path) -> None:
    """Without views the augmentation stays as it is; with them, each epoch uses the next one."""
    data = labelled_images.labelled_images(12).with_transform(train_transform(processor(), "light"))
    without = train(tiny.vit, tmp_path, one_phase("head"), data, cache_features="on")
    assert "--cache_views" in without.cache_decisions[0].reason
    seen: list[torch.Tensor] = []

    def make() -> nn.Module:
        model = tiny.vit()
        model.classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
        return model

    options = {"num_train_epochs": 4, "per_device_train_batch_size": 12, "cache_views": 2}
    two = train(make, tmp_path, one_phase("head"), data, cache_features="on", **options)
    assert two.cache_decisions[0].views == 2
    epochs = [batch[batch[:, 0].argsort()] for batch in seen[-4:]]
    torch.testing.assert_close(epochs[0], epochs[2])
    torch.testing.assert_close(epochs[1], epochs[3])
    assert not torch.allclose(epochs[0], epochs[1])


def test_what_stands_in_the_way_is_said(tmp_path: Path) -> None:
    """A collator that mixes images, a full cache, a loss of one's own: ordinary training, with the reason."""

    def mixing(rows: Any) -> dict[str, torch.Tensor]:
        batch = collate(rows)
        return batch | {"pixel_values": batch["pixel_values"].float().flip(0)}

    class OwnLoss(ht.TransferTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs)

    plan = one_phase("head")

    def reason(trainer_class: Any = ht.TransferTrainer, collator: Any = collate, **options: Any) -> str:
        args = arguments(tmp_path, num_train_epochs=2, cache_features="on", **options)
        trainer = trainer_class(tiny.vit(), args, data_collator=collator, train_dataset=images(12), plan=plan)
        trainer.train()
        assert len(logged(trainer, "loss")) == 4 and not trainer.cache_decisions[0].used
        return str(trainer.cache_decisions[0].reason)

    assert "collator" in reason(collator=mixing)
    assert "--cache_gb" in reason(cache_gb=1e-7)
    assert "loss of a subclass" in reason(OwnLoss)
    with pytest.raises(ht.TransferError, match="cache_features"):
        arguments(tmp_path, cache_features="sometimes")
    with pytest.raises(ht.TransferError, match="cache_views"):
        arguments(tmp_path, cache_views=-1)


def test_stores_of_unknown_data_go_with_the_run(tmp_path: Path, cache_folder: Path) -> None:
    """Data sets without a fingerprint are stored for the run alone."""
    trainer = train(tiny.vit, tmp_path, one_phase("head"), RandomImages(20), cache_features="on", collator=None)
    assert trainer.cache_decisions[0].used
    assert not [path for path in cache_folder.iterdir() if path.is_dir() and path.name != "notes"]
