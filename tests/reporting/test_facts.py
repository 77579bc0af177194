"""hf_transfer.reporting.facts: what the record says is the same in the card and in the report."""

from __future__ import annotations

import re
from html import unescape

import pytest

from hf_transfer.reporting import facts, training_facts
from hf_transfer.reporting.card import render_card
from hf_transfer.reporting.html_report import render_report
from tests.helpers.card_records import PLANS, changed, record, tables_in


def test_card_and_report_say_the_same() -> None:
    """Every title with its value, of settings, preprocessing, seeds, hardware and time, is in both."""
    data = changed(record(PLANS["two phases"]), hardware={"accelerators": ["GPU", "GPU"], "world_size": 2})
    stated = [
        *facts.preprocessing(data["preprocessing"]),
        *training_facts.settings(data["training"]),
        *facts.setup(data),
    ]
    rows = {(row[0], row[1]) for table in tables_in(render_card(data)) for row in table}
    page = unescape(render_report(data, data["evaluation"], []))
    shown = set(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert len(stated) > 15 and set(stated) <= rows and set(stated) <= shown


@pytest.mark.parametrize("name", PLANS)
def test_layer_tables_have_the_same_cells(name: str) -> None:
    """What each phase did with each layer group reads the same in both."""
    data = record(PLANS[name])
    cells = [row.cells for row in training_facts.group_rows(data["training"]["plan"]["groups"])]
    card = next(table for table in tables_in(render_card(data)) if table[0][1:2] == ["Layer group"])
    assert [tuple(row[4:]) for row in card[1:-1]] == cells
    report = render_report(data, {}, [])
    assert all(f">{cell}</td>" in report for row in cells for cell in row)


def test_values_in_words() -> None:
    """Numbers, flags, lists and mappings are shown as a person reads them; a seed keeps its digits together."""
    assert facts.plain([True, 1234, 0.5, {"a": [1, 2]}]) == "yes, 1,234, 0.5, a 1, 2"
    assert facts.known({"zero": 0, "none": None, "empty": [], "text": ""}) == [("zero", "0")]
    assert ("Seed", "1234567") in facts.setup({"seed": 1234567})


@pytest.mark.parametrize(
    ("phase", "text"),
    [
        ({"start_step": 0, "end_step": 50}, "steps 0 to 50"),
        ({"start_step": 0, "end_step": 30, "planned_steps": 50}, "steps 0 to 30, stopped early (50 planned)"),
        ({"start_step": 30, "end_step": 30, "planned_steps": 50}, "not reached (50 steps planned)"),
        ({"start_step": 0, "end_step": 0, "head_solver": "ridge"}, "solved (ridge)"),
        ({"start_step": 0, "end_step": 0}, ""),
        ({}, ""),
    ],
)
def test_time_of_a_phase(phase: dict[str, object], text: str) -> None:
    """The head of a column says when its phase ran; a phase without steps has no time."""
    assert training_facts.time_of(phase) == text
