"""The decision: from measurements to a scenario, a recipe with its options, and the reasons; a pure function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from hf_transfer.diagnosis import reasons, rules
from hf_transfer.diagnosis.candidates import Candidate, best_candidate, candidates, difference_error, is_near
from hf_transfer.diagnosis.measurements import Measurements
from hf_transfer.diagnosis.reasons import points
from hf_transfer.diagnosis.trials import ERRORS_ALLOWED, Trials
from hf_transfer.errors import ArgumentError
from hf_transfer.plans import recipes
from hf_transfer.plans.plan import TransferPlan

Prefer = Literal["fast", "balanced", "best"]
Scenario = Literal[1, 2, 3, 4, "undecided"]


@dataclass(frozen=True)
class Rejection:
    """A candidate that was not chosen, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Decision:
    """What to do, and why.

    Attributes:
        scenario: CS231n's case: 1 small and similar, 2 large and similar, 3 small and different, 4 large and
            different; "undecided" where the measurements do not tell size or similarity.
        chosen: The candidate.
        plan: What `TransferTrainer` or `LinearProbeTrainer` would do.
        reasons: Sentences with the numbers that the decision rests on.
        warnings: What was noticed in the data that makes a result worse, or look better than it is.
        rejected: The other candidates.
        candidates: All, the chosen one among them.
        settled: Whether measurements alone decide: the cheapest candidate that may be the best is also the one
            expected to be, was measured, and no assumption speaks for another. Otherwise trials would tell more.
        prefer: As asked.
        allow_probe_file: As asked.
    """

    scenario: Scenario
    chosen: Candidate
    plan: TransferPlan
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    settled: bool = True
    prefer: Prefer = "balanced"
    allow_probe_file: bool = False

    def __post_init__(self) -> None:
        if self.scenario not in (1, 2, 3, 4, rules.UNDECIDED):
            raise ArgumentError(f'A scenario is 1, 2, 3, 4 or "undecided"; found {self.scenario!r}.')
        _check_prefer(self.prefer)

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return self.chosen.recipe

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the recipe."""
        return self.chosen.options

    @property
    def layer(self) -> str:
        """What the head reads: "last", or for a linear probe the name of an earlier layer, or "all"."""
        return self.chosen.layer

    def with_trials(self, trials: Trials, tried: Sequence[Candidate]) -> Decision:
        """The decision for what won the trials.

        Args:
            trials: What was tried.
            tried: The candidates, the winner among them.
        """
        winner = next(each for each in tried if each.name == trials.winner)
        # A training that was cut short is expected to end no lower than in its trial.
        longest, metric = {each.name: each for each in trials.trials}, trials.metric.replace("_", " ")
        if winner.name not in longest:  # it is verified while it runs
            return replace(self, reasons=(*self.reasons, trials.sentence()))
        whole = trials.best.share >= 1
        reached = trials.best.value if trials.metric == "balanced_accuracy" else trials.best.accuracy
        accuracy = reached if whole else max(reached, winner.accuracy)
        gain = winner.gain + accuracy - winner.accuracy
        error = max(trials.best.standard_error, 0.0 if whole else winner.gain_error)
        chosen = replace(winner, accuracy=accuracy, gain=gain, gain_error=error, measured=whole)
        return replace(
            self,
            chosen=chosen,
            plan=recipes.get(chosen.recipe, **chosen.options),
            reasons=(*self.reasons, trials.sentence()),
            rejected=tuple(
                Rejection(
                    each.name,
                    f"{metric} {each.value:.3f}, log loss {each.log_loss:.3f} in its longest trial",
                )
                for each in longest.values()
                if each.name != winner.name
            ),
            settled=trials.complete,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "scenario": self.scenario,
            "recipe": self.recipe,
            "options": dict(self.options),
            "arguments": dict(self.chosen.arguments),
            "layer": self.layer,
            "expected_accuracy": self.chosen.accuracy,
            "seconds": self.chosen.seconds,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "chosen": self.chosen.to_dict(),
            "rejected": [asdict(each) for each in self.rejected],
            "candidates": [each.to_dict() for each in self.candidates],
            "settled": self.settled,
            "prefer": self.prefer,
            "allow_probe_file": self.allow_probe_file,
            "plan": self.plan.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        """The inverse of `to_dict`; what else is there is left alone.

        Raises:
            ArgumentError: A field is missing or not as described.
        """
        try:
            values = {each.name: data[each.name] for each in fields(cls)}
            values["chosen"] = Candidate.from_dict(data["chosen"])
            values["candidates"] = tuple(Candidate.from_dict(each) for each in data["candidates"])
            values["rejected"] = tuple(Rejection(**each) for each in data["rejected"])
            values["plan"] = TransferPlan.from_dict(data["plan"])
            return cls(**values | {name: tuple(data[name]) for name in ("reasons", "warnings")})
        except (KeyError, TypeError) as error:
            raise ArgumentError(f"This is no decision of a diagnosis: {error}.") from error


def decide(measurements: Measurements, prefer: Prefer = "balanced", allow_probe_file: bool = False) -> Decision:
    """Decide how to train.

    Linear classifiers are judged by their held-out accuracy. Fine-tuning has none before it was tried: what it is
    expected to gain is an assumption (`hf_transfer.diagnosis.priors`, with its source), and rises with the number of
    images of each class. With all else equal more images never lead to fewer trained layers.

    Args:
        measurements: What was measured.
        prefer: "fast" takes the cheapest candidate whose expected accuracy is within two standard errors of the best,
            "balanced" within one, "best" the best.
        allow_probe_file: Also choose a classifier on features that no ordinary checkpoint can express.

    Raises:
        ArgumentError: `prefer` is unknown.
    """
    _check_prefer(prefer)
    found = candidates(measurements)
    chosen = choose(found, prefer, allow_probe_file) if measurements.pretrained else found[0]
    return Decision(
        scenario=rules.scenario(measurements),
        chosen=chosen,
        plan=recipes.get(chosen.recipe, **chosen.options),
        reasons=reasons.reasons(measurements, found, chosen, prefer),
        warnings=reasons.warnings(measurements),
        rejected=_rejections(found, chosen, prefer, allow_probe_file),
        candidates=found,
        settled=_is_settled(found, allow_probe_file),
        prefer=prefer,
        allow_probe_file=allow_probe_file,
    )


def choose(found: Sequence[Candidate], prefer: Prefer, allow_probe_file: bool = False) -> Candidate:
    """The cheapest candidate that may be the best.

    Args:
        found: The cheapest first, as `candidates` gives them.
        prefer: See `decide`.
        allow_probe_file: See `decide`.
    """
    allowed = [each for each in found if each.native or allow_probe_file]
    best = best_candidate(allowed)
    return next(each for each in allowed if is_near(each, best, ERRORS_ALLOWED[prefer]))


def _is_settled(found: Sequence[Candidate], allow_probe_file: bool) -> bool:
    chosen = choose(found, "best", allow_probe_file)
    if choose(found, "fast", allow_probe_file) != chosen or not chosen.measured:
        return False
    assumed = any(not each.measured for each in found if each.native or allow_probe_file)
    return chosen.accuracy == 1 or not assumed


def _rejections(
    found: Sequence[Candidate], chosen: Candidate, prefer: Prefer, allow_probe_file: bool
) -> tuple[Rejection, ...]:
    best = best_candidate([each for each in found if each.native or allow_probe_file])
    return tuple(
        Rejection(each.name, _why_not(each, chosen, best, prefer, allow_probe_file))
        for each in found
        if each is not chosen
    )


def _why_not(each: Candidate, chosen: Candidate, best: Candidate, prefer: Prefer, allow_probe_file: bool) -> str:
    accuracy = f"{each.accuracy:.3f} {'measured' if each.measured else 'expected'}"
    if chosen.recipe == "from_scratch":
        return f"{accuracy}; it would keep layers whose weights are random"
    if not each.native and not allow_probe_file:
        return f"{accuracy}; no ordinary checkpoint can hold it, and --allow_probe_file was not given"
    if not is_near(each, best, ERRORS_ALLOWED[prefer]):
        error = difference_error(each, best)
        return f"{accuracy}; {points(best.gain - each.gain)} below the best (standard error {points(error)})"
    if each.gain > chosen.gain:
        error = difference_error(each, chosen)
        return (
            f"{accuracy}; {points(each.gain - chosen.gain)} better, within the error of {points(error)}, and more "
            "expensive"
        )
    return f"{accuracy}; no better than what was chosen, and not cheaper"


def _check_prefer(prefer: str) -> None:
    if prefer not in ERRORS_ALLOWED:
        raise ArgumentError(f"prefer is one of {', '.join(ERRORS_ALLOWED)}; found {prefer!r}.")
