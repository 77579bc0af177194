"""Which weights a training leaves, chosen on held-out images: never worse than those it began with.

Members are the weights at the start, at points of the training, their mean where the plan takes one, and mixtures of
start and end. They are judged by the metric that decides and by log loss, which tells more of few images than hits do.
For the latter each member's logits are divided by a temperature of its own.

Source: mixtures of a solved start and its fine-tuned end, https://arxiv.org/abs/2109.01903 (WiSE-FT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_transfer.evaluation.calibration import fit_temperature
from hf_transfer.evaluation.deciding import paired_error, score

MIXTURES = (0.25, 0.5, 0.75)
"""Shares of the end in mixtures of start and end."""
START = 0.0
_BELOW_START = 0.5
"""By how many standard errors the metric may be below the start's."""
_COLLAPSED = 0.95
"""Share of predictions of one class from which on a model names that class whatever it sees."""
_COMMON = 0.85
_SURELY_WORSE, _MUCH_WORSE = 3.0, 0.1
"""Standard errors, and units of the metric, below the start at which a training is stopped: less may be made up for
when the learning rate falls."""


@dataclass(frozen=True)
class Member:
    """Some weights of a training.

    Attributes:
        share: Of the steps, at which the weights were taken; 0 at the start.
        mix: Share of these weights in a mixture with those of the start; 1 for the weights themselves.
    """

    share: float
    mix: float = 1.0

    def __str__(self) -> str:
        if self.share == START:
            return "the start"
        if self.mix < 1:
            return f"{self.mix:.0%} end, {1 - self.mix:.0%} start"
        return "the end" if self.share >= 1 else f"after {self.share:.0%} of the steps"


@dataclass(frozen=True)
class JudgedMember:
    """A member on the held-out images.

    Attributes:
        member: Which weights.
        value: The metric that decides; larger is better.
        log_loss: At its own temperature.
        temperature: By which its logits are divided there.
    """

    member: Member
    value: float
    log_loss: float
    temperature: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"name": str(self.member)}


@dataclass(frozen=True)
class KeptWeights:
    """What was chosen.

    Attributes:
        chosen: The member that is kept.
        start: The start, for comparison.
        gain: Metric of the chosen one minus that of the start.
        gain_error: Standard error of that difference, over the same images.
        members: All, in the order of their making.
        images: Number of held-out images.
        metric: The metric that decides.
        stopped: Why the training was stopped; None where it was not.
    """

    chosen: JudgedMember
    start: JudgedMember
    gain: float
    gain_error: float
    members: tuple[JudgedMember, ...]
    images: int
    metric: str
    stopped: str | None = None

    def sentence(self) -> str:
        """The choice in words."""
        metric = self.metric.replace("_", " ")
        if self.chosen.member.share == START:
            told = f"nothing of the training is better than its start ({metric} {self.start.value:.3f}); it is kept"
        else:
            told = (
                f"{self.chosen.member} is kept: {metric} {self.chosen.value:.3f}, the start {self.start.value:.3f} "
                f"(difference {self.gain:+.3f}, standard error {self.gain_error:.3f})"
            )
        stopped = f" The training was stopped: {self.stopped}." if self.stopped else ""
        return f"On {self.images:,} held-out images {told}.{stopped}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "chosen": self.chosen.to_dict(),
            "start": self.start.to_dict(),
            "gain": self.gain,
            "gain_error": self.gain_error,
            "members": [each.to_dict() for each in self.members],
            "images": self.images,
            "metric": self.metric,
            "stopped": self.stopped,
        }


def choose_member(
    members: Sequence[Member], logits: Sequence[npt.ArrayLike], labels: npt.ArrayLike, metric: str
) -> KeptWeights:
    """Choose the weights to keep.

    Of the members whose metric is within one standard error of the best, the one with the lowest log loss. None is
    chosen whose log loss is above the start's, or whose metric is below it by more than half a standard error; so the
    start is left where nothing is better.

    Args:
        members: The start first.
        logits: Of each member, `(held_out_images, classes)`.
        labels: `(held_out_images,)`.
        metric: See `hf_transfer.evaluation.deciding`.
    """
    judged = [judge(member, values, labels, metric) for member, values in zip(members, logits, strict=True)]
    start, floor = judged[0], np.asarray(logits[0])
    allowed = [0]
    for place in range(1, len(judged)):
        error = paired_error(metric, logits[place], floor, labels)
        above = judged[place].value >= start.value - _BELOW_START * error
        if above and judged[place].log_loss < start.log_loss:
            allowed.append(place)
    near = [allowed[found] for found in near_best([logits[place] for place in allowed], labels, metric)]
    place = min(near, key=lambda near_place: judged[near_place].log_loss)
    error = paired_error(metric, logits[place], floor, labels)
    return KeptWeights(
        judged[place], start, judged[place].value - start.value, error, tuple(judged), len(floor), metric
    )


def near_best(
    logits: Sequence[npt.ArrayLike], labels: npt.ArrayLike, metric: str, errors: float = 1.0
) -> tuple[int, ...]:
    """Positions of the predictions whose metric is within some standard errors of the best one's, in order.

    Args:
        logits: Each `(images, classes)`, of the same images.
        labels: `(images,)`.
        metric: See `hf_transfer.evaluation.deciding`.
        errors: Number of standard errors of the paired difference.
    """
    values = [score(metric, each, labels) for each in logits]
    best = max(range(len(values)), key=values.__getitem__)
    return tuple(
        place
        for place, value in enumerate(values)
        if values[best] - value <= errors * paired_error(metric, logits[best], logits[place], labels)
    )


def judge(member: Member, logits: npt.ArrayLike, labels: npt.ArrayLike, metric: str) -> JudgedMember:
    """Judge the weights of one member."""
    values = np.nan_to_num(np.asarray(logits, np.float64), posinf=1e6, neginf=-1e6)
    temperature = fit_temperature(values, labels)
    return JudgedMember(
        member, score(metric, values, labels), -score("log_loss", values / temperature, labels), temperature
    )


def fault(logits: npt.ArrayLike, start: npt.ArrayLike, labels: npt.ArrayLike, metric: str) -> str | None:
    """Why a training that has come to these logits is of no use; None where it may still become better.

    Args:
        logits: Of the present weights, `(held_out_images, classes)`.
        start: Of the weights at the start.
        labels: `(held_out_images,)`.
        metric: The metric that decides.
    """
    values, wanted = np.asarray(logits, np.float64), np.asarray(labels)
    if not np.isfinite(values).all():
        return "its logits are not finite"
    named, begun = (
        np.bincount(np.asarray(each).argmax(axis=1), minlength=2).max() / len(wanted) for each in (values, start)
    )
    common = np.bincount(wanted).max() / len(wanted)
    lost = score(metric, start, labels) - score(metric, values, labels)
    if named >= _COLLAPSED > begun and common < _COMMON and lost > 0:
        return f"it names one class for {named:.0%} of the held-out images, of which {common:.0%} are of one class"
    if lost > max(_SURELY_WORSE * paired_error(metric, values, start, labels), _MUCH_WORSE):
        return f"on held-out images it is {100 * lost:.1f} points below its start"
    return None
