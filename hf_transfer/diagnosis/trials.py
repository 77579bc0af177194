"""Trials: candidates trained in part and then in full on held-out folds of the training images, by successive halving.

The core knows candidates and a function that runs one; `hf_transfer.diagnosis.trial_runs` has that function.

Source: https://arxiv.org/abs/1502.07943 (successive halving)
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_transfer.diagnosis.candidates import HEAD, Candidate
from hf_transfer.errors import ArgumentError

Hits = npt.NDArray[np.bool_]
Run = Callable[[Candidate, float], Hits]
SHARES = (0.25, 0.5, 1.0)
"""Share of the full length of a training in each round; the better half enters the next one."""


@dataclass(frozen=True)
class Trial:
    """One candidate, trained for a share of its full length.

    Attributes:
        name: The candidate's.
        share: Share of its full length.
        accuracy: On held-out images.
        standard_error: Its standard error.
        seconds: What it took.
    """

    name: str
    share: float
    accuracy: float
    standard_error: float
    seconds: float


@dataclass(frozen=True)
class Trials:
    """What was tried, and what won.

    Attributes:
        trials: In the order in which they were run.
        winner: Name of the candidate: the cheapest within one standard error of the best, over the same images.
        images: Held-out images that each trial was judged on.
        budget: Seconds that were given.
        seconds: Seconds that were used.
        complete: Whether the rounds came to their end; False where the time did not suffice.
    """

    trials: tuple[Trial, ...]
    winner: str
    images: int
    budget: float
    seconds: float
    complete: bool

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
            return cls(**dict(data) | {"trials": tuple(Trial(**each) for each in data["trials"])})
        except (KeyError, TypeError) as error:
            raise ArgumentError(f"These are no trials: {error}.") from error

    def sentence(self) -> str:
        """The outcome in words."""
        end = "" if self.complete else "; the time did not suffice for all rounds"
        return (
            f"Trials: {self.winner} has {self.best.accuracy:.3f} on {self.images:,} held-out images and is the "
            f"cheapest within one standard error of the best of {len({each.name for each in self.trials})} "
            f"candidates{end}."
        )

    def table(self) -> str:
        """The trials, for a terminal."""
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("tried")
        for column in ("length", "held-out accuracy", "seconds"):
            table.add_column(column, justify="right")
        for each in self.trials:
            accuracy = f"{each.accuracy:.3f} \N{PLUS-MINUS SIGN} {each.standard_error:.3f}"
            table.add_row(Text(each.name), f"{each.share:.0%}", accuracy, f"{each.seconds:.0f}")
        console = Console(file=io.StringIO(), width=100, highlight=False, color_system=None)
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().strip("\n")


def halve(
    found: Sequence[Candidate],
    run: Run,
    budget: float,
    clock: Callable[[], float],
    shares: Sequence[float] = SHARES,
) -> Trials:
    """Try candidates: all for a short time, the better half for longer, and so on.

    Linear classifiers are solved, so they run once and stay in the comparison to the end. A trial that would not end
    within the budget, by what the same candidate took before or is expected to take, is not begun; the first one
    always is.

    Args:
        found: The cheapest first.
        run: Trains a candidate for a share of its full length, and tells for each held-out image whether it is right.
        budget: In seconds.
        clock: In seconds; in a process group the same for all ranks.
        shares: Shares of the full length, round by round, rising to 1.

    Raises:
        ArgumentError: There are no candidates, or the budget is not above 0.
    """
    if not found or not budget > 0:
        raise ArgumentError(f"Trials need candidates and a budget above 0 seconds; found {len(found)} and {budget}.")
    started = clock()
    trials: list[Trial] = []
    hits: dict[str, Hits] = {}

    def attempt(candidate: Candidate, share: float) -> bool:
        begun = clock()
        if trials and begun - started + _expected(candidate, share, trials) > budget:
            return False
        right = np.asarray(run(candidate, share), bool)
        hits[candidate.name] = right
        error = math.sqrt(max(right.mean() * (1 - right.mean()), 0.0) / len(right))
        trials.append(Trial(candidate.name, share, float(right.mean()), error, clock() - begun))
        return True

    solved = [attempt(each, 1.0) for each in found if each.trained == HEAD]
    complete = all(solved)
    going = [each for each in found if each.trained != HEAD]
    for number, share in enumerate(shares):
        done = [each for each in going if attempt(each, share)]
        complete &= len(done) == len(going)
        if not done:
            break
        if number + 1 < len(shares):
            going = _better_half(done, hits)
    order = [each for each in found if each.name in hits]
    winner = cheapest_within_one_error(order, hits)
    images = len(next(iter(hits.values())))
    return Trials(tuple(trials), winner.name, images, float(budget), clock() - started, complete)


def cheapest_within_one_error(found: Sequence[Candidate], hits: Mapping[str, Hits]) -> Candidate:
    """The first candidate that is at most one standard error behind the best, paired over the same images.

    Args:
        found: The cheapest first.
        hits: For each by its name `(images,)`.
    """
    best = max(found, key=lambda each: hits[each.name].mean())
    for each in found:
        behind = hits[best.name].astype(float) - hits[each.name]
        if behind.mean() <= behind.std() / math.sqrt(len(behind)):
            return each
    return best


def _better_half(done: Sequence[Candidate], hits: Mapping[str, Hits]) -> list[Candidate]:
    ranked = sorted(done, key=lambda each: -hits[each.name].mean())  # stable: the cheaper one of equals first
    kept = {each.name for each in ranked[: math.ceil(len(ranked) / 2)]}
    return [each for each in done if each.name in kept]


def _expected(candidate: Candidate, share: float, trials: Sequence[Trial]) -> float:
    """Seconds that a trial will take: by the candidate's own last one, else by its expected cost."""
    own = [each for each in trials if each.name == candidate.name]
    if own:
        return own[-1].seconds * share / own[-1].share
    return (candidate.seconds or 0.0) * share
