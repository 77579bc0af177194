"""A training with held-out images leaves the weights that are best there, calibrated, also when it is resumed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hf_transfer as ht
from hf_transfer.data import collate
from hf_transfer.errors import PlanError
from hf_transfer.evaluation.calibration import fit_temperature
from hf_transfer.evaluation.deciding import score
from hf_transfer.phases.kept_weights import Member
from hf_transfer.reporting.card import render_card
from hf_transfer.run_files import HELD_OUT_FILE
from hf_transfer.trainer.record import bare_record, training_facts
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments, logged


class _Images(RandomImages):
    """Other images of the same kind, some of them of every class."""

    def __init__(self, n: int, seed: int) -> None:
        super().__init__(n)
        generator = torch.Generator().manual_seed(seed)
        self.pixels = 2 * torch.randn(self.pixels.shape, generator=generator) + self.labels.view(-1, 1, 1, 1).float()


def _trainer(folder: Path, **options: Any) -> ht.TransferTrainer:
    torch.manual_seed(0)
    model: nn.Module = options.pop("model", None) or tiny.vit()
    held_out = options.pop("held_out", None) or ht.HeldOut(_Images(48, 1))
    plan = options.pop("plan", None) or ht.recipes.lp_ft(learning_rate=options.pop("rate", 1e-5))
    args = arguments(folder, **({"num_train_epochs": 4} | options))
    return ht.TransferTrainer(model, args, collate, train_dataset=_Images(32, 0), plan=plan, held_out=held_out)


def _logits(trainer: ht.TransferTrainer, images: Any) -> np.ndarray:
    return np.asarray(trainer.predict(images).predictions)


def test_the_result_is_what_was_chosen(tmp_path: Path) -> None:
    """The model gives the chosen member's logits over its temperature; the record has all members and points."""
    trainer = _trainer(tmp_path)
    trainer.train()
    assert trainer.run is not None and trainer.run.keeper is not None
    keeper = trainer.run.keeper
    kept = keeper.kept
    assert kept is not None
    expected = keeper.seen[kept.chosen.member] / kept.chosen.temperature
    np.testing.assert_allclose(_logits(trainer, _Images(48, 1)), expected, rtol=1e-3, atol=1e-4)
    facts = training_facts(trainer)["held_out"]
    assert facts["images"] == 48 and facts["metric"] == "accuracy"
    assert [point["member"]["share"] for point in facts["points"]] == [0, *(k / 8 for k in range(1, 8)), 1]
    assert len(logged(trainer, "held_out_log_loss")) == 9
    values = {member["name"]: member["value"] for member in facts["members"]}
    assert facts["chosen"]["value"] >= values["the start"] - 0.1 and "50% end, 50% start" in values


def test_a_rate_thirty_times_too_high_ends_at_the_floor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A training that breaks down is told, stopped early, and leaves the solved head's scores."""
    caplog.set_level(logging.WARNING)
    easy = ht.HeldOut(RandomImages(48))
    trainer = _trainer(tmp_path, held_out=easy, rate=3.0, num_train_epochs=8)
    trainer.train_dataset = RandomImages(32)
    trainer.train()
    assert trainer.run is not None and trainer.run.keeper is not None
    kept = trainer.run.keeper.kept
    assert kept is not None and kept.stopped is not None
    assert trainer.state.global_step < 32
    assert "The training ends after" in caplog.text and "was stopped" in caplog.text
    start = trainer.run.keeper.seen[Member(0.0)]
    assert kept.chosen.value >= kept.start.value
    after = _logits(trainer, RandomImages(48))
    assert score("accuracy", after, trainer.run.keeper.labels) >= score("accuracy", start, trainer.run.keeper.labels)


def test_the_scores_are_calibrated_on_the_held_out_images(tmp_path: Path) -> None:
    """The temperature that the result still asks for is one; without calibration it is not touched."""
    trainer = _trainer(tmp_path)
    trainer.train()
    images = _Images(48, 1)
    assert fit_temperature(_logits(trainer, images), images.labels.numpy()) == pytest.approx(1, abs=0.02)
    plain = _trainer(tmp_path, held_out=ht.HeldOut(images, calibrate=False))
    plain.train()
    assert plain.run is not None and plain.run.keeper is not None and plain.run.keeper.temperature == 1


def test_a_resumed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    """From the middle, start, best and points are those of the checkpoint; the end is the same bit for bit."""
    whole = _trainer(tmp_path / "a", save_strategy="steps", save_steps=7)
    whole.train()
    again = _trainer(tmp_path / "a", save_strategy="steps", save_steps=7)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-7"))
    assert (tmp_path / "a" / "checkpoint-7" / HELD_OUT_FILE).is_file()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    first, second = (training_facts(t)["held_out"] for t in (whole, again))
    assert first == second


def test_the_training_itself_is_not_changed_by_looking(tmp_path: Path) -> None:
    """With and without held-out images each step has the same loss."""
    looked = _trainer(tmp_path)
    looked.train()
    torch.manual_seed(0)
    plain = ht.TransferTrainer(
        tiny.vit(),
        arguments(tmp_path, num_train_epochs=4),
        collate,
        train_dataset=_Images(32, 0),
        plan=ht.recipes.lp_ft(learning_rate=1e-5),
    )
    plain.train()
    assert logged(looked, "loss") == logged(plain, "loss")


