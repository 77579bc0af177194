"""hf_transfer.trainer.run: a run that goes on amid an epoch sees what the whole run saw, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

import hf_transfer as ht
from hf_transfer.data import collate, train_transform
from tests.helpers import labelled_images, tiny
from tests.helpers.training import AugmentedImages, RandomImages, arguments, logged

PLAN = ht.TransferPlan(
    (
        ht.Phase("head", "head", max_steps=5),  # ends amid the second epoch of 4 steps
        ht.Phase("last", "blocks:1", max_steps=7),
        ht.Phase("all", "all", epochs=1),
    )
)
MIDDLE = (3, 6, 11)  # amid an epoch: in each phase but the last, after a phase's border amid it
BEGUN = {"evaluated": (4, 6), "workers": (6,), "persistent workers": (6,), "views": (3, 5, 6, 11)}


def mixing(rows: Any) -> dict[str, torch.Tensor]:
    """Mixes images, as MixUp in a collator does."""
    batch = collate(rows)
    mixed, labels = v2.MixUp(num_classes=3)(batch["pixel_values"], batch["labels"])
    return {"pixel_values": mixed, "labels": labels.float()}


def brightened(rows: Any) -> dict[str, Any]:
    """A transform of the user's own, which is given whole batches."""
    made = train_transform(labelled_images.processor(), "light")(rows)
    return made | {"pixel_values": list(made["pixel_values"] * random.uniform(0.5, 1.5))}


def images(kind: str) -> Any:
    if kind in ("own data set", "workers", "persistent workers", "mixing"):
        return AugmentedImages()
    data = labelled_images.labelled_images(32)
    light = train_transform(labelled_images.processor(), "light")
    return data.with_transform(brightened if kind == "own transform" else light)


def make(folder: Path, kind: str, **options: Any) -> ht.TransferTrainer:
    torch.manual_seed(0)
    model = tiny.vit(hidden_dropout_prob=0.1)
    more: dict[str, Any] = {
        "workers": {"dataloader_num_workers": 2},
        "persistent workers": {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
        "views": {"cache_features": "on", "cache_views": 2},
    }.get(kind, {"cache_features": "off"})
    evaluated = RandomImages(8) if kind == "evaluated" else None
    if evaluated is not None:
        more |= {"eval_strategy": "epoch"}
    given = {"learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 1} | more | options
    args = arguments(folder, **given)
    return ht.TransferTrainer(
        model,
        args,
        data_collator=mixing if kind == "mixing" else collate,
        train_dataset=images(kind),
        eval_dataset=evaluated,
        plan=PLAN,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "own data set",
        "workers",
        "persistent workers",
        "mixing",
        "own transform",
        "light augmentation",
        "views",
        "evaluated",
    ],
)
def test_resumed_amid_an_epoch_with_augmentation(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the augmentation is and whatever draws it, losses and weights are those of the whole run."""
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    whole = make(tmp_path / "whole", kind)
    whole.train()
    if kind == "views":
        assert [decision.used for decision in whole.cache_decisions] == [True, True, False]
    for step in BEGUN.get(kind, MIDDLE):
        again = make(tmp_path / "again", kind, save_strategy="no")
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert logged(again, "loss") == logged(whole, "loss"), step
        for name, value in whole.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], value), (step, name)
