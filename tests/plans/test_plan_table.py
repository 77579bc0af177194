"""hf_transfer.plans.plan: the rates of a phase by layer group, and the table that shows what will be trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

import hf_transfer as ht
from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.errors import PlanError, SelectorError
from hf_transfer.plans.plan import Phase, TransferPlan, align, describe, group_learning_rates
from tests.helpers import tiny
from tests.helpers.training import RandomImages, arguments

GROUPS = (
    LayerGroup(0, "stem", "stem", ("stem.weight", "stem.bias")),
    LayerGroup(1, "blocks.0", "block", ("blocks.0.weight", "blocks.0.bias")),
    LayerGroup(2, "blocks.1", "block", ("blocks.1.weight", "blocks.1.bias")),
    LayerGroup(3, "neck", "neck", ("norm.weight", "norm.bias")),
    LayerGroup(4, "head", "head", ("fc.weight", "fc.bias")),
)


COUNTS = {"weight": 1000, "bias": 10}


PARAMETER_COUNTS = {name: COUNTS[name.rpartition(".")[2]] for group in GROUPS for name in group.parameter_names}


def _cells(table: str) -> dict[str, list[str]]:
    """Rows by the name of the group; columns are two spaces or more apart."""
    rows = [[cell.strip() for cell in line.strip().split("  ") if cell.strip()] for line in table.splitlines()]
    return {row[1] if row[0].isdigit() else row[0]: row for row in rows}


PROBE, TUNE = Phase("probe", "head"), Phase("tune", "all")


def test_rates_decay_from_block_to_block() -> None:
    """Head: times the ratio; neck: undecayed; last block: one decay; stem: one more than the first block."""
    phase = Phase("p", "all", head_lr_ratio=10, layer_decay=0.75)
    assert group_learning_rates(GROUPS, phase, 1e-3) == pytest.approx(
        (1e-3 * 0.75**3, 1e-3 * 0.75**2, 1e-3 * 0.75, 1e-3, 1e-2)
    )


def test_freezing_does_not_move_the_rates_of_the_others() -> None:
    """Decay is counted over all groups, so what is trained does not matter."""
    rates = {
        group_learning_rates(GROUPS, Phase("p", train, layer_decay=0.5), 1.0)
        for train in ("all", "head", "last:1", "only:1", "bias")
    }
    assert rates == {(0.125, 0.25, 0.5, 1.0, 1.0)}


def test_a_phase_with_its_own_rate_ignores_the_given_one() -> None:
    """`learning_rate` of the phase goes before that of the training arguments."""
    assert group_learning_rates(GROUPS, Phase("p", "all", learning_rate=0.5), 1.0) == (0.5,) * 5


@given(st.floats(1e-6, 1), st.floats(0.01, 1), st.floats(0.1, 100))
def test_rates_never_fall_towards_the_output(rate: float, decay: float, ratio: float) -> None:
    """From stem to neck the rates never fall, none exceeds the base, and only the head has the ratio."""
    *body, head = group_learning_rates(GROUPS, Phase("p", "all", layer_decay=decay, head_lr_ratio=ratio), rate)
    assert body == sorted(body)
    assert body[-1] == rate
    assert head == pytest.approx(rate * ratio)


def test_the_table_shows_the_rates_of_each_phase() -> None:
    """One row per group, one column per phase: its rate where it is trained, else "frozen"; totals below."""
    phases = (
        Phase("probe", "head", learning_rate=2e-2),
        Phase("tune", "last:2", learning_rate=1e-3, head_lr_ratio=10, layer_decay=0.75),
    )
    assert describe(TransferPlan(phases), GROUPS, PARAMETER_COUNTS).splitlines() == [
        "#  group     role   parameters  probe          tune",
        "-  --------  -----  ----------  -------------  -------------",
        "0  stem      stem        1,010  frozen         frozen",
        "1  blocks.0  block       1,010  frozen         frozen",
        "2  blocks.1  block       1,010  frozen         0.00075",
        "3  neck      neck        1,010  frozen         0.001",
        "4  head      head        1,010  0.02           0.01",
        "   total                 5,050  1,010 trained  3,030 trained",
    ]


def test_rates_that_are_left_open_are_multiples() -> None:
    """Without a learning rate the table shows "10x"; with the one of the training arguments, the rate itself."""
    plan = TransferPlan(
        (Phase("open", "all", head_lr_ratio=10, layer_decay=0.5), Phase("own", "all", learning_rate=1))
    )
    rows = _cells(describe(plan, GROUPS, PARAMETER_COUNTS))
    assert [rows[name][-2:] for name in ("head", "neck", "blocks.1", "stem")] == [
        ["10x", "1"],
        ["1x", "1"],
        ["0.5x", "1"],
        ["0.125x", "1"],
    ]
    rows = _cells(describe(plan, GROUPS, PARAMETER_COUNTS, learning_rate=1e-3))
    assert [rows[name][-2:] for name in ("head", "blocks.1")] == [["0.01", "1"], ["0.0005", "1"]]


def test_partly_trained_groups_are_marked() -> None:
    """A selector of parameters shows how many tensors of a group it trains, and counts only these."""
    rows = _cells(describe(TransferPlan((Phase("b", "bias", learning_rate=0.1),)), GROUPS, PARAMETER_COUNTS))
    assert rows["blocks.0"][-1] == "0.1 (1 of 2 tensors)"
    assert rows["head"][-1] == "0.1"
    assert rows["total"][-1] == "1,050 trained"


@pytest.mark.parametrize("name", tiny.ALL_MODELS)
def test_the_table_of_a_real_model_agrees_with_the_rates(name: str) -> None:
    """describe(model): head ten times the rate, neck undecayed, last block .75 of it, and so on to the stem."""
    model = tiny.ALL_MODELS[name]()
    groups = ht.wrap(model).layer_groups
    phase = Phase("tune", "all", learning_rate=1e-3, head_lr_ratio=10, layer_decay=0.75)
    rows = _cells(TransferPlan((phase,)).describe(model))
    rates = group_learning_rates(groups, phase, 0.0)
    for group, rate in zip(groups, rates, strict=True):
        count = sum(dict(model.named_parameters())[n].numel() for n in group.parameter_names)
        assert rows[group.name] == [str(group.index), group.name, group.role, f"{count:,}", f"{rate:.3g}"]
    assert rows["head"][-1] == "0.01"
    assert rows[[g.name for g in groups if g.role == "block"][-1]][-1] == "0.00075"
    if "neck" in rows:
        assert rows["neck"][-1] == "0.001"
    total = f"{sum(p.numel() for p in model.parameters()):,}"
    assert rows["total"] == ["total", total, f"{total} trained"]


def test_describe_does_not_touch_the_model() -> None:
    """The table is made without freezing anything."""
    model = tiny.resnet()
    TransferPlan((PROBE, TUNE)).describe(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.training == tiny.resnet().training


def test_a_plan_for_another_architecture_is_refused() -> None:
    """A resolved plan is bound to its architecture; one without is free; the message names both."""
    model = tiny.vit()
    TransferPlan((PROBE,), architecture="transformers:vit").describe(model)
    TransferPlan((PROBE,)).describe(model)
    with pytest.raises(PlanError, match="made for transformers:swin, the model is transformers:vit"):
        TransferPlan((PROBE,), architecture="transformers:swin").describe(model)
    with pytest.raises(PlanError, match="made for timm:resnet18, the model is timm:resnet34"):
        with torch.device("meta"):
            other = timm.create_model("resnet34")
        TransferPlan((PROBE,), architecture="timm:resnet18").describe(other)


def test_a_selector_that_misses_is_reported_by_describe() -> None:
    """The table is where a user first sees that a selector fits nothing; it lists the groups."""
    with pytest.raises(SelectorError, match="'vit.layers.9'.*0 stem .stem.*5 head .head."):
        TransferPlan((PROBE, Phase("b", "from:vit.layers.9"))).describe(tiny.vit())


def test_align_sets_numbers_to_the_right() -> None:
    """Columns are as wide as their widest cell; lines carry no spaces at their end."""
    assert align([("#", "b", "c", "n", "x"), ("10", "bb", "c", "1,000", "")]).splitlines() == [
        " #  b   c      n  x",
        "--  --  -  -----  -",
        "10  bb  c  1,000",
    ]


def test_a_rate_of_nothing_is_refused(tmp_path: Path) -> None:
    """learning_rate=0 of the training arguments is an error that says what to do, not a division by zero."""
    args = arguments(tmp_path, learning_rate=0.0)
    with pytest.raises(PlanError, match=r"'linear probe' trains at a learning rate of 0.0.*left out of"):
        ht.TransferTrainer(tiny.vit(), args, train_dataset=RandomImages(8), plan=ht.recipes.linear_probe()).train()
