"""Runs of trials: a candidate trained by the trainers on folds of the training images, judged on the others."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
from torch import nn
from torch.utils.data import Subset

from hf_transfer.data import collate, eval_transform, train_transform
from hf_transfer.diagnosis.candidates import HEAD, Candidate
from hf_transfer.diagnosis.holding_out import HeldOutRows
from hf_transfer.diagnosis.measurements import ALL, LAST
from hf_transfer.diagnosis.trials import Logits
from hf_transfer.features.depths import layers_at_depths
from hf_transfer.features.extract import extract_features
from hf_transfer.linear_probe.labels import labels_of
from hf_transfer.models.truncation import truncate
from hf_transfer.phases.kept_weights import KeptWeights, Member, choose_member
from hf_transfer.plans.plan import Phase, TransferPlan
from hf_transfer.plans.recipes import get
from hf_transfer.solvers.joined import distinct, solve_joined
from hf_transfer.trainer.args import TransferArguments
from hf_transfer.trainer.held_out import HeldOut
from hf_transfer.trainer.trainer import TransferTrainer
from hf_transfer.utils.distributed import on_first_rank, rank_and_world


class TrialRuns:
    """Trains candidates on the images that are not held out; call it with a candidate and a share of its length.

    Args:
        model: Stays as it is; each trial trains a copy.
        dataset: Training images with labels.
        processor: The model's image processor, or None where the data set has a transform.
        rows: Which images are held out.
        metric: The metric that decides.
        seed: Seed for the trainings.

    Attributes:
        kept: What was chosen of each training, by name and share.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        processor: Any,
        rows: HeldOutRows,
        metric: str = "accuracy",
        seed: int = 0,
    ) -> None:
        self._model, self._dataset, self._processor, self._seed = model, dataset, processor, seed
        self._rows_held, self._metric = rows, metric
        self._labels = np.asarray(labels_of(dataset)[0]())
        self.kept: dict[tuple[str, float], KeptWeights] = {}
        self._done: dict[tuple[str, float], Logits] = {}
        self._slowed: set[str] = set()

    def __call__(self, candidate: Candidate, share: float) -> Logits:
        """Logits of all held-out images `(images, classes)`, in the order of the folds."""
        key = candidate.name, share
        if key not in self._done:
            self._done[key] = self._run(candidate, share)
        return self._done[key]

    def broke_down(self, name: str) -> bool:
        """Whether a candidate's training had to go back to its start on some fold."""
        return name in self._slowed

    def _run(self, candidate: Candidate, share: float) -> Logits:
        if candidate.trained == HEAD:
            return np.concatenate([self._solved(candidate, fit, held) for fit, held in self._rows_held.folds])
        seen = [self._trained(candidate, share, fit, held) for fit, held in self._rows_held.folds]
        # Weights that one fold has not come to, since it was stopped, are none that could be followed.
        members = [member for member in seen[0] if all(member in each for each in seen)]
        pooled = [np.concatenate([each[member] for each in seen]) for member in members]
        kept = choose_member(members, pooled, self._rows_held.labels, self._metric)
        self.kept[candidate.name, share] = kept
        return pooled[members.index(kept.chosen.member)]

    def _solved(self, candidate: Candidate, fit: Any, held: Any) -> Logits:
        """A linear classifier on features that are computed once for all folds, and are in the cache."""
        layers = layers_at_depths(self._model) if candidate.layer == ALL else [candidate.layer]
        every = list(extract_features(self._model, self._dataset, self._processor, layers, progress=False).values())
        found = [every[place] for place in distinct(every)]
        parts = [values[fit] for values in found]
        classes = int(self._labels.max()) + 1
        solved = on_first_rank(lambda: solve_joined(parts, self._labels[fit], classes=classes, seed=self._seed))
        scores: Logits = solved.head.scores(np.concatenate([values[held] for values in found], axis=1))
        return scores

    def _trained(self, candidate: Candidate, share: float, fit: Any, held: Any) -> dict[Member, Logits]:
        augmentation = candidate.arguments.get("augmentation", "none")
        earlier = candidate.layer != LAST
        with tempfile.TemporaryDirectory(prefix="hf_transfer_trial_", ignore_cleanup_errors=True) as folder:
            trainer = TransferTrainer(
                model=truncate(self._model, candidate.layer, seed=self._seed)
                if earlier
                else copy.deepcopy(self._model),
                args=_arguments(folder, candidate.arguments, self._seed),
                data_collator=collate,
                train_dataset=self._rows(fit, augmentation),
                processing_class=self._processor,
                plan=shorter_plan(get(candidate.recipe, **candidate.options), share),
                held_out=HeldOut(self._rows(held, None), self._metric, calibrate=False),
            )
            trainer.train()
        assert trainer.run is not None and trainer.run.keeper is not None
        if trainer.run.keeper.slowed_at is not None:
            self._slowed.add(candidate.name)
        return trainer.run.keeper.seen

    def _rows(self, rows: Any, augmentation: str | None) -> Any:
        """Images by position; None is the transform of evaluation. A data set that has its own keeps it."""
        if not isinstance(self._dataset, datasets.Dataset):
            return Subset(self._dataset, [int(row) for row in rows])
        chosen = self._dataset.select(rows)
        if self._processor is None:
            return chosen
        made = eval_transform(self._processor)
        return chosen.with_transform(made if augmentation is None else train_transform(self._processor, augmentation))


def shorter_plan(plan: TransferPlan, share: float) -> TransferPlan:
    """A plan with the same phases at a share of their length, at least one step each."""
    return replace(plan, phases=tuple(_shortened(phase, share) for phase in plan.phases))


def _shortened(phase: Phase, share: float) -> Phase:
    if phase.max_steps is not None:
        return replace(phase, max_steps=max(1, round(phase.max_steps * share)))
    return phase if phase.epochs is None else replace(phase, epochs=phase.epochs * share)


def _arguments(folder: str, given: Mapping[str, Any], seed: int) -> TransferArguments:
    own = {name: value for name, value in given.items() if name not in ("augmentation", "train_batch_size")}
    return TransferArguments(
        output_dir=folder,
        per_device_train_batch_size=max(1, given.get("train_batch_size", 32) // rank_and_world()[1]),
        per_device_eval_batch_size=64,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=seed,
        **own,
    )
