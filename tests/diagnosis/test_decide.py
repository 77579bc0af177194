"""`decide`: what follows from hand-built measurements, and what holds for all of them."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_transfer.diagnosis import priors
from hf_transfer.diagnosis.decide import ERRORS_ALLOWED, Decision, decide
from hf_transfer.diagnosis.measurements import Measurements
from hf_transfer.errors import ArgumentError
from hf_transfer.plans import recipes
from tests.helpers.diagnosed import measured

PREFERENCES = tuple(ERRORS_ALLOWED)


def per_class_with(share: float) -> float:
    """Images of each class from which on fine-tuning of all layers is assumed to take away a share of the errors."""
    low, high = 1.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if priors.expected_gain(middle, "all_layers") >= share else (middle, high)
    return high


SURE = priors.GAIN_ERROR  # one standard error of the assumption, as share of the errors
FEW, MANY = 5.0, 1000.0
ONE, TWO = per_class_with(SURE), per_class_with(2 * SURE)
LAST, PART, MOST, ALL, TUNED = "last", "part:half", "part:most", "all", "part or all"
NATIVE, FOREIGN = {"native": True}, {"native": False}
PLENTY = {"gap": 0.0, "slope": (0.0, -0.1, 0.1)}
DIFFERENT, UNCLEAR = {"gain": (-0.2, -0.3, 0.0)}, {"gain": (0.1, 0.0, 0.2)}

# What was measured (helpers/diagnosed.py), prefer, allow_probe_file; scenario, what the head reads or what is trained.
TABLE: list[tuple[dict[str, Any], str, bool, Any, str]] = [
    # Few images: nothing is assumed of fine-tuning.
    ({"per_class": FEW}, "fast", False, 1, LAST),
    ({"per_class": FEW}, "balanced", False, 1, LAST),
    ({"per_class": FEW}, "best", False, 1, LAST),
    # From where on the assumed gain is more than the allowance.
    ({"per_class": ONE - 0.2}, "balanced", False, 1, LAST),
    ({"per_class": ONE + 0.2}, "balanced", False, 1, TUNED),
    ({"per_class": TWO - 0.2}, "fast", False, 1, LAST),
    ({"per_class": TWO + 0.2}, "fast", False, 1, TUNED),
    ({"per_class": FEW + 0.5}, "best", False, 1, TUNED),
    # Many images of each class, in all four scenarios and without one.
    ({"per_class": MANY}, "balanced", False, 1, ALL),
    ({"per_class": MANY, **PLENTY}, "balanced", False, 2, ALL),
    ({"per_class": MANY, **DIFFERENT}, "balanced", False, 3, ALL),
    ({"per_class": MANY, **PLENTY, **DIFFERENT}, "balanced", False, 4, ALL),
    ({"per_class": MANY, **UNCLEAR}, "balanced", False, "undecided", ALL),
    ({"per_class": FEW, **DIFFERENT}, "balanced", False, 3, LAST),
    ({"per_class": FEW, **UNCLEAR}, "balanced", False, "undecided", LAST),
    # An earlier layer of a network that can end there: more, exactly as much, and less than the allowance.
    ({"per_class": FEW, "earlier": (0.05, 0.02), **NATIVE}, "fast", False, 1, "block.1"),
    ({"per_class": FEW, "earlier": (0.0401, 0.02), **NATIVE}, "fast", False, 1, "block.1"),
    ({"per_class": FEW, "earlier": (0.0399, 0.02), **NATIVE}, "fast", False, 1, LAST),
    ({"per_class": FEW, "earlier": (0.0201, 0.02), **NATIVE}, "balanced", False, 1, "block.1"),
    ({"per_class": FEW, "earlier": (0.0199, 0.02), **NATIVE}, "balanced", False, 1, LAST),
    ({"per_class": FEW, "earlier": (0.001, 0.02), **NATIVE}, "best", False, 1, "block.1"),
    ({"per_class": FEW, "earlier": (0.0, 0.02), **NATIVE}, "best", False, 1, LAST),
    ({"per_class": FEW, "earlier": (-0.001, 0.02), **NATIVE}, "best", False, 1, LAST),
    ({"per_class": FEW, "earlier": (0.05, 0.02), **NATIVE, **DIFFERENT}, "balanced", False, 3, "block.1"),
    # One that cannot end there: only if a probe file is allowed.
    ({"per_class": FEW, "earlier": (0.05, 0.02), **FOREIGN}, "balanced", False, 1, LAST),
    ({"per_class": FEW, "earlier": (0.05, 0.02), **FOREIGN}, "balanced", True, 1, "block.1"),
    ({"per_class": FEW, "earlier": (0.05, 0.02), **FOREIGN}, "best", False, 1, LAST),
    # All layers joined never are an ordinary checkpoint.
    ({"per_class": FEW, "joined": 0.06}, "balanced", False, 1, LAST),
    ({"per_class": FEW, "joined": 0.06}, "balanced", True, 1, "all layers"),
    ({"per_class": FEW, "joined": 0.0}, "best", True, 1, LAST),
    # A linear classifier as good as what is assumed of fine-tuning; and better. Where a checkpoint can end there, what
    # lies before it is trained.
    ({"per_class": MANY, "earlier": (0.09, 0.001), **NATIVE}, "balanced", False, 1, MOST),
    ({"per_class": MANY, "earlier": (0.02, 0.001), **NATIVE}, "balanced", False, 1, MOST),
    ({"per_class": MANY, "earlier": (0.15, 0.01), **NATIVE}, "best", False, 1, MOST),
    ({"per_class": MANY, "earlier": (0.09, 0.001), **FOREIGN}, "balanced", False, 1, ALL),
    ({"per_class": MANY, "earlier": (0.15, 0.01), **FOREIGN}, "best", True, 1, "block.1"),
    # Nothing left to gain, and nothing to lose.
    ({"per_class": MANY, "last": 1.0, "earlier": (-0.1, 0.01), "random": 0.5}, "best", False, 1, LAST),
    ({"per_class": MANY, "last": 0.0, "earlier": (0.0, 0.0), "random": 0.0, "gain": (0, 0, 0)}, "best", False, 3, ALL),
    # Without pretrained weights there is nothing to keep.
    ({"per_class": FEW, "pretrained": False}, "fast", False, "undecided", "scratch"),
    ({"per_class": MANY, "pretrained": False}, "best", True, "undecided", "scratch"),
    # Large by number alone, and very many classes.
    ({"per_class": 2000}, "balanced", False, 2, ALL),
    ({"per_class": FEW, "classes": 10_000, "sample": 20_000}, "balanced", False, 1, LAST),
    ({"per_class": 1, "classes": 2, "sample": 2, "slope": None}, "best", False, 1, LAST),
]


@pytest.mark.parametrize(("known", "prefer", "allow", "scenario", "expected"), TABLE)
def test_table(known: dict[str, Any], prefer: Any, allow: bool, scenario: Any, expected: str) -> None:
    """What follows from hand-built measurements, on both sides of every boundary."""
    decision = decide(measured(**known), prefer, allow)
    assert decision.scenario == scenario
    if decision.recipe == "from_scratch":
        assert expected == "scratch"
    elif decision.recipe == "lp_ft":
        assert decision.options["train"] == expected or expected == TUNED
    else:
        assert decision.layer == ("all" if expected == "all layers" else expected)
        assert expected not in (ALL, TUNED)


def test_the_part_is_chosen_where_all_layers_are_hardly_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two ways of fine-tuning, of which both are assumed, the unshared part of the error counts."""
    wide = priors.UNSHARED * priors.GAIN_ERROR
    for difference, expected in ((wide * 0.99, PART), (wide * 1.01, ALL)):
        rows = (priors.GainPrior(2, 0.3, 0.3 + difference), priors.GainPrior(9, 0.3, 0.3 + difference))
        monkeypatch.setattr(priors, "GAINS", rows)
        assert decide(measured(per_class=MANY)).plan.phases[-1].train == expected


