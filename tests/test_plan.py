"""hf_transfer.plan: phases are checked, plans survive JSON exactly, and the table shows what will be trained."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

import hf_transfer as ht
from hf_transfer.errors import OutputError, PlanError, SelectorError
from hf_transfer.layers import LayerGroup
from hf_transfer.plan import Phase, TransferPlan, align, describe, group_learning_rates
from tests import tiny

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


# --- Phase -------------------------------------------------------------------------------------------------------


def test_the_defaults_of_a_phase() -> None:
    """A phase of name and selector leaves length, rates and schedule to the training arguments, and norms in eval."""
    assert Phase("p", "head").to_dict() == {
        "name": "p",
        "train": "head",
        "epochs": None,
        "max_steps": None,
        "learning_rate": None,
        "head_lr_ratio": 1.0,
        "layer_decay": 1.0,
        "weight_decay": None,
        "warmup": None,
        "lr_scheduler_type": None,
        "norm": "eval",
        "reset_optimizer": False,
        "head_solver": None,
    }


_BAD_NUMBERS: list[Any] = [-1, -0.5, float("nan"), float("inf"), 10**400, "1", True, [1], 1j]


@pytest.mark.parametrize(
    "field", ["epochs", "max_steps", "learning_rate", "head_lr_ratio", "layer_decay", "weight_decay", "warmup"]
)
@pytest.mark.parametrize("value", _BAD_NUMBERS, ids=lambda value: repr(value)[:6])
def test_numbers_of_a_phase_are_checked(field: str, value: Any) -> None:
    """Negative, infinite, missing or textual numbers raise with phase and field."""
    with pytest.raises(PlanError, match=f"Phase 'probe': {field} "):
        Phase("probe", "head", **{field: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be a number and positive, found 0"),
        ({"max_steps": 0}, "max_steps must be a number and positive"),
        ({"max_steps": 2.0}, "max_steps is a whole number, found 2.0"),
        ({"learning_rate": 0.0}, "learning_rate must be a number and positive"),
        ({"head_lr_ratio": 0}, "head_lr_ratio must be a number and positive"),
        ({"head_lr_ratio": None}, "head_lr_ratio must be a number"),
        ({"layer_decay": 0}, "layer_decay must be a number and positive"),
        ({"layer_decay": None}, "layer_decay must be a number"),
        ({"layer_decay": 1.01}, "layer_decay is at most 1, found 1.01"),
        ({"epochs": 1, "max_steps": 5}, "epochs or max_steps, not both"),
        ({"warmup": 1.5}, "a fraction below 1 or a whole number of steps, found 1.5"),
        ({"lr_scheduler_type": 3}, "lr_scheduler_type is the name of a scheduler, found 3"),
        ({"norm": "frozen"}, 'norm is "eval" or "train", found \'frozen\''),
        ({"norm": None}, "norm is"),
        ({"norm": ["eval"]}, "norm is"),
    ],
)
def test_fields_of_a_phase_are_checked(values: dict[str, Any], message: str) -> None:
    """Each field has its own check, whose message says what was expected and what was found."""
    with pytest.raises(PlanError, match=f"Phase 'probe': .*{message}"):
        Phase("probe", "head", **values)


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0.5},
        {"max_steps": 1},
        {"learning_rate": 1},
        {"layer_decay": 1},
        {"layer_decay": 0.65},
        {"weight_decay": 0},
        {"warmup": 0},
        {"warmup": 0.1},
        {"warmup": 1},
        {"warmup": 500.0},
        {"lr_scheduler_type": "cosine"},
        {"norm": "train"},
    ],
)
def test_good_values_pass(values: dict[str, Any]) -> None:
    """Boundaries of the allowed ranges are inside."""
    phase = Phase("probe", "head", **values)
    assert all(getattr(phase, name) == value for name, value in values.items())


@pytest.mark.parametrize("name", ["", "  ", None, 3, "two\nlines", "\x1b[31mred"])
def test_a_phase_has_a_name_of_one_line(name: Any) -> None:
    """The name goes into tables, logs and the card."""
    with pytest.raises(PlanError, match="A phase needs a name"):
        Phase(name, "head")


@pytest.mark.parametrize("train", ["heads", "last:", (), [], None, 3, ("head", None)])
def test_a_selector_is_checked_without_a_model(train: Any) -> None:
    """A malformed selector is found when the plan is written, not when training starts."""
    with pytest.raises(SelectorError, match="A selector is"):
        Phase("p", train)


# --- TransferPlan ------------------------------------------------------------------------------------------------

PROBE, TUNE = Phase("probe", "head"), Phase("tune", "all")


@pytest.mark.parametrize("phases", [(), [], None, PROBE, (PROBE, "tune"), ("head",), {"probe": PROBE}, iter([PROBE])])
def test_a_plan_is_a_tuple_of_phases(phases: Any) -> None:
    """Nothing, a single phase or other things in place of phases are refused."""
    with pytest.raises(PlanError, match="A plan has a tuple of at least one Phase"):
        TransferPlan(phases)


def test_a_list_of_phases_becomes_a_tuple() -> None:
    """A plan can be compared and hashed, however its phases were given."""
    phases: Any = [PROBE, TUNE]
    assert TransferPlan(phases) == TransferPlan((PROBE, TUNE))
    assert hash(TransferPlan(phases)) == hash(TransferPlan((PROBE, TUNE)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"phases": (PROBE, PROBE)}, r"different names, found \['probe', 'probe'\]"),
        ({"init": "scratch"}, 'init is "pretrained" or "random", found \'scratch\''),
        ({"init": None}, "init is"),
        ({"recipe": None}, "recipe and architecture are text"),
        ({"architecture": 3}, "recipe and architecture are text"),
    ],
)
def test_fields_of_a_plan_are_checked(values: dict[str, Any], message: str) -> None:
    """Names of phases differ, since logs and the optimizer's state go by them; the other fields have their types."""
    with pytest.raises(PlanError, match=message):
        TransferPlan(**({"phases": (PROBE, TUNE)} | values))


