"""What was measured in words: counts as they are, shares that are possible."""

from __future__ import annotations

import pytest

from hf_transfer.diagnosis.decide import decide
from hf_transfer.diagnosis.findings import findings, images, slope
from hf_transfer.diagnosis.measurements import DataFindings
from tests.helpers.diagnosed import measured


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"good": 160, "defect": 32}, "192 images (160 good, 32 defect)"),
        ({"a": 393, "b": 807}, "1,200 images (393 a, 807 b)"),
        ({"a": 50, "b": 50}, "100 images (50 of each class)"),
        ({str(number): 10 + number for number in range(9)}, "126 images (10 to 18 of each class)"),
    ],
)
def test_counts_are_shown_as_they_are(counts: dict[str, int], words: str) -> None:
    """No mean of classes is passed off as the size of each."""
    total = sum(counts.values())
    m = measured(per_class=total / len(counts), classes=len(counts), data=DataFindings(counts))
    assert images(m).value == words
    assert words in decide(m).reasons[0]


def test_what_is_not_known_is_not_told() -> None:
    """A share of the errors whose interval is wider than all of them has no number, and what is missing no row."""
    assert str(slope(measured(slope=(0.2, 0.1, 0.3)))) == "-20 % (95 % interval -30 to -10 %)"
    assert str(slope(measured(slope=(-1.63, -10.0, 3.18)))) == "not known: too few images or errors"
    bare = measured(slope=None, pretrained=False, gain_of_earlier=None, data=DataFindings({}), smallest_class=40)
    assert [row.title for row in findings(bare)] == ["training images", "better on the images it was fitted to by"]
    assert "at least 40 of each class" in images(bare).value
