"""What was measured besides the layers, in words: the rows of a table, from which the sentences take their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hf_transfer.diagnosis import rules
from hf_transfer.diagnosis.measurements import ALL, LAST, LayerMeasurement, MeasuredInterval, Measurements
from hf_transfer.evaluation.tables import metric_name

FEW_CLASSES = 6
"""Up to this number of classes each is named with its images."""
_TELLING = 1.0
"""A share of the errors whose interval is wider than all the errors is not told."""


@dataclass(frozen=True)
class Finding:
    """A measured value in words.

    Attributes:
        title: What it is.
        value: With its unit.
        interval: Of 95 %; empty where there is none.
    """

    title: str
    value: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.value} (95 % interval {self.interval})" if self.interval else self.value


def findings(m: Measurements) -> tuple[Finding, ...]:
    """All rows, in the order of the sentences."""
    rows = (images, largest_class, slope, gap, twin_last, twin_best, saved, depth, expected)
    return tuple(found for row in rows if (found := row(m)) is not None)


def images(m: Measurements) -> Finding:
    """Images of each class as they are."""
    return Finding("training images", f"{m.images:,} images ({counts_in_words(m)})")


def counts_in_words(m: Measurements) -> str:
    """Few classes by name, many by the smallest and the largest."""
    counts = m.data.class_counts
    if not counts:
        return f"at least {m.smallest_class:,} of each class"
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values())):,} of each class"
    if len(counts) <= FEW_CLASSES:
        return ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{min(counts.values()):,} to {max(counts.values()):,} of each class"


def largest_class(m: Measurements) -> Finding | None:
    """Its share, which a classifier reaches that always names it."""
    share = majority_share(m.data.class_counts)
    return None if share is None else Finding("share of the largest class", f"{share:.3f}")


def majority_share(counts: Mapping[str, int]) -> float | None:
    """Share of the images that the largest class has; None where they were not counted."""
    total = sum(counts.values())
    return max(counts.values()) / total if total else None


def slope(m: Measurements) -> Finding | None:
    """What twice the images change."""
    return None if m.slope is None else _share("change of the errors by twice the images", m.slope)


def gap(m: Measurements) -> Finding:
    """What the classifier forgets on other images."""
    found = rules.gap_interval(m)
    return Finding("better on the images it was fitted to by", signed_points(found.value), _bounds(found))


def twin_last(m: Measurements) -> Finding | None:
    """The last layer, on the images that the random twin was compared on."""
    last = m.layer(LAST)
    own = last.accuracy if last.matched_accuracy is None else last.matched_accuracy
    title = "last layer" if m.twin_sample in (0, m.sample) else f"last layer, on {m.twin_sample:,} images"
    return None if m.gain_over_random is None else Finding(title, f"{own:.3f}")


def twin_best(m: Measurements) -> Finding | None:
    """The best layer of the random twin."""
    known = [each.random_accuracy for each in m.layers if each.random_accuracy is not None]
    if m.gain_over_random is None or not known:
        return None
    return Finding("best layer with random weights, on the same", f"{max(known):.3f}")


def saved(m: Measurements) -> Finding | None:
    """What the pretrained weights change."""
    gain = m.gain_over_random
    return None if gain is None else _share("change of the errors by the pretraining", gain)


def depth(m: Measurements) -> Finding | None:
    """The best earlier layer against the last, where it was chosen on other images than it is judged by."""
    gain = m.gain_of_earlier
    if gain is None or best_earlier(m) is None:
        return None
    return Finding(
        "best earlier layer minus the last, its choice allowed for", signed_points(gain.value), _bounds(gain)
    )


def expected(m: Measurements) -> Finding | None:
    """What the best linear classifier has on other images of the same kind."""
    if m.expected is None:
        return None
    title = f"{metric_name(m.metric)} to expect of the best linear classifier"
    return Finding(title, f"{m.expected.value:.3f}", f"{m.expected.low:.3f} to {m.expected.high:.3f}")


def best_earlier(m: Measurements) -> LayerMeasurement | None:
    """The best layer before the last; by name where several are."""
    earlier = [each for each in m.layers if each.layer not in (LAST, ALL)]
    return min(earlier, key=lambda each: (-each.accuracy, each.layer)) if earlier else None


def signed_points(difference: float) -> str:
    """A difference of scores in points, with its sign."""
    value = _signed(100 * difference, 1)
    return f"{value} point" if value in ("+1.0", "-1.0") else f"{value} points"


def _bounds(interval: MeasuredInterval) -> str:
    return f"{_signed(100 * interval.low, 1)} to {_signed(100 * interval.high, 1)}"


def _share(title: str, gain: MeasuredInterval) -> Finding:
    """A share of the errors that is gained, as their change; they cannot fall by more than all."""
    if gain.high - gain.low > _TELLING:
        return Finding(title, "not known: too few images or errors")
    change, low, high = (max(-100 * each, -100.0) for each in (gain.value, gain.high, gain.low))
    return Finding(title, f"{_signed(change, 0)} %", f"{_signed(low, 0)} to {_signed(high, 0)} %")


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text