# --- JSON --------------------------------------------------------------------------------------------------------

_positive = st.floats(min_value=1e-9, max_value=1e6) | st.integers(1, 10**6)
_phases = st.builds(
    Phase,
    name=st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8),
    train=st.sampled_from(["head", "all", "last:2", "re:norm|bias", "only:1-2"])
    | st.lists(st.sampled_from(["norm", "bias", "from:x"]), min_size=1, max_size=3).map(tuple),
    epochs=st.none() | _positive,
    learning_rate=st.none() | _positive,
    head_lr_ratio=_positive,
    layer_decay=st.floats(min_value=1e-9, max_value=1),
    weight_decay=st.none() | st.floats(0, 1),
    warmup=st.none() | st.floats(0, 1) | st.integers(0, 10**6),
    lr_scheduler_type=st.none() | st.sampled_from(["cosine", "linear"]),
    norm=st.sampled_from(["eval", "train"]),
) | st.builds(Phase, name=st.just("steps"), train=st.just("head"), max_steps=st.integers(1, 10**9))
_plans = st.builds(
    TransferPlan,
    phases=st.lists(_phases, min_size=1, max_size=3, unique_by=lambda phase: phase.name).map(tuple),
    recipe=st.text(max_size=8),
    init=st.sampled_from(["pretrained", "random"]),
    architecture=st.none() | st.text(max_size=8),
)


@given(_plans)
def test_the_json_round_trip_is_exact(plan: TransferPlan) -> None:
    """Every plan comes back equal from JSON text: all digits of the rates, tuples as tuples, None as None."""
    again = TransferPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    for before, after in zip(plan.phases, again.phases, strict=True):
        for field in fields(Phase):
            assert type(getattr(after, field.name)) is type(getattr(before, field.name)), field.name


def test_files(tmp_path: Path) -> None:
    """save and load are inverse; the file is JSON with all fields, those at their default included."""
    plan = TransferPlan((Phase("a", ("norm", "last:1"), max_steps=7), Phase("b", "all", 1 / 3)), architecture="x")
    plan.save(tmp_path / "plan.json")
    assert TransferPlan.load(tmp_path / "plan.json") == plan
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data == plan.to_dict()
    assert set(data["phases"][0]) == {field.name for field in fields(Phase)}
    assert data["phases"][0]["train"] == ["norm", "last:1"]


