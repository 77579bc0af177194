"""Trials: candidates trained in part and then in full on held-out folds of the training images, by successive halving.

The core knows candidates and a function that runs one; `hf_transfer.diagnosis.trial_runs` has that function.

Source: https://arxiv.org/abs/1502.07943 (successive halving)
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_transfer.diagnosis.candidates import HEAD, Candidate
from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation.deciding import paired_error, score
from hf_transfer.phases.kept_weights import Member, judge, near_best

Logits = npt.NDArray[np.floating[Any]]
Run = Callable[[Candidate, float], Logits]
SHARES = (0.25, 0.5, 1.0)
"""Share of the full length of a training in each round; the better half enters the next one."""
ERRORS_ALLOWED: Mapping[str, float] = MappingProxyType({"fast": 2.0, "balanced": 1.0, "best": 0.0})
"""By how many standard errors a candidate may fall behind the best, and still be chosen."""


@dataclass(frozen=True)
class Trial:
    """One candidate, trained for a share of its full length.

    Attributes:
        name: The candidate's.
        share: Share of its full length.
        value: The metric that decides, on held-out images; larger is better.
        accuracy: On the same images.
        standard_error: That of the accuracy.
        log_loss: On the same images, at the best temperature.
        seconds: What it took.
    """

    name: str
    share: float
    value: float
    accuracy: float
    standard_error: float
    log_loss: float
    seconds: float


@dataclass(frozen=True)
class Trials:
    """What was tried, and what won.

    Attributes:
        trials: In the order in which they were run.
        winner: Name of the candidate.
        images: Held-out images that each trial was judged on.
        budget: Seconds that were given; None where time did not count.
        seconds: Seconds that were used.
        complete: Whether the rounds came to their end; False where the time did not suffice.
        metric: The metric that decides.
        behind: By how much the first candidate, the classifier on the last layer, is behind the winner, in the metric.
        behind_error: Standard error of that difference, over the same images.
        follow: Which weights of the winner's training are to be kept, where that was found out on folds.
        temperature: By which the logits of these weights are to be divided.
    """

    trials: tuple[Trial, ...]
    winner: str
    images: int
    budget: float | None
    seconds: float
    complete: bool
    metric: str = "accuracy"
    behind: float = 0.0
    behind_error: float = 0.0
    follow: Member | None = None
    temperature: float = 1.0

    @property
    def best(self) -> Trial:
        """The winner's longest trial."""
        return max((each for each in self.trials if each.name == self.winner), key=lambda each: each.share)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"trials": [asdict(each) for each in self.trials]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trials:
        """The inverse of `to_dict`.

        Raises:
            ArgumentError: A field is missing, unknown, or not as described.
        """
        try:
            follow = data["follow"]
            own = {"trials": tuple(Trial(**each) for each in data["trials"])}
            return cls(**dict(data) | own | {"follow": None if follow is None else Member(**follow)})
        except (KeyError, TypeError) as error:
            raise ArgumentError(f"These are no trials: {error}.") from error

    def sentence(self) -> str:
        """The outcome in words."""
        end = "" if self.complete else "; the time did not suffice for all rounds"
        metric = self.metric.replace("_", " ")
        count = len({each.name for each in self.trials})
        if all(each.name != self.winner for each in self.trials):
            best = max(self.trials, key=lambda each: each.value)
            return (
                f"Trials on {self.images:,} held-out images: {best.name} is the best solved head with "
                f"{best.value:.3f} ({metric}); "
                f"{self.winner} is looked at on them while it runs, and ends no lower than its solved head."
            )
        won = (
            ""
            if self.winner == self.trials[0].name
            else f", {100 * self.behind:+.1f} points (standard error "
            f"{100 * self.behind_error:.1f}) against {self.trials[0].name}"
        )
        return (
            f"Trials on {self.images:,} held-out images: of {count} candidates {self.winner} is chosen; "
            f"{metric} {self.best.value:.3f} after {self.best.share:.0%} of its length{won}{end}."
        )

    def table(self) -> str:
        """The trials, for a terminal."""
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("tried")
        for column in ("length", f"held-out {self.metric.replace('_', ' ')}", "log loss", "seconds"):
            table.add_column(column, justify="right")
        for each in self.trials:
            error = f" \N{PLUS-MINUS SIGN} {each.standard_error:.3f}" if self.metric == "accuracy" else ""
            row = (f"{each.share:.0%}", f"{each.value:.3f}{error}", f"{each.log_loss:.3f}", f"{each.seconds:.0f}")
            table.add_row(Text(each.name), *row)
        console = Console(file=io.StringIO(), width=100, highlight=False, color_system=None)
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().strip("\n")


