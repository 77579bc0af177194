"""hf_transfer.trainer.range_test: rates measured when a phase begins, in a training that is otherwise untouched."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import HfArgumentParser, TrainerCallback

import hf_transfer as ht
from hf_transfer.errors import ArgumentError
from hf_transfer.feature_cache.rows import PackedRows, SeededCollator
from hf_transfer.figures.learning_rate_range import learning_rate_range
from hf_transfer.phases.learning_rate_range import RangeTest, Reading
from hf_transfer.reporting.card import render_card
from hf_transfer.run_files import RANGE_FILE
from hf_transfer.trainer import range_test as range_test_trainer
from hf_transfer.trainer.record import bare_record
from hf_transfer.trainer.trial_steps import trial_batches, undone
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments, logged

PLAN = ht.recipes.lp_ft(probe_epochs=1, epochs=1, layer_decay=0.8, norm="train")
RATES = (3e-3, 7e-4)


class NoisyImages(RandomImages):
    """Another image each time, by the global random numbers of Python, NumPy and torch."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        noise = torch.randn(()) + random.random() + np.random.rand()
        return super().__getitem__(index) | {"pixel_values": self.pixels[index] + noise}


@pytest.fixture
def fixed_choice(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...]]:
    """Steps are run, but what is chosen is known: the first rate for the head, the second for all layers."""
    seen: list[tuple[float, ...]] = []

    def choose(rates: Any, losses: tuple[float, ...]) -> Reading:
        seen.append(losses)
        return Reading(RATES[len(seen) - 1], "given by the test")

    monkeypatch.setattr(range_test_trainer, "read_off", choose)
    monkeypatch.setattr(
        range_test_trainer, "geometric_rates", lambda ratio: (1e-4 / ratio, 1e-3 / ratio, 1e-2 / ratio)
    )
    return seen


def _trainer(
    folder: Path, plan: ht.TransferPlan = PLAN, model: nn.Module | None = None, data: Any = None, **options: Any
) -> ht.TransferTrainer:
    if model is None:
        torch.manual_seed(0)
        model = tiny.vit()
    args = arguments(folder, **{"learning_rate": "auto"} | options)
    return ht.TransferTrainer(model, args, train_dataset=NoisyImages() if data is None else data, plan=plan)


def _weights(trainer: ht.TransferTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny.vit, tiny.resnet])
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 3}, {"optim": "sgd"}, {"lr_scheduler_type": "cosine_with_min_lr"}],
)
def test_the_training_is_as_if_the_rates_had_been_given(
    make: Any, options: dict[str, Any], fixed_choice: list[Any], tmp_path: Path
) -> None:
    """Weights, statistics, losses and random numbers are, bit for bit, those of a run that was given the rates."""
    if "lr_scheduler_type" in options:  # whose factors depend on the rates
        options = options | {"lr_scheduler_kwargs": {"min_lr": 1e-4}}
    torch.manual_seed(0)
    model = make()
    measured = _trainer(tmp_path / "a", model=copy.deepcopy(model), **options)
    measured.train()
    numbers = torch.rand(3), random.random(), np.random.rand()
    given = replace(PLAN, phases=tuple(replace(p, learning_rate=r) for p, r in zip(PLAN.phases, RATES, strict=True)))
    plain = _trainer(tmp_path / "b", given, copy.deepcopy(model), learning_rate=1.0, **options)
    plain.train()
    assert len(fixed_choice) == 2 and fixed_choice[0] != fixed_choice[1]
    assert logged(measured, "loss") == logged(plain, "loss")
    assert all(map(torch.equal, _weights(measured).values(), _weights(plain).values()))
    assert torch.equal(numbers[0], torch.rand(3)) and numbers[1:] == (random.random(), np.random.rand())
    assert logged(measured, "learning_rate") == logged(plain, "learning_rate")
    assert measured.resolved_plan is not None and plain.resolved_plan is not None
    assert measured.resolved_plan.optimizer_groups == plain.resolved_plan.optimizer_groups


def test_trial_batches_do_not_depend_on_what_the_training_read() -> None:
    """A collator that draws at random gives the same trial batches in any epoch; they differ from each other."""
    rows = PackedRows(RandomImages(), 0)
    loader = DataLoader(rows, collate_fn=SeededCollator(lambda batch: torch.rand(2), rows))
    found = []
    for epoch in (0, 3):
        rows.begin_epoch(epoch, True)
        list(loader)  # as the training reads
        found.append(list(trial_batches(loader, 4, 2, 0)))
    assert all(map(torch.equal, *found)) and not torch.equal(found[0][0], found[0][1])


