"""The candidates that a decision is made among: what each is expected to reach, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hf_transfer.diagnosis import priors
from hf_transfer.diagnosis.measurements import ALL, LAST, LayerMeasurement, Measurements
from hf_transfer.errors import ArgumentError

HEAD, PART, EVERYTHING = 0, 1, 2
"""How much a candidate trains: the head alone, the last half of the blocks, or all layers."""


@dataclass(frozen=True)
class Candidate:
    """A way to train, with what it is expected to reach.

    Attributes:
        name: For people.
        recipe: Name of a recipe in `hf_transfer.plans.recipes`.
        options: Options of that recipe.
        arguments: Arguments of its training, "augmentation" among them, unless the user gives others.
        layer: What the head reads.
        trained: `HEAD`, `PART` or `EVERYTHING`.
        accuracy: Measured on held-out images, or expected.
        gain: Accuracy minus that of the linear classifier on the last layer.
        gain_error: Standard error of `gain`: over the same images, or of the assumption.
        measured: Whether it was measured; False where it rests on `hf_transfer.diagnosis.priors`.
        native: Whether the result is an ordinary checkpoint.
        seconds: Expected cost on this machine; None where nothing was timed.
    """

    name: str
    recipe: str
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    layer: str = LAST
    trained: int = HEAD
    accuracy: float = 0.0
    gain: float = 0.0
    gain_error: float = 0.0
    measured: bool = True
    native: bool = True
    seconds: float | None = None

    def __post_init__(self) -> None:
        numbers = (self.accuracy, self.gain, self.gain_error, self.seconds or 0.0)
        if not all(map(math.isfinite, numbers)) or self.trained not in (HEAD, PART, EVERYTHING):
            raise ArgumentError(
                f"A candidate has finite numbers and trains 0, 1 or 2 (head, part, all); found {self}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"options": dict(self.options), "arguments": dict(self.arguments)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """The inverse of `to_dict`.

        Raises:
            ArgumentError: A field is missing, unknown, or not as described.
        """
        known = {each.name for each in fields(cls)}
        if set(data) != known:
            raise ArgumentError(f"A candidate has the fields {sorted(known)}; found {sorted(data)}.")
        return cls(**data)


def candidates(measurements: Measurements) -> tuple[Candidate, ...]:
    """All candidates, the cheapest first.

    Cheaper is what trains fewer layers. Linear classifiers all take one pass over the images; the one on the last
    layer comes first, since it leaves the model as it is, then those on earlier layers, the most accurate first, and
    at last the one on all layers.
    """
    if not measurements.pretrained:
        return (from_scratch_candidate(measurements), *_probes(measurements))
    return (*_probes(measurements), *_fine_tunings(measurements))


def best_candidate(found: Sequence[Candidate]) -> Candidate:
    """The candidate expected to be the best; the cheaper one of equals."""
    return max(found, key=lambda each: each.gain)  # max gives the first of equals


def is_near(candidate: Candidate, best: Candidate, errors: float) -> bool:
    """Whether a candidate is expected within a number of standard errors of the best."""
    return best.gain - candidate.gain <= errors * difference_error(best, candidate)


def difference_error(one: Candidate, other: Candidate) -> float:
    """Standard error of the difference between two candidates.

    Two assumptions are wrong in the same direction: where one way of fine-tuning gains more than expected, the other
    does, too.
    """
    if not (one.measured or other.measured):
        return priors.UNSHARED * max(one.gain_error, other.gain_error)
    return math.hypot(one.gain_error, other.gain_error)


def probe_name(layer: str) -> str:
    """What a linear classifier on a layer is called."""
    if layer == ALL:
        return "linear probe on all layers joined"
    return "linear probe on the last layer" if layer == LAST else f"linear probe on {layer}"


def _probes(measurements: Measurements) -> tuple[Candidate, ...]:
    last = measurements.layer(LAST)
    seconds = None if measurements.costs is None else measurements.images * measurements.costs.forward_seconds
    found = [
        Candidate(
            name=probe_name(each.layer),
            recipe="linear_probe",
            layer=each.layer,
            accuracy=each.accuracy,
            gain=0.0 if each.layer == LAST else last.behind_best - each.behind_best,
            gain_error=0.0 if each.layer == LAST else _paired_error(each, last),
            native=each.native and each.layer != ALL,
            seconds=seconds,
        )
        for each in measurements.layers
    ]
    # By name where they are equally good, so that nothing depends on the order of the layers.
    return tuple(sorted(found, key=lambda c: (c.layer != LAST, c.layer == ALL, -c.gain, c.name)))


def _paired_error(layer: LayerMeasurement, last: LayerMeasurement) -> float:
    # Both were paired with the best layer; where one of them is the best this is exact, else an upper bound.
    return math.hypot(layer.behind_best_error, last.behind_best_error)


def earlier_end(measurements: Measurements) -> LayerMeasurement | None:
    """The best earlier layer that an ordinary checkpoint can end after; None where the last one is as good."""
    last = measurements.layer(LAST)
    native = [each for each in measurements.layers if each.native and each.layer not in (LAST, ALL)]
    best = max(native, key=lambda each: each.accuracy, default=None)
    return best if best is not None and best.accuracy > last.accuracy else None


def _fine_tunings(measurements: Measurements) -> tuple[Candidate, ...]:
    last, earlier = measurements.layer(LAST), earlier_end(measurements)
    end = last if earlier is None else earlier
    below = "" if earlier is None else f" up to {earlier.layer}"
    part, what = ("last_part", "the last half of the blocks") if earlier is None else ("most", "most blocks")
    # An end that was measured to be better comes first: it is no dearer, and would else lose to the whole network
    # within the error of what is assumed of both.
    return (
        *(
            [_fine_tuning(measurements, end, part, priors.RATE, f"LP-FT of {what}{below}")]
            if earlier is not None
            else []
        ),
        _fine_tuning(measurements, last, "last_part", priors.RATE, "LP-FT of the last half of the blocks"),
        _fine_tuning(measurements, end, part, priors.LOW_RATE, f"LP-FT of {what}{below} at a lower rate"),
        _fine_tuning(measurements, last, "all_layers", priors.RATE, "LP-FT of all layers"),
    )


def _fine_tuning(measurements: Measurements, end: LayerMeasurement, part: str, rate: float, name: str) -> Candidate:
    """LP-FT of a part, with a head behind some layer."""
    last, errors = measurements.layer(LAST), 1 - end.accuracy
    trained = EVERYTHING if part == "all_layers" else PART
    options = priors.lp_ft_options(part, measurements.images, rate)
    # A lower rate is the safer one and gains less in the same steps, where both are sound.
    share = priors.expected_gain(measurements.images_per_class, part) * (1.0 if rate == priors.RATE else 0.5)
    gain = last.behind_best - end.behind_best + errors * share
    return Candidate(
        name=name,
        recipe="lp_ft",
        options=options,
        arguments=dict(priors.ARGUMENTS) | {"augmentation": "none"},
        layer=end.layer,
        trained=trained,
        accuracy=end.accuracy + errors * share,
        gain=gain,
        gain_error=errors * priors.GAIN_ERROR,
        measured=False,
        native=True,
        seconds=_training_seconds(measurements, options["epochs"], trained),
    )


def from_scratch_candidate(measurements: Measurements) -> Candidate:
    """Training of all layers from random weights; what it reaches is not known before it was tried."""
    last = measurements.layer(LAST)
    options = priors.from_scratch_options(measurements.images)
    return Candidate(
        name="training of all layers",
        recipe="from_scratch",
        options=options,
        arguments=dict(priors.ARGUMENTS) | {"augmentation": "light"},
        trained=EVERYTHING,
        accuracy=last.accuracy,
        measured=False,
        seconds=_training_seconds(measurements, options["epochs"], EVERYTHING),
    )


def _training_seconds(measurements: Measurements, epochs: int, trained: int) -> float | None:
    """One pass for the head, then epochs."""
    costs = measurements.costs
    if costs is None:
        return None
    share = 1.0 if trained == EVERYTHING else priors.COST_OF_PART
    return measurements.images * (costs.forward_seconds + epochs * costs.train_seconds * share)
