"""Intervals hold the truth as often as they say, also where the best of several layers is chosen."""

from __future__ import annotations

import numpy as np

from hf_transfer.diagnosis.comparing import best_probe, gain_of_earlier, gain_over_random, paired_difference, slope
from hf_transfer.diagnosis.probing import LayerProbe


def _probe(hits: object) -> LayerProbe:
    hits = np.asarray(hits, float)
    return LayerProbe(hits, np.ones(len(hits), bool), 1.0, len(hits), "")


def _drawn(accuracies: list[float], images: int, seed: int, shared: float = 0.6) -> list[LayerProbe]:
    """Layers that mostly err on the same images."""
    generator = np.random.default_rng(seed)
    common = generator.random(images)
    found = []
    for accuracy in accuracies:
        own = np.where(generator.random(images) < shared, common, generator.random(images))
        found.append(_probe(own < accuracy))
    return found


def test_choosing_the_best_of_equal_layers_is_no_gain() -> None:
    """Of eight layers as good as the last the best looks better; chosen on other images it is not."""
    above, chosen, naive = 0, [], []
    for seed in range(100):
        last, *earlier = _drawn([0.8] * 9, 200, seed)
        above += gain_of_earlier(last, earlier, seed).low > 0
        chosen.append(best_probe(earlier).accuracy - last.accuracy)
        naive.append(max(probe.accuracy for probe in earlier) - last.accuracy)
    assert above <= 12
    assert abs(np.mean(chosen)) < 0.013
    assert np.mean(naive) > 0.02


def test_a_better_earlier_layer_is_found() -> None:
    """Four points at 1,000 images mostly are surely above zero, and the interval holds the truth."""
    held = above = 0
    for seed in range(30):
        last, *earlier = _drawn([0.8, 0.5, 0.7, 0.84, 0.83], 1000, seed)
        found = gain_of_earlier(last, earlier, seed)
        held += found.low <= 0.04 <= found.high
        above += found.low > 0
    assert held >= 26
    assert above >= 18


def test_similarity_intervals_hold_the_truth() -> None:
    """The gain over the best random layer is a share of what that one gets wrong."""
    held = 0
    for seed in range(30):
        last, *random = _drawn([0.8, 0.55, 0.6, 0.4], 500, seed)
        found = gain_over_random(last, random, seed)
        held += found.low <= 0.5 <= found.high
        assert found.low > 0
    assert held >= 26


def test_nothing_is_infinite() -> None:
    """Layers that are always right, always wrong, or of two images have finite intervals."""
    right, wrong = _probe(np.ones(50)), _probe(np.zeros(50))
    for last, other in ((right, right), (right, wrong), (wrong, right), (wrong, wrong)):
        for found in (gain_over_random(last, [other]), gain_of_earlier(last, [other]), slope(other, last)):
            assert np.isfinite([found.value, found.low, found.high]).all()
    assert gain_over_random(right, [wrong]).low == 1
    assert np.isfinite(slope(_probe([0, 1]), _probe([1, 1])).value)


def test_the_slope_is_the_share_of_errors_that_went() -> None:
    """From 40 % to 30 % of errors a quarter went; images that a class's only one are not counted."""
    half, full = _probe(np.arange(1000) % 10 < 6), _probe(np.arange(1000) % 10 < 7)
    assert abs(slope(half, full).value - 0.25) < 0.01


def test_paired_differences_are_surer_than_their_layers() -> None:
    """Layers that err on the same images differ with a small error."""
    one, other = _drawn([0.8, 0.8], 1000, 0, shared=0.95)
    difference, error = paired_difference(one, other)
    assert abs(difference) < 3 * error
    assert error < one.standard_error
    assert paired_difference(one, one) == (0.0, 0.0)
