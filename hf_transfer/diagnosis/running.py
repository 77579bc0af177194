"""`diagnose`: measure, decide, and where that is not enough and there is time, try."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from torch import nn

from hf_transfer.diagnosis import rules
from hf_transfer.diagnosis.candidates import HEAD, Candidate, from_scratch_candidate
from hf_transfer.diagnosis.decide import Decision, Prefer, decide
from hf_transfer.diagnosis.measurements import ALL, LAST, Measurements
from hf_transfer.diagnosis.measuring import measure
from hf_transfer.diagnosis.result import Diagnosis
from hf_transfer.diagnosis.trial_runs import TrialRuns
from hf_transfer.diagnosis.trials import halve
from hf_transfer.errors import ArgumentError
from hf_transfer.utils.distributed import from_first

logger = logging.getLogger(__name__)


def diagnose(
    model: nn.Module,
    dataset: Any,
    processor: Any = None,
    budget: float | None = None,
    prefer: Prefer = "balanced",
    *,
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
        budget: Seconds that trials may take where the measurements do not settle the choice; None tries nothing. They
            use held-out folds of the training images.
        prefer: "fast" takes the cheapest candidate whose expected accuracy is within two standard errors of the best,
            "balanced" within one, "best" the best.
        evaluation_dataset: Evaluation images, which are only compared with the training images, to find
            near-duplicates; nothing is decided on them.
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
    evidence = measure(
        model, dataset, processor, evaluation_dataset=evaluation_dataset, sample=sample, seed=seed, **measuring
    )
    decision = decide(evidence, prefer, allow_probe_file)
    if budget is None or decision.settled:
        return Diagnosis(evidence, decision)
    tried = candidates_to_try(evidence, decision)
    runs = TrialRuns(model, dataset, processor, seed=seed)
    trials = halve(tried, runs, budget, lambda: from_first(time.perf_counter()))
    logger.info("%s", trials.sentence())
    return Diagnosis(evidence, decision.with_trials(trials, tried), trials)


def check_budget(budget: float | None) -> None:
    """Check the seconds for trials, before anything is loaded or measured.

    Raises:
        ArgumentError: They are not above 0.
    """
    if budget is not None and not budget > 0:
        raise ArgumentError(f"budget is a number of seconds above 0, or nothing for no trials; found {budget!r}.")


def candidates_to_try(evidence: Measurements, decision: Decision) -> tuple[Candidate, ...]:
    """Linear classifiers on the last layer, on the best earlier one and, if allowed, on all; all trainings.

    Training from scratch is tried only where the data are not known to be similar to the pretraining.
    """
    allowed = [each for each in decision.candidates if each.native or decision.allow_probe_file]
    probes = [each for each in allowed if each.trained == HEAD]
    earlier = [each for each in probes if each.layer not in (LAST, ALL)][:1]
    found = [each for each in probes if each.layer in (LAST, ALL) or each in earlier]
    found += [each for each in allowed if each.trained != HEAD]
    if evidence.pretrained and not rules.is_similar(evidence):
        found.append(from_scratch_candidate(evidence))
    return _cheapest_first(found)


def _cheapest_first(found: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return tuple(sorted(found, key=lambda each: each.trained))
