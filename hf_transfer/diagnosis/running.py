"""`diagnose`: measure, decide, and where that is not enough and there is time, try."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from torch import nn

from hf_transfer.diagnosis import rules
from hf_transfer.diagnosis.candidates import HEAD, Candidate, from_scratch_candidate
from hf_transfer.diagnosis.decide import Decision, Prefer, decide
from hf_transfer.diagnosis.holding_out import HeldOutRows, hold_out
from hf_transfer.diagnosis.measurements import ALL, LAST, Measurements
from hf_transfer.diagnosis.measuring import measure
from hf_transfer.diagnosis.result import Diagnosis
from hf_transfer.diagnosis.sampling import labels_and_names
from hf_transfer.diagnosis.trial_runs import TrialRuns
from hf_transfer.diagnosis.trials import Trials, halve
from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation.deciding import check_metric, default_metric
from hf_transfer.phases.kept_weights import START
from hf_transfer.utils.distributed import from_first

logger = logging.getLogger(__name__)

AUTO = "auto"


def diagnose(
    model: nn.Module,
    dataset: Any,
    processor: Any = None,
    budget: float | Literal["auto"] | None = None,
    prefer: Prefer = "balanced",
    *,
    metric: str | None = None,
    evaluation_dataset: Any = None,
    allow_probe_file: bool = False,
    sample: int | None = None,
    seed: int = 0,
    **measuring: Any,
) -> Diagnosis:
    """Measure which kind of transfer a data set needs, and choose the recipe by it.

    One pass over a sample of the training images, through the model and through its twin with random weights; the
    model is given back as it was. In a process group all ranks must call this, and get the same.

    Args:
        model: An image classifier with its pretrained weights; its head may be new.
        dataset: Training images with labels, as in `extract_features`.
        processor: The model's image processor; needed where the data set has no transform.
        budget: Trials on held-out training images: "auto" tries what is chosen, as far as its training does not do so
            itself; a number of seconds tries all candidates by successive halving; 0 tries solved heads alone; None
            tries nothing.
        prefer: "fast" takes the cheapest candidate that is within two standard errors of the best, "balanced" of those
            within one the one with the lowest log loss in trials, else the cheapest, "best" the best.
        metric: What decides among layers and in trials: "accuracy", "balanced_accuracy", "macro_f1" or "log_loss".
            None takes accuracy, and balanced accuracy where the largest class has three times the images of the
            smallest.
        evaluation_dataset: Evaluation images, which are only compared with the training images, to find
            near-duplicates and splits that differ; nothing is decided on them.
        allow_probe_file: Also choose a classifier on features that no ordinary checkpoint can express.
        sample: Images that are measured; None takes the default of `measure`.
        seed: Seed for all random draws.
        measuring: Further arguments of `hf_transfer.diagnosis.measuring.measure`.

    Returns:
        `.scenario`, `.recipe`, `.plan`, `.reasons`, `.evidence` (the measurements), `.to_dict()`, `.plot(path)`.

    Raises:
        ArgumentError: `prefer` or `budget` are invalid.
        DataError: Labels are missing, or there is one class only.
    """
    check_budget(budget)
    labels = labels_and_names(dataset, model)[0]
    metric = default_metric(np.bincount(labels).tolist()) if metric is None else check_metric(metric)
    kept = {"evaluation_dataset": evaluation_dataset, "sample": sample, "seed": seed, "metric": metric}
    evidence = measure(model, dataset, processor, **kept, **measuring)
    decision = decide(evidence, prefer, allow_probe_file)
    if budget is None:
        return Diagnosis(evidence, decision)
    rows = hold_out(dataset, labels, seed)
    runs = TrialRuns(model, dataset, processor, rows, metric, seed)
    tried = candidates_to_try(evidence, decision, None if budget == AUTO else float(budget))
    clock = lambda: from_first(time.perf_counter())  # noqa: E731
    if budget == AUTO:
        trials = verify(tried, decision.chosen, runs, rows, clock, metric, prefer)
    else:
        trials = halve(tried, runs, rows.labels, float(budget), clock, metric=metric, prefer=prefer)
        trials = _with_weights(trials, tried, runs, rows)
    logger.info("%s", trials.sentence())
    return Diagnosis(evidence, decision.with_trials(trials, tried), trials)


def verify(
    tried: Sequence[Candidate],
    chosen: Candidate,
    runs: TrialRuns,
    rows: HeldOutRows,
    clock: Callable[[], float],
    metric: str,
    prefer: Prefer,
) -> Trials:
    """Try what was chosen, and no more than is needed to know that it is sound.

    Many images: the solved heads alone, since a training is looked at on the held-out images while it runs, and ends
    no lower than its solved head. Few: the training, too, on each fold; and the one at a lower rate where the first
    broke down or was of no use.
    """
    heads = [each for each in tried if each.trained == HEAD]
    options = {"metric": metric, "prefer": prefer, "shares": (1.0,)}
    if chosen.trained == HEAD or rows.once:
        trials = halve(heads, runs, rows.labels, None, clock, **options)  # type: ignore[arg-type]
        return trials if chosen.trained == HEAD else replace(trials, winner=chosen.name)
    going = [*heads, chosen]
    trials = halve(going, runs, rows.labels, None, clock, **options)  # type: ignore[arg-type]
    kept = runs.kept[chosen.name, 1.0]
    lower = [each for each in tried if each.trained == chosen.trained and _rate(each) < _rate(chosen)]
    if lower and (kept.chosen.member.share == START or runs.broke_down(chosen.name)):
        trials = halve([*going, lower[0]], runs, rows.labels, None, clock, **options)  # type: ignore[arg-type]
    return _with_weights(trials, tried, runs, rows)


def _rate(candidate: Candidate) -> float:
    return float(candidate.options.get("learning_rate") or 0.0)


def check_budget(budget: float | str | None) -> None:
    """Check the seconds for trials, before anything is loaded or measured.

    Raises:
        ArgumentError: They are negative, or no number.
    """
    is_number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if budget is not None and budget != AUTO and not (is_number and float(budget) >= 0):
        raise ArgumentError(
            "budget is a number of seconds, 0 for solved heads alone, auto, or nothing for no trials; found "
            f"{budget!r}."
        )


def candidates_to_try(
    evidence: Measurements, decision: Decision, budget: float | None = None
) -> tuple[Candidate, ...]:
    """Linear classifiers on the last layer, on the best earlier one and, if allowed, on all; all trainings.

    Training from scratch is tried only within a budget, where the data are not known to be similar to the pretraining.
    """
    allowed = [each for each in decision.candidates if each.native or decision.allow_probe_file]
    probes = [each for each in allowed if each.trained == HEAD]
    earlier = [each for each in probes if each.layer not in (LAST, ALL)][:1]
    found = [each for each in probes if each.layer in (LAST, ALL) or each in earlier]
    found += [each for each in allowed if each.trained != HEAD] if budget != 0 else []
    if budget and evidence.pretrained and not rules.is_similar(evidence):
        found.append(from_scratch_candidate(evidence))
    return _cheapest_first(found)


def _with_weights(trials: Trials, tried: Sequence[Candidate], runs: TrialRuns, rows: HeldOutRows) -> Trials:
    """Add which weights of the winner's training to keep, where that is found out on folds; it is trained in full."""
    winner = next(each for each in tried if each.name == trials.winner)
    if winner.trained == HEAD or rows.once:
        return trials
    if (winner.name, 1.0) not in runs.kept:
        runs(winner, 1.0)
    chosen = runs.kept[winner.name, 1.0].chosen
    same = [each for each in tried if each.trained == HEAD and each.layer == winner.layer]
    if chosen.member.share == START and same:  # nothing of the training is kept: the solved head is the result
        return replace(trials, winner=same[0].name)
    return replace(trials, follow=chosen.member, temperature=chosen.temperature)


def _cheapest_first(found: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return tuple(sorted(found, key=lambda each: each.trained))
