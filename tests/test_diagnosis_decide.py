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

from hf_transfer import recipes
from hf_transfer.diagnosis.decide import ERRORS_ALLOWED, Decision, decide
from hf_transfer.diagnosis.measurements import Measurements
from hf_transfer.errors import ArgumentError
from tests.diagnosed import measured

PREFERENCES = tuple(ERRORS_ALLOWED)


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