def test_settings_follow_size() -> None:
    """Few images are seen more often; where all layers are trained, the lower ones move less."""
    assert [priors.epochs(images, "all_layers") for images in (100, 4096, 10_000)] == [37, 4, 4]  # of 7 steps: 256
    assert [priors.epochs(images, "last_part") for images in (100, 1024, 10_000)] == [55, 6, 6]
    assert decide(measured(per_class=MANY)).options["layer_decay"] < 1


def test_reasons_name_what_is_out_of_reach() -> None:
    """The accuracy of a classifier that no ordinary checkpoint can hold is named, and the flag that allows it."""
    known = {"earlier": (0.05, 0.02), "native": False, "joined": 0.08}
    text = " ".join(decide(measured(**known)).reasons)
    assert "Out of reach: linear probe on all layers joined has 0.880" in text and "--allow_probe_file" in text
    assert "Out of reach" not in " ".join(decide(measured(**known), allow_probe_file=True).reasons)


def test_what_is_settled() -> None:
    """Only measurements settle: not where fine-tuning is assumed to gain nothing, unless nothing is left to gain."""
    assert decide(measured(per_class=FEW, last=1.0, earlier=(-0.2, 0.01))).settled
    assert not decide(measured(per_class=FEW, earlier=(-0.2, 0.01))).settled
    assert not decide(measured(per_class=(ONE + TWO) / 2)).settled
    assert not decide(measured(per_class=MANY)).settled


