"""Why: a decision's reasons and warnings as sentences, with the numbers that they rest on."""

from __future__ import annotations

from collections.abc import Sequence

from hf_transfer.diagnosis import rules
from hf_transfer.diagnosis.candidates import Candidate, best_candidate, difference_error
from hf_transfer.diagnosis.measurements import ALL, LAST, LayerMeasurement, MeasuredInterval, Measurements

_ALLOWANCE = {
    "fast": "the cheapest that is within two standard errors of the best",
    "balanced": "the cheapest that is within one standard error of the best",
    "best": "the one expected to be the best",
}
_UNEVEN = 5.0
"""From this ratio of the largest to the smallest class on, accuracy says little of the smallest."""
_NOISY = 0.02
"""Below this share of suspects, which neighbours give even for right labels, nothing is said."""
_MANY = 0.5


def reasons(measurements: Measurements, found: Sequence[Candidate], chosen: Candidate, prefer: str) -> tuple[str, ...]:
    """The reasons of a decision: size, similarity, depth, what is chosen, and what is out of reach.

    Args:
        measurements: What was measured.
        found: All candidates.
        chosen: One of them.
        prefer: See `hf_transfer.diagnosis.decide`.
    """
    sentences = [_size(measurements), _similarity(measurements), _depth(measurements), _choice(found, chosen, prefer)]
    return tuple(each for each in (*sentences, _out_of_reach(found, chosen)) if each)


def points(difference: float) -> str:
    """A difference of accuracies, in points."""
    value = abs(100 * difference)
    return f"{value:.1f} point" if f"{value:.1f}" == "1.0" else f"{value:.1f} points"


def _size(m: Measurements) -> str:
    counted = f"{m.images:,} images, {m.images_per_class:,.3g} of each class"
    found = []
    if m.slope is not None:
        verb = "loses" if m.slope.value >= 0 else "gains"
        found.append(f"with twice the images a linear classifier {verb} {_share(m.slope)} of its errors")
    found.append(f"it is {points(m.gap)} {'better' if m.gap >= 0 else 'worse'} on the images it was fitted to")
    verdict = "large" if rules.is_large(m) else "small"
    if m.images_per_class < rules.SMALL_PER_CLASS:
        because = f"fewer than {rules.SMALL_PER_CLASS:g} of each class"
    elif m.images >= rules.LARGE_IMAGES:
        because = f"at least {rules.LARGE_IMAGES:,}"
    elif verdict == "large":
        because = "more images would hardly help a linear classifier"
    else:
        because = "more images would help a linear classifier"
    return f"Size: {counted}; {', and '.join(found)}. So the data are {verdict}: {because}."


def _similarity(m: Measurements) -> str:
    last = m.layer(LAST).accuracy
    gain = m.gain_over_random
    if not m.pretrained or gain is None:
        return (
            f"Similarity: the model has no pretrained weights, so that similarity has no meaning; a linear classifier "
            f"on its random features has an accuracy of {last:.3f}."
        )
    verb = "more" if gain.value < 0 else "fewer"
    compared = (
        f"a linear classifier on the last layer has an accuracy of {last:.3f} and {_share(gain)} {verb} "
        "errors than on the best layer of the same network with random weights"
    )
    similar = rules.is_similar(m)
    if similar is None:
        return f"Similarity: {compared}. That does not tell whether the data are similar to the pretraining."
    if similar:
        return f"Similarity: {compared}. So the data are similar to the pretraining."
    worse = "" if gain.high <= 0 else ", and it is surely worse than an earlier one"
    return f"Similarity: {compared}{worse}. So the data are different from the pretraining."


def _depth(m: Measurements) -> str:
    earlier = _best_earlier(m)
    if earlier is None:
        return ""
    last = m.layer(LAST)
    gain = m.gain_of_earlier
    difference = last.behind_best - earlier.behind_best if gain is None else gain.value
    how = "more" if difference > 0 else "less"
    between = "" if gain is None else f" (95 % interval {_signed(gain.low)} to {_signed(gain.high)})"
    text = f"Depth: the best earlier layer is {earlier.layer} with {earlier.accuracy:.3f}, {points(difference)} {how}"
    return f"{text} than the last{between}."


def _choice(found: Sequence[Candidate], chosen: Candidate, prefer: str) -> str:
    best = best_candidate([each for each in found if each.native or each == chosen])
    how = "measured" if chosen.measured else "expected"
    text = f"Choice: {chosen.name}, {chosen.accuracy:.3f} {how}; of all candidates it is {_ALLOWANCE[prefer]}"
    if chosen.recipe == "from_scratch":
        return f"Choice: {chosen.name}, since there are no pretrained layers to keep."
    if best != chosen:
        error = difference_error(best, chosen)
        text += (
            f": {best.name} is {'measured' if best.measured else 'expected'} to be {points(best.gain - chosen.gain)} "
        )
        text += f"better, with a standard error of {points(error)}"
    elif not chosen.measured:
        text += f", {points(chosen.gain)} above the linear classifier on the last layer"
        text += f" (an assumption, with a standard error of {points(chosen.gain_error)})"
    return f"{text}."


def _out_of_reach(found: Sequence[Candidate], chosen: Candidate) -> str:
    """The best of what is better than the last layer and no ordinary checkpoint has room for."""
    beyond = [each for each in found if not each.native and each.gain > 0]
    if not beyond or not chosen.native:
        return ""
    best = best_candidate(beyond)
    return (
        f"Out of reach: {best.name} has {best.accuracy:.3f} on held-out images, but no ordinary checkpoint of this "
        "architecture can hold it; --allow_probe_file would allow it."
    )


def warnings(measurements: Measurements) -> tuple[str, ...]:
    """What was noticed in the data, as sentences; the gravest first."""
    m, data = measurements, measurements.data
    found = []
    if data.duplicates:
        images = len({pair[1] for pair in data.duplicates})
        verb = "is" if images == 1 else "are"
        found.append(
            f"{images:,} of {data.checked_evaluation_images:,} evaluation images {verb} nearly the same as a training "
            "image, which makes results too good. Remove such images from one of the splits."
        )
    if len(data.noise_suspects) > _NOISY * m.sample:
        found.append(
            f"{len(data.noise_suspects):,} of {m.sample:,} training images look like another class than their label "
            "says: look at them."
        )
    counts = [count for count in data.class_counts.values() if count]
    if counts and max(counts) >= _UNEVEN * min(counts):
        found.append(
            f"The largest class has {max(counts):,} images, the smallest {min(counts):,}: look at macro F1, not at "
            "accuracy alone."
        )
    if data.small_images > _MANY:
        found.append(
            f"{data.small_images:.0%} of the images are less than half as large as the model's input: a smaller "
            "--image_size would cost less."
        )
    if data.grey_images > _MANY:
        found.append(f"{data.grey_images:.0%} of the images have no colour; the model was made for colour.")
    return tuple(found)


def _best_earlier(m: Measurements) -> LayerMeasurement | None:
    earlier = [each for each in m.layers if each.layer not in (LAST, ALL)]
    return min(earlier, key=lambda each: (each.behind_best, each.layer)) if earlier else None


def _share(interval: MeasuredInterval) -> str:
    """A share and its interval; the sign is told by the words around it."""
    value, low, high = (100 * each for each in (interval.value, interval.low, interval.high))
    if value < 0:
        value, low, high = -value, -high, -low
    return f"{value:.0f} % (95 % interval {low:.0f} to {high:.0f} %)"


def _signed(difference: float) -> str:
    return f"{100 * difference:+.1f}"
