"""hf_transfer.utils.suggestions: what somebody may have meant."""

from __future__ import annotations

import pytest

from hf_transfer.utils.suggestions import did_you_mean


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("lpft", " Did you mean lp_ft?"),
        ("LP-FT", " Did you mean lp_ft?"),
        ("fine tune", " Did you mean fine_tune?"),
        ("xyz", ""),
        (7, ""),
    ],
)
def test_similar_names_are_proposed(name: object, answer: str) -> None:
    """Case, dashes and a wrong letter do not hide what was meant; where nothing is similar nothing is said."""
    assert did_you_mean(name, ["lp_ft", "fine_tune", "svm"]) == answer
