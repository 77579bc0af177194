"""Similarity, size and the scenario: every boundary, from both sides."""

from __future__ import annotations

from typing import Any

import pytest

from hf_transfer.diagnosis import rules
from tests.helpers.diagnosed import measured


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"gain": (0.3, 0.001, 0.6)}, True),
        ({"gain": (0.3, 0.0, 0.6)}, None),
        ({"gain": (0.1, -0.2, 0.4)}, None),
        ({"gain": (-0.2, -0.5, 0.001)}, None),
        ({"gain": (-0.2, -0.5, 0.0)}, False),
        ({"gain": (0.5, 0.4, 0.6), "earlier": (0.05, 0.01)}, True),  # a matter of depth, not of similarity
        ({"gain": (0.1, 0.0, 0.4), "earlier": (0.05, 0.01)}, False),  # not surely better than random, and worse
        ({"gain": (0.1, 0.0, 0.4), "earlier": (0.0196, 0.01)}, None),
        ({"gain": (0.1, 0.0, 0.4), "gain_of_earlier": None}, None),
        ({"gain": (0.5, 0.4, 0.6), "gain_of_earlier": None}, True),
        ({"pretrained": False}, None),
    ],
)
def test_similarity(given: dict[str, Any], expected: bool | None) -> None:
    """Bounds decide, not values; a better earlier layer alone is no difference; without weights nothing is known."""
    assert rules.is_similar(measured(**given)) is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"per_class": 50, "slope": (0.11, 0, 1), "gap": 0.06}, False),
        ({"per_class": 50, "slope": (0.10, 0, 1), "gap": 0.06}, True),
        ({"per_class": 50, "slope": (0.11, 0, 1), "gap": 0.05}, True),
        ({"per_class": 50, "slope": None, "gap": 0.06}, False),
        ({"per_class": 50, "slope": None, "gap": 0.05}, True),
        ({"per_class": 19, "slope": (0.0, 0, 1), "gap": 0.0}, False),
        ({"per_class": 20, "slope": (0.0, 0, 1), "gap": 0.0}, True),
        ({"per_class": 1999, "slope": (0.2, 0, 1), "gap": 0.2}, False),
        ({"per_class": 2000, "slope": (0.2, 0, 1), "gap": 0.2}, True),
        ({"per_class": 5, "classes": 10_000, "sample": 10_000, "slope": (0.2, 0, 1), "gap": 0.2}, False),
        ({"per_class": 50, "slope": (-0.1, -0.3, 0.1), "gap": -0.1}, True),
    ],
)
def test_size(given: dict[str, Any], expected: bool) -> None:
    """Few images of each class are small, very many are large, between them slope and gap decide."""
    assert rules.is_large(measured(**given)) is expected


@pytest.mark.parametrize(
    ("similar", "large", "scenario"),
    [(True, False, 1), (True, True, 2), (False, False, 3), (False, True, 4), (None, False, rules.UNDECIDED)],
)
def test_scenarios_are_numbered_as_in_cs231n(similar: bool | None, large: bool, scenario: int | str) -> None:
    """Small and similar is 1, large and similar 2, small and different 3, large and different 4."""
    gain = {True: (0.5, 0.4, 0.6), False: (-0.5, -0.6, -0.4), None: (0.0, -0.1, 0.1)}[similar]
    assert rules.scenario(measured(gain=gain, gap=0.0 if large else 0.2)) == scenario