@st.composite
def any_measurements(draw: st.DrawFn) -> Measurements:
    """Measurements of all sorts, those of hopeless and of perfect features among them."""
    share = st.floats(0, 1)
    bounds = sorted(draw(st.tuples(st.floats(-3, 1), st.floats(-3, 1), st.floats(-3, 1))))
    return measured(
        per_class=draw(st.sampled_from((1, 2, 5, 10, 19, 20, 50, 200, 1000, 100_000))),
        classes=draw(st.sampled_from((2, 10, 1000))),
        last=draw(share),
        earlier=(draw(st.floats(-0.5, 0.5)), draw(st.floats(0, 0.1))),
        gain=(bounds[1], bounds[0], bounds[2]),
        slope=draw(st.none() | st.just((0.05, 0, 0.1)) | st.just((0.3, 0.2, 0.4))),
        gap=draw(st.floats(-0.2, 1)),
        native=draw(st.booleans()),
        joined=draw(st.none() | st.floats(-0.2, 0.2)),
        pretrained=draw(st.booleans()),
        costs=draw(st.none() | st.just(measured().costs)),
    )


@given(any_measurements(), st.sampled_from(PREFERENCES), st.booleans(), st.sampled_from((2, 3, 10, 1000)))
def test_more_images_never_train_fewer_layers(m: Measurements, prefer: Any, allow: bool, factor: int) -> None:
    """With all else equal, the decision only moves towards more trained layers."""
    more = replace(m, images=m.images * factor)
    assert decide(m, prefer, allow).chosen.trained <= decide(more, prefer, allow).chosen.trained


@given(any_measurements(), st.sampled_from(PREFERENCES), st.booleans(), st.randoms())
def test_order_does_not_matter(m: Measurements, prefer: Any, allow: bool, chance: random.Random) -> None:
    """Layers and classes in another order give the same decision; twice the same gives the same."""
    layers, counts = list(m.layers), list(m.data.class_counts.items())
    chance.shuffle(layers)
    chance.shuffle(counts)
    shuffled = replace(m, layers=tuple(layers), data=replace(m.data, class_counts=dict(counts)))
    decision = decide(m, prefer, allow)
    assert decide(shuffled, prefer, allow) == decision
    assert decide(m, prefer, allow) == decision


@given(any_measurements(), st.sampled_from(PREFERENCES), st.booleans())
def test_every_decision_is_whole(m: Measurements, prefer: Any, allow: bool) -> None:
    """Numbers are finite, the plan is the recipe's, JSON gives it back, and no sentence says nan."""
    decision = decide(m, prefer, allow)
    numbers = [n for c in decision.candidates for n in (c.accuracy, c.gain, c.gain_error)]
    assert all(map(math.isfinite, numbers)) and all(0 <= c.accuracy <= 1 for c in decision.candidates)
    assert decision.plan == recipes.get(decision.recipe, **decision.options)
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict(), allow_nan=False))) == decision
    assert "nan" not in " ".join((*decision.reasons, *decision.warnings)).split()
    assert len(decision.rejected) == len(decision.candidates) - 1
    assert allow or decision.chosen.native


@given(any_measurements(), st.booleans())
def test_a_larger_allowance_is_never_dearer(m: Measurements, allow: bool) -> None:
    """fast trains no more layers than balanced, and balanced no more than best."""
    trained = [decide(m, prefer, allow).chosen.trained for prefer in PREFERENCES]
    assert trained == sorted(trained)


def test_unknown_preference_is_refused() -> None:
    """The message names those that exist."""
    with pytest.raises(ArgumentError, match="fast, balanced, best"):
        decide(measured(), "cheap")  # type: ignore[arg-type]


def test_what_is_no_decision_is_refused() -> None:
    """A field that is missing is named."""
    with pytest.raises(ArgumentError, match="chosen"):
        Decision.from_dict({k: v for k, v in decide(measured()).to_dict().items() if k != "chosen"})
