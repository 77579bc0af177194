"""Tables of a diagnosis name the metric, and show labels as they are."""

from __future__ import annotations

from hf_transfer.diagnosis import tables
from hf_transfer.diagnosis.decide import decide
from tests.helpers.diagnosed import measured


def test_tables_name_the_metric() -> None:
    """The column of scores is called as the metric is."""
    for metric, words in (("accuracy", "accuracy"), ("balanced_accuracy", "balanced accuracy")):
        m = measured(metric=metric, joined=0.01)
        assert f" {words} " in tables.layers_table(m)
        assert f" {words} " in tables.candidates_table(decide(m).candidates, metric)


def test_each_candidate_says_what_it_rests_on() -> None:
    """Linear classifiers are measured, trainings assumed, each with its gain and the error of that."""
    text = tables.candidates_table(decide(measured()).candidates, "accuracy").splitlines()
    assert sum("measured" in line for line in text) == 4 and sum("assumed" in line for line in text) == 3
    assert all("\N{PLUS-MINUS SIGN}" in line for line in text if "LP-FT" in line)


def test_names_are_no_markup() -> None:
    """Brackets are printed."""
    assert "[red]a" in tables.rendered(("x", "y"), [("[red]a", "1")])
