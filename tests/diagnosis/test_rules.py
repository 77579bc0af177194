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


FLAT, STEEP = (0.05, 0.0, 0.1), (0.2, 0.101, 0.3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # By number alone, whatever a network's slope and gap are.
        ({"per_class": 19, "classes": 1000, "sample": 2000, "slope": FLAT, "gap": 0.0}, False),
        ({"per_class": 99, "slope": FLAT, "gap": 0.0}, False),
        ({"per_class": 2000, "slope": STEEP, "gap": 0.2}, True),
        ({"per_class": 5, "classes": 10_000, "sample": 10_000, "slope": FLAT, "gap": 0.0}, False),
        # In between by both, and by their bounds: the gap's are 0.0196 away.
        ({"per_class": 100, "slope": FLAT, "gap": 0.03}, True),
        ({"per_class": 100, "slope": (0.05, 0.0, 0.101), "gap": 0.03}, None),
        ({"per_class": 100, "slope": FLAT, "gap": 0.031}, None),
        ({"per_class": 1999, "slope": STEEP, "gap": 0.07}, False),
        ({"per_class": 100, "slope": STEEP, "gap": 0.069}, None),
        ({"per_class": 100, "slope": (0.2, 0.1, 0.3), "gap": 0.07}, None),
        ({"per_class": 100, "slope": STEEP, "gap": 0.0}, None),
        ({"per_class": 100, "slope": FLAT, "gap": 0.2}, None),
        ({"per_class": 100, "slope": None, "gap": 0.0}, None),
        ({"per_class": 100, "slope": (-0.1, -0.3, 0.1), "gap": -0.1}, True),
    ],
)
def test_size(given: dict[str, Any], expected: bool | None) -> None:
    """Few are small and very many large by number; between them slope and gap must agree, intervals and all."""
    assert rules.is_large(measured(**given)) is expected


@pytest.mark.parametrize(
    ("similar", "large", "scenario"),
    [
        (True, False, 1),
        (True, True, 2),
        (False, False, 3),
        (False, True, 4),
        (None, False, rules.UNDECIDED),
        (True, None, rules.UNDECIDED),
    ],
)
def test_scenarios_are_numbered_as_in_cs231n(similar: bool | None, large: bool | None, scenario: int | str) -> None:
    """Small and similar is 1, large and similar 2, small and different 3, large and different 4."""
    gain = {True: (0.5, 0.4, 0.6), False: (-0.5, -0.6, -0.4), None: (0.0, -0.1, 0.1)}[similar]
    per_class = {True: 2000, False: 50, None: 500}[large]
    found = measured(per_class=per_class, gain=gain, gap=0.0)
    assert rules.scenario(found) == scenario
    known = rules.what_is_known(found)
    assert ("size not clear" in known, "similarity not clear" in known) == (large is None, similar is None)