def test_the_resolved_file_of_a_run_is_a_plan(tmp_path: Path) -> None:
    """transfer_plan.json holds the plan beside what it came to; that is a plan to start the next run with."""
    plan = TransferPlan((PROBE, TUNE), recipe="lp_ft", architecture="transformers:vit")
    path = tmp_path / "transfer_plan.json"
    path.write_text(json.dumps({"plan": plan.to_dict(), "phases": ["resolved"], "groups": [1, 2]}))
    assert TransferPlan.load(path) == plan


def test_missing_fields_take_their_defaults() -> None:
    """A plan written by hand needs phases with name and selector, no more."""
    written = {"phases": [{"name": "a", "train": ["norm", "bias"]}]}
    assert TransferPlan.from_dict(written) == TransferPlan((Phase("a", ("norm", "bias")),))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "A plan is a JSON object, found list"),
        (None, "A plan is a JSON object, found NoneType"),
        ({}, "missing: phases"),
        ({"plan": 3}, "A plan is a JSON object, found int"),
        ({"phases": {}}, "phases are a list, found dict"),
        ({"phases": "head"}, "phases are a list, found str"),
        ({"phases": []}, "at least one Phase"),
        ({"phases": [3]}, "A phase is a JSON object, found 3"),
        ({"phases": [{"train": "head"}]}, "missing: name"),
        ({"phases": [{"name": "a"}]}, "missing: train"),
        ({"phases": [{"name": "a", "train": "head", "lr": 1, "decay": 2}]}, "unknown: decay, lr"),
        ({"phases": [{"name": "a", "train": "head"}], "steps": 3}, "unknown: steps"),
        ({"phases": [{"name": "a", "train": "head"}], 3: 4}, "unknown: 3"),
        ({"phases": [{"name": "a", "train": "head", "epochs": "3"}]}, "epochs must be a number"),
        ({"phases": [{"name": "a", "train": "hed"}]}, "A selector is"),
    ],
)
def test_a_faulty_plan_is_explained(data: Any, message: str) -> None:
    """Unknown fields are named with the known ones, missing and invalid ones as well; never a TypeError."""
    with pytest.raises(PlanError, match=message):
        TransferPlan.from_dict(data)


def test_unknown_fields_are_answered_with_the_known_ones() -> None:
    """A typing error in a field's name is easy to mend from the message."""
    with pytest.raises(PlanError) as caught:
        Phase.from_dict({"name": "a", "train": "head", "learing_rate": 1})
    assert "unknown: learing_rate" in str(caught.value)
    assert all(field.name in str(caught.value) for field in fields(Phase))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"phases": [{"name": "a", "train": "head", "epochs": NaN}]}']
)
def test_a_file_that_is_no_plan_is_named(content: bytes, tmp_path: Path) -> None:
    """Broken JSON, wrong encoding and NaN raise PlanError."""
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(PlanError, match="plan.json|epochs"):
        TransferPlan.load(tmp_path / "plan.json")


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing file, or a folder in its place, is reported with its path."""
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(PlanError, match=f"No plan can be read from {path}"):
            TransferPlan.load(path)
    with pytest.raises(OutputError, match="The plan cannot be written"):
        TransferPlan((PROBE,)).save(tmp_path / "no" / "such" / "folder.json")


# --- learning rates ----------------------------------------------------------------------------------------------


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


# --- describe ----------------------------------------------------------------------------------------------------


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


def test_a_solved_phase_must_be_the_head_and_the_first() -> None:
    """head_solver survives JSON, and is refused where nothing could be solved, alone, or later than first."""
    solved = Phase("probe", "head", head_solver="ridge")
    plan = TransferPlan((solved, TUNE))
    assert TransferPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    with pytest.raises(PlanError, match="one of logistic, svm, ridge, sgd or nothing, found 'lasso'"):
        Phase("probe", "head", head_solver="lasso")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="solves the head alone, but the phase trains 'last:1'"):
        Phase("probe", "last:1", head_solver="ridge")
    for phases in ((solved,), (TUNE, solved)):
        with pytest.raises(PlanError, match="first of several phases.*LinearProbeTrainer"):
            TransferPlan(phases)
    with pytest.raises(PlanError, match='schedule="run" cannot count it'):
        TransferPlan((solved, Phase("all", "all")), schedule="run")
