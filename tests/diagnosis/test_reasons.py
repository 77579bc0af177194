"""Sentences say what the tables say: each of their numbers stands there, and none contradicts another."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hf_transfer.diagnosis import rules, tables
from hf_transfer.diagnosis.decide import decide
from hf_transfer.diagnosis.findings import findings
from hf_transfer.diagnosis.measurements import DataFindings, MeasuredInterval, Measurements
from hf_transfer.diagnosis.result import Diagnosis
from tests.helpers.diagnosed import measured

_NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?![\w.]*\w)")
_FIXED = {f"{number:,g}" for number in (rules.SMALL_PER_CLASS, rules.SMALL_IMAGES, rules.LARGE_IMAGES)} | {"95"}


@st.composite
def any_measurements(draw: st.DrawFn) -> Measurements:
    """Measurements of all sorts, on even and uneven classes, with wide and narrow intervals."""
    classes = draw(st.sampled_from((2, 3, 10)))
    counts = draw(st.lists(st.integers(2, 9000), min_size=classes, max_size=classes))
    gain = sorted(draw(st.lists(st.floats(-12, 4), min_size=3, max_size=3)))
    slope = sorted(draw(st.lists(st.floats(-1, 1), min_size=3, max_size=3)))
    found = measured(
        per_class=sum(counts) / classes,
        classes=classes,
        last=draw(st.floats(0, 1)),
        earlier=(draw(st.floats(-0.5, 0.5)), draw(st.floats(0, 0.1))),
        random=draw(st.floats(0, 1)),
        gain=(gain[1], gain[0], gain[2]),
        slope=draw(st.none() | st.just((slope[1], slope[0], slope[2]))),
        gap=draw(st.floats(-0.2, 1)),
        native=draw(st.booleans()),
        joined=draw(st.none() | st.floats(-0.2, 0.2)),
        pretrained=draw(st.booleans()),
        data=DataFindings({"abcdefghij"[at]: count for at, count in enumerate(counts)}),
        metric=draw(st.sampled_from(("accuracy", "balanced_accuracy"))),
    )
    last = found.layers[3]
    return replace(
        found, layers=(*found.layers[:3], replace(last, matched_accuracy=draw(st.floats(0, 1))), *found.layers[4:])
    )


@given(any_measurements(), st.sampled_from(("fast", "balanced", "best")), st.booleans())
def test_every_number_of_a_sentence_stands_in_a_table(m: Measurements, prefer: Any, allow: bool) -> None:
    """No sentence has a number that the tables above it do not have; layers' names aside."""
    found = Diagnosis(m, decide(m, prefer, allow))
    above = found.table() + tables.candidates_table(found.decision.candidates, m.metric)
    known = set(_NUMBER.findall(above)) | _FIXED
    for sentence in found.reasons:
        said = set(_NUMBER.findall(re.sub(r"block\.\d|of the (last half|largest)", "", sentence)))
        assert said <= known, (said - known, sentence)


@given(any_measurements())
def test_shares_are_possible(m: Measurements) -> None:
    """Errors never fall by more than all of them, and an interval wider than all of them is not told."""
    for row in findings(m):
        if row.title.startswith("change"):
            bounds = [int(number) for number in re.findall(r"[+-]?\d+", row.interval)]
            assert not bounds or (min(bounds) >= -100 and max(bounds) - min(bounds) <= 101)
            assert bounds or row.value.startswith("not known")


def test_depth_does_not_contradict_itself() -> None:
    """An earlier layer that looks better is shown with its score, and what is left once its choice is allowed for."""
    m = measured(earlier=(0.013, 0.01), gain_of_earlier=measured(earlier=(-0.007, 0.008)).gain_of_earlier)
    sentence = decide(m).reasons[2]
    assert "block.1 with 0.813; the last has 0.800" in sentence
    assert "Judged by other images than it was chosen by, it is not surely better or worse" in sentence


def test_uneven_classes_name_the_share_of_the_largest() -> None:
    """What a classifier reaches that always names the largest class is told."""
    m = measured(data=DataFindings({"good": 160, "defect": 32}))
    assert "always names the largest has an accuracy of 0.833" in " ".join(decide(m).warnings)
    assert ("share of the largest class", "0.833") in [(row.title, row.value) for row in findings(m)]


def test_splits_that_differ_are_told() -> None:
    """The warning has the area with its interval, and says that no promise holds."""
    for low, told in ((0.59, False), (0.61, True)):
        data = DataFindings({"a": 9, "b": 9}, split_difference=MeasuredInterval(0.75, low, 0.9))
        found = " ".join(decide(measured(data=data)).warnings)
        assert ("No promise holds for them" in found and "0.75 (95 % interval 0.61 to 0.90" in found) is told
