"""hf_transfer.plans.plan: phases are checked, plans survive JSON exactly, and the table shows what will be trained."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_transfer.errors import OutputError, PlanError, SelectorError
from hf_transfer.plans.plan import Phase, TransferPlan

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
        "average_from": None,
    }


_BAD_NUMBERS: list[Any] = [-1, -0.5, float("nan"), float("inf"), 10**400, "1", True, [1], 1j]


@pytest.mark.parametrize(
    "field",
    ["epochs", "max_steps", "learning_rate", "head_lr_ratio", "layer_decay", "weight_decay", "warmup", "average_from"],
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