def halve(
    found: Sequence[Candidate],
    run: Run,
    labels: npt.ArrayLike,
    budget: float | None,
    clock: Callable[[], float],
    *,
    metric: str = "accuracy",
    prefer: str = "balanced",
    shares: Sequence[float] = SHARES,
) -> Trials:
    """Try candidates: all for a short time, the better half for longer, and so on.

    Linear classifiers are solved, so they run once and stay in the comparison to the end. A trial that would not end
    within the budget, by what the same candidate took before or is expected to take, is not begun; the first one
    always is.

    Args:
        found: The cheapest first.
        run: Trains a candidate for a share of its full length, and gives the logits `(images, classes)` of the
            held-out images.
        labels: `(images,)`.
        budget: In seconds; None for whatever it takes, so that the choice does not depend on the machine; 0 for the
            linear classifiers alone.
        clock: In seconds; in a process group the same for all ranks.
        metric: See `hf_transfer.evaluation.deciding`.
        prefer: "fast" takes the cheapest within two standard errors of the best; "balanced" the one with the lowest
            log loss within one; "best" the best.
        shares: Shares of the full length, round by round, rising to 1.

    Raises:
        ArgumentError: There are no candidates, or the budget is negative.
    """
    if not found or (budget is not None and not budget >= 0):
        raise ArgumentError(f"Trials need candidates and a budget of 0 seconds or more; found {len(found)}, {budget}.")
    tries = _Tries(run, np.asarray(labels), metric, budget, clock)
    solved = [tries.attempt(each, 1.0) for each in found if each.trained == HEAD]
    complete = all(solved)
    going = [each for each in found if each.trained != HEAD] if budget != 0 else []
    for number, share in enumerate(shares if going else ()):
        done = [each for each in going if tries.attempt(each, share)]
        complete &= len(done) == len(going)
        if not done:
            break
        if number + 1 < len(shares):
            going = _better_half(done, tries.log_losses)
    order = [each for each in found if each.name in tries.logits]
    place = winner_of([tries.logits[each.name] for each in order], labels, metric, prefer)
    first, best = tries.logits[order[0].name], tries.logits[order[place].name]
    return Trials(
        tuple(tries.trials),
        order[place].name,
        len(first),
        budget,
        clock() - tries.started,
        complete,
        metric,
        score(metric, best, labels) - score(metric, first, labels),
        paired_error(metric, best, first, labels),
    )


def winner_of(logits: Sequence[Logits], labels: npt.ArrayLike, metric: str, prefer: str) -> int:
    """Position of the predictions that win; see `halve`."""
    near = near_best(logits, labels, metric, ERRORS_ALLOWED[prefer])
    if prefer == "fast":
        return near[0]
    return min(near, key=lambda place: judge(Member(1.0), logits[place], labels, metric).log_loss)


class _Tries:
    """The trials so far, and the time that is left."""

    def __init__(self, run: Run, labels: Any, metric: str, budget: float | None, clock: Callable[[], float]) -> None:
        self._run, self._labels, self._metric, self._budget, self._clock = run, labels, metric, budget, clock
        self.started = clock()
        self.trials: list[Trial] = []
        self.logits: dict[str, Logits] = {}
        self.log_losses: dict[str, float] = {}

    def attempt(self, candidate: Candidate, share: float) -> bool:
        """Try a candidate, if there is time for it."""
        begun = self._clock()
        if self.trials and self._budget and begun - self.started + self._expected(candidate, share) > self._budget:
            return False
        logits = np.asarray(self._run(candidate, share))
        judged = judge(Member(1.0), logits, self._labels, self._metric)
        accuracy = score("accuracy", logits, self._labels)
        error = math.sqrt(max(accuracy * (1 - accuracy), 0.0) / len(logits))
        self.logits[candidate.name], self.log_losses[candidate.name] = logits, judged.log_loss
        seconds = self._clock() - begun
        self.trials.append(Trial(candidate.name, share, judged.value, accuracy, error, judged.log_loss, seconds))
        return True

    def _expected(self, candidate: Candidate, share: float) -> float:
        """Seconds that a trial will take: by the candidate's own last one, else by its expected cost."""
        own = [each for each in self.trials if each.name == candidate.name]
        if own:
            return own[-1].seconds * share / own[-1].share
        return (candidate.seconds or 0.0) * share


def _better_half(done: Sequence[Candidate], log_losses: Mapping[str, float]) -> list[Candidate]:
    ranked = sorted(done, key=lambda each: log_losses[each.name])  # stable: the cheaper one of equals first
    kept = {each.name for each in ranked[: math.ceil(len(ranked) / 2)]}
    return [each for each in done if each.name in kept]
