"""Why: a decision's reasons and warnings as sentences, with the numbers that they rest on."""

from __future__ import annotations

from collections.abc import Sequence

from hf_transfer.diagnosis import findings, rules, split_difference
from hf_transfer.diagnosis.candidates import Candidate, best_candidate
from hf_transfer.diagnosis.measurements import LAST, Measurements
from hf_transfer.diagnosis.tables import gain_in_words
from hf_transfer.evaluation.deciding import UNEVEN
from hf_transfer.evaluation.tables import metric_name

_ALLOWANCE = {
    "fast": "the cheapest that is within two standard errors of the best",
    "balanced": "the cheapest that is within one standard error of the best",
    "best": "the one expected to be the best",
}
_SIZES = {True: "large", False: "small", None: "neither surely small nor surely large"}
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
    sentences = [
        _size(measurements),
        _similarity(measurements),
        _depth(measurements),
        _choice(measurements, found, chosen, prefer),
    ]
    return tuple(each for each in (*sentences, _out_of_reach(found, chosen)) if each)


def _with_article(m: Measurements) -> str:
    name = metric_name(m.metric)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def points(difference: float) -> str:
    """A difference of accuracies, in points."""
    value = abs(100 * difference)
    return f"{value:.1f} point" if f"{value:.1f}" == "1.0" else f"{value:.1f} points"


def _said_of_metric(m: Measurements) -> str:
    if m.metric == "accuracy":
        return "Accuracy decides all the same, as asked for; look at balanced accuracy and macro F1, too."
    return f"So {metric_name(m.metric)} decides."


def _size(m: Measurements) -> str:
    counted = f"Size: {findings.images(m).value}. So the data are {_SIZES[rules.is_large(m)]}"
    if m.images_per_class < rules.SMALL_PER_CLASS:
        return f"{counted}: fewer than {rules.SMALL_PER_CLASS:g} of each class in the mean."
    if m.images < rules.SMALL_IMAGES:
        return f"{counted}: fewer than {rules.SMALL_IMAGES:,} in all."
    if m.images >= rules.LARGE_IMAGES:
        return f"{counted}: at least {rules.LARGE_IMAGES:,}."
    slope = findings.slope(m)
    changed = "" if slope is None else f"twice the images change the errors of a linear classifier by {slope}, and "
    return f"{counted}: {changed}it is better on the images it was fitted to by {findings.gap(m)}."


def _similarity(m: Measurements) -> str:
    last, best, saved = findings.twin_last(m), findings.twin_best(m), findings.saved(m)
    if not m.pretrained or last is None or saved is None:
        why = "no random twin to compare with" if m.pretrained else "no pretrained weights, so that it has no meaning"
        return (
            f"Similarity: {why}; a linear classifier on the last layer has "
            f"{_with_article(m)} of {m.layer(LAST).accuracy:.3f}."
        )
    over = "" if best is None else f", on the best layer of the same network with random weights {best}"
    compared = (
        f"a linear classifier has {_with_article(m)} of {last} ({last.title}){over}; change of the errors: {saved}"
    )
    similar = rules.is_similar(m)
    if similar is None:
        return f"Similarity: {compared}. That does not tell whether the data are similar to the pretraining."
    if similar:
        return f"Similarity: {compared}. So the data are similar to the pretraining."
    assert m.gain_over_random is not None
    worse = "" if m.gain_over_random.high <= 0 else "; the last layer is surely worse than an earlier one"
    return f"Similarity: {compared}{worse}. So the data are different from the pretraining."


def _depth(m: Measurements) -> str:
    earlier, allowed = findings.best_earlier(m), findings.depth(m)
    if earlier is None:
        return ""
    text = f"Depth: the best earlier layer is {earlier.layer} with {earlier.accuracy:.3f}; the last has "
    text += f"{m.layer(LAST).accuracy:.3f}"
    if allowed is None or m.gain_of_earlier is None:
        return f"{text}."
    low, high = m.gain_of_earlier.low, m.gain_of_earlier.high
    verdict = "surely better" if low > 0 else "surely worse" if high < 0 else "not surely better or worse"
    return f"{text}. Judged by other images than it was chosen by, it is {verdict} than the last: by {allowed}."


def _choice(m: Measurements, found: Sequence[Candidate], chosen: Candidate, prefer: str) -> str:
    if chosen.recipe == "from_scratch":
        return f"Choice: {chosen.name}, since there are no pretrained layers to keep."
    best = best_candidate([each for each in found if each.native or each == chosen])
    text = f"Choice: {chosen.name}, {_expectation(chosen, m)}; of all candidates it is {_ALLOWANCE[prefer]}"
    return f"{text}." if best == chosen else f"{text}: {best.name}, {_expectation(best, m)}."


def _expectation(candidate: Candidate, m: Measurements) -> str:
    name = metric_name(m.metric)
    if candidate.measured:
        text = f"{name} {candidate.accuracy:.3f} measured"
        return (
            text if candidate.layer == LAST else f"{text} ({gain_in_words(candidate)} points against the last layer)"
        )
    gain = f"{gain_in_words(candidate)} points against the last layer"
    return f"{name} {candidate.accuracy:.3f} assumed ({gain}; not measured)"


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
    difference = data.split_difference
    if difference is not None and split_difference.differ(difference):
        found.append(
            "The evaluation images differ from the training images: a linear classifier tells them apart with an area "
            f"under the curve of {difference.value:.2f} (95 % interval {difference.low:.2f} to {difference.high:.2f}; "
            "chance is 0.5). No promise holds for them: results there may be far from what is expected."
        )
    if len(data.noise_suspects) > _NOISY * m.sample:
        found.append(
            f"{len(data.noise_suspects):,} of {m.sample:,} training images look like another class than their label "
            "says: look at them."
        )
    counts = [count for count in data.class_counts.values() if count]
    if counts and max(counts) >= UNEVEN * min(counts):
        found.append(
            f"The largest class has {max(counts):,} images, the smallest {min(counts):,}: a classifier that always "
            f"names the largest has an accuracy of {max(counts) / sum(counts):.3f}. {_said_of_metric(m)}"
        )
    if data.small_images > _MANY:
        found.append(
            f"{data.small_images:.0%} of the images are less than half as large as the model's input: a smaller "
            "--image_size would cost less."
        )
    if data.grey_images > _MANY:
        found.append(f"{data.grey_images:.0%} of the images have no colour; the model was made for colour.")
    return tuple(found)