def test_state_is_undone(tmp_path: Path) -> None:
    """Parameters, buffers, moments, rates, modes and random numbers are given back, in the same tensors."""
    before: dict[str, Any] = {}

    class Try(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step != 2:
                return
            optimizer, model = trainer.optimizer, trainer.model
            assert optimizer is not None
            inner = optimizer.optimizer
            before["state"] = copy.deepcopy(optimizer.state_dict())
            before["weights"] = copy.deepcopy(model.state_dict())
            before["modes"] = [module.training for module in model.modules()]
            places = [value.data_ptr() for value in model.state_dict().values()]
            torch.manual_seed(7)
            with undone(trainer, 0):
                for group in inner.param_groups:
                    group["lr"] = 1.0
                batches = trial_batches(kwargs["train_dataloader"], 4, 2, 0)
                for batch in batches:
                    trainer.current_gradient_accumulation_steps = 1
                    trainer.training_step(trainer.model_wrapped, batch)
                    optimizer.step()
                model.eval()
                assert not _same(before["weights"], model.state_dict())
            assert torch.equal(torch.rand(2), torch.manual_seed(7) and torch.rand(2))
            assert places == [value.data_ptr() for value in model.state_dict().values()]
            assert _same(before["weights"], model.state_dict())
            after = optimizer.state_dict()
            assert after["param_groups"] == before["state"]["param_groups"]
            assert all(_same(after["state"][k], v) for k, v in before["state"]["state"].items())
            assert after["state"].keys() == before["state"]["state"].keys()
            assert before["modes"] == [module.training for module in model.modules()]
            assert all(parameter.grad is None for parameter in model.parameters())

    plan = ht.recipes.fine_tune(norm="train")
    trainer = _trainer(tmp_path, plan, tiny.resnet(), learning_rate=1e-3)
    trainer.add_callback(Try())
    trainer.train()
    assert before


def _same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one
    )


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_resumed_run_keeps_the_rates(step: int, fixed_choice: list[Any], tmp_path: Path) -> None:
    """Resumed in the first phase, at the border or in the second, a run measures no phase twice and ends the same."""
    # Not the noisy ones: data loaders read ahead, so a resumed run draws other noise, whatever the rates are.
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "data": RandomImages()}
    whole = _trainer(tmp_path, **options)
    whole.train()
    wanted = _weights(whole)
    # At the border the second phase has not begun: it is measured, as it was by the first run.
    del fixed_choice[1 if step <= 4 else 2 :]
    again = _trainer(tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert [test.learning_rate for test in again.range_tests] == list(RATES)
    assert all(map(torch.equal, wanted.values(), _weights(again).values()))
    assert len(fixed_choice) == 2


@pytest.mark.slow
def test_a_changed_plan_is_measured_anew(fixed_choice: list[Any], tmp_path: Path) -> None:
    """A phase that a changed plan starts afresh gets its own test."""
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    _trainer(tmp_path, **options).train()
    del fixed_choice[:]
    changed = ht.recipes.lp_ft(probe_epochs=2, epochs=1, layer_decay=0.8, norm="train")
    again = _trainer(tmp_path, changed, allow_plan_change=True, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert len(fixed_choice) == 2


def test_relative_rates_are_kept(fixed_choice: list[Any], tmp_path: Path) -> None:
    """The measured rate is the phase's own: the head has head_lr_ratio times as much, earlier blocks decay from it."""
    plan = ht.recipes.fine_tune(head_lr_ratio=5, layer_decay=0.5)
    trainer = _trainer(tmp_path, plan)
    trainer.train()
    assert trainer.resolved_plan is not None
    facts = trainer.resolved_plan.to_dict()
    rates = [group["phases"][0]["learning_rate"] for group in facts["groups"]]
    assert rates[-1] == pytest.approx(5 * RATES[0]) and rates[-3] == pytest.approx(0.5 * RATES[0])
    assert facts["phases"][0]["learning_rate"] == RATES[0]
    assert facts["phases"][0]["learning_rate_from"] == "range test"


def test_given_rates_are_not_measured(fixed_choice: list[Any], tmp_path: Path) -> None:
    """A phase with a learning rate of its own keeps it; the others are measured."""
    first, second = PLAN.phases
    trainer = _trainer(tmp_path, replace(PLAN, phases=(replace(first, learning_rate=2e-3), second)))
    trainer.train()
    assert [test.phase for test in trainer.range_tests] == ["fine-tune"]
    assert trainer.resolved_plan is not None and trainer.resolved_plan.phases[0].learning_rate == 2e-3


@pytest.mark.slow
def test_the_cut_model_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the frozen part was computed once, trial steps do not run it again."""
    runs = 0
    model = tiny.vit(hidden_dropout_prob=0.0)

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    trainer = _trainer(
        tmp_path,
        ht.recipes.linear_probe(epochs=3),
        model,
        RandomImages(),
        cache_features="on",
    )
    tried: list[int] = []

    class Count(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            tried.append(runs)

    trainer.add_callback(Count())
    encoder: Any = model.vit  # type: ignore[union-attr]
    encoder.layers[0].attention.register_forward_hook(count)
    trainer.train()
    assert trainer.cache_decisions[0].used
    before_the_first_step = tried[0]
    assert len(trainer.range_tests[0].losses) > 20 > before_the_first_step
    assert runs == before_the_first_step


@pytest.mark.slow
def test_losses_that_do_not_tell_leave_the_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Labels without any relation to images, in a model that cannot learn: the default, and a warning that says so."""
    model = tiny.vit()
    head: Any = model.classifier
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    head.forward = lambda features: features[:, :3] * 0 + head.bias * 0
    trainer = _trainer(tmp_path, ht.recipes.fine_tune(), model, RandomImages())
    trainer.train()
    (test,) = trainer.range_tests
    assert not test.chosen and test.learning_rate == ht.recipes.default_learning_rate("fine_tune")
    assert "the default" in caplog.text


@pytest.mark.slow
def test_a_diverging_trial_does_not_stop_the_run(tmp_path: Path) -> None:
    """Losses that are not finite end the range, and the training goes on from weights that are whole."""
    trainer = _trainer(tmp_path, ht.recipes.fine_tune(), optim="sgd", max_grad_norm=0.0)
    trainer.train()
    (test,) = trainer.range_tests
    assert np.isfinite(test.losses).all() and len(test.rates) == len(test.losses)
    assert all(torch.isfinite(value).all() for value in _weights(trainer).values())


def test_streamed_data_take_the_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A stream would be used up by trying: the default, and words why."""

    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(RandomImages())

    trainer = _trainer(tmp_path, ht.recipes.fine_tune(), data=Stream(), max_steps=2)
    trainer.train()
    assert "streamed data would be used up" in caplog.text and not trainer.range_tests[0].chosen


def test_auto_needs_a_plan(tmp_path: Path) -> None:
    """Without phases there is nothing to measure."""
    with pytest.raises(ArgumentError, match=r"auto.*recipe"):
        ht.TransferTrainer(tiny.vit(), arguments(tmp_path, learning_rate="auto"), train_dataset=RandomImages())


def test_the_record_tells_of_it(fixed_choice: list[Any], tmp_path: Path) -> None:
    """Record, card and figure say that the rates were chosen by a range test, and which they are."""
    trainer = _trainer(tmp_path)
    trainer.train()
    record = json.loads(json.dumps(bare_record(trainer).to_dict()))
    tests = record["training"]["learning_rate_range"]
    assert [(test["phase"], test["learning_rate"]) for test in tests] == list(
        zip(("linear probe", "fine-tune"), RATES, strict=True)
    )
    card = render_card(record)
    assert "Learning rate by range test" in card and "| 0.003 |" in card and "| 0.0007 |" in card
    assert "linear probe: 0.003 (given by the test)" in card
    figure = learning_rate_range(tests, tmp_path / "figures" / "range.png")
    assert figure is not None and figure.is_file()
    assert learning_rate_range([], tmp_path / "none.png") is None


@pytest.mark.parametrize(("word", "value"), [("auto", "auto"), ("3e-4", 3e-4)])
def test_the_flag(word: str, value: float | str, tmp_path: Path) -> None:
    """HfArgumentParser takes a number or auto; other words are refused, in Python too."""
    parser = HfArgumentParser(ht.TransferArguments)
    flags = ["--output_dir", str(tmp_path), "--learning_rate"]
    (args,) = parser.parse_args_into_dataclasses([*flags, word])
    assert args.learning_rate == value
    with pytest.raises(SystemExit):
        parser.parse_args_into_dataclasses([*flags, "fast"])
    with pytest.raises(ArgumentError, match=r"learning_rate.*'fast'"):
        arguments(tmp_path, learning_rate="fast")


def test_a_solved_head_has_no_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A head that is solved takes auto without a crash, and says that it has no use for it."""
    args = arguments(tmp_path, learning_rate="auto", eval_strategy="no")
    trainer = ht.LinearProbeTrainer(tiny.vit(), args, train_dataset=RandomImages())
    with caplog.at_level("INFO"):
        trainer.train()
    assert trainer.range_tests == () and "no learning rate" in caplog.text


def test_a_checkpoint_holds_the_test(fixed_choice: list[Any], tmp_path: Path) -> None:
    """The curve is kept with the checkpoint as plain data."""
    _trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    data = json.loads((tmp_path / "checkpoint-2" / RANGE_FILE).read_text(encoding="utf-8"))
    test = RangeTest.from_dict(data["tests"][0]["test"])
    assert test.learning_rate == RATES[0] and len(test.rates) == len(test.losses) == 3