def test_followed_weights_are_taken_where_they_were_chosen(tmp_path: Path) -> None:
    """Without held-out images the training ends at the chosen share, and is mixed and divided as was chosen."""
    follow = ht.HeldOut(follow=Member(0.5), temperature=2.0)
    trainer = _trainer(tmp_path, held_out=follow)
    trainer.train()
    assert trainer.state.global_step == 8
    whole = _trainer(tmp_path, held_out=ht.HeldOut(follow=Member(0.0), temperature=1.0))
    whole.train()
    assert whole.state.global_step == 1, "a solved head needs no steps; one is the least that Trainer takes"
    assert training_facts(trainer)["held_out"]["followed"] == "after 50% of the steps"


def test_followed_weights_are_resumed(tmp_path: Path) -> None:
    """The start is in the checkpoint: a resumed run mixes with it, and a finished one stays as it is."""
    options: dict[str, Any] = {
        "held_out": ht.HeldOut(follow=Member(0.75, 0.5)),
        "save_strategy": "steps",
        "save_steps": 5,
    }
    whole = _trainer(tmp_path / "a", **options)
    whole.train()
    assert whole.state.global_step == 12
    for step in (5, 12):
        again = _trainer(tmp_path / "a", **options)
        again.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{step}"))
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[name]), (step, name)


def test_two_ways_to_choose_are_refused(tmp_path: Path) -> None:
    """Neither both nor none of images and weights to follow; no second choice by evaluation data."""
    with pytest.raises(PlanError, match="one of the two"):
        ht.HeldOut()
    with pytest.raises(PlanError, match="load_best_model_at_end"):
        options = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
        args = arguments(tmp_path, **options)
        ht.TransferTrainer(
            tiny.vit(),
            args,
            collate,
            train_dataset=_Images(32, 0),
            eval_dataset=_Images(16, 2),
            plan="lp_ft",
            held_out=ht.HeldOut(_Images(16, 1)),
        )


def test_a_training_below_its_start_goes_back_and_on_at_a_lower_rate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At half of the steps the start's weights are written back, the optimizer forgets, and the rates are lower."""
    caplog.set_level(logging.WARNING)
    trainer = _trainer(tmp_path, held_out=ht.HeldOut(RandomImages(48)), rate=1e-2, num_train_epochs=8)
    trainer.train_dataset = RandomImages(32)
    trainer.train()
    assert trainer.run is not None and trainer.run.keeper is not None
    keeper = trainer.run.keeper
    assert keeper.slowed_at == 0.5
    assert "After 50% of its steps the training goes back to its start" in caplog.text
    rates = [float(rate) for rate in logged(trainer, "learning_rate")]
    assert rates[16] < 0.35 * rates[15]
    card = render_card(bare_record(trainer).to_dict())
    assert "| Went back to the start, at a lower rate | after 50% of the steps |" in card
    assert "training images that were held out, and never trained on" in card


def test_a_run_that_went_back_is_resumed_at_the_lower_rate(tmp_path: Path) -> None:
    """A checkpoint from after the return holds that it was, and the resumed run ends in the same weights."""
    options: dict[str, Any] = {"rate": 1e-2, "num_train_epochs": 8, "save_strategy": "steps", "save_steps": 18}
    whole = _trainer(tmp_path / "a", held_out=ht.HeldOut(RandomImages(48)), **options)
    whole.train_dataset = RandomImages(32)
    whole.train()
    assert whole.run is not None and whole.run.keeper is not None and whole.run.keeper.slowed_at == 0.5
    again = _trainer(tmp_path / "a", held_out=ht.HeldOut(RandomImages(48)), **options)
    again.train_dataset = RandomImages(32)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-18"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


class _Explodes(ht.TransferTrainer):
    """Its loss is NaN from the sixth step on."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **options: Any) -> Any:
        loss = super().compute_loss(model, inputs, return_outputs, **options)
        return loss * float("nan") if self.state.global_step >= 5 and not return_outputs else loss


def test_a_loss_that_is_not_finite_ends_at_what_was_held(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Instead of an error the best weights before are left, no worse than the start, and the card says why."""
    torch.manual_seed(0)
    plan = ht.recipes.lp_ft(learning_rate=1e-5)
    args = arguments(tmp_path, num_train_epochs=4)
    held_out = ht.HeldOut(_Images(48, 1))
    trainer = _Explodes(tiny.vit(), args, collate, train_dataset=_Images(32, 0), plan=plan, held_out=held_out)
    trainer.train()
    assert trainer.run is not None and trainer.run.keeper is not None and trainer.run.keeper.kept is not None
    kept = trainer.run.keeper.kept
    assert kept.stopped is not None and "nan" in kept.stopped.lower()
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    expected = trainer.run.keeper.seen[kept.chosen.member] / kept.chosen.temperature
    np.testing.assert_allclose(_logits(trainer, _Images(48, 1)), expected, rtol=1e-3, atol=1e-4)
    trainer.evaluate(_Images(16, 2))
