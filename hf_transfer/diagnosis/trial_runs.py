"""Runs of trials: a candidate trained by the trainers on folds of the training images, judged on the others."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold
from torch import nn
from torch.utils.data import Subset

from hf_transfer.data import collate, eval_transform, train_transform
from hf_transfer.diagnosis.candidates import HEAD, Candidate
from hf_transfer.diagnosis.measurements import ALL
from hf_transfer.diagnosis.trials import Hits
from hf_transfer.errors import DataError
from hf_transfer.features.depths import layers_at_depths
from hf_transfer.features.extract import extract_features
from hf_transfer.linear_probe.labels import labels_of
from hf_transfer.plans.plan import Phase, TransferPlan
from hf_transfer.plans.recipes import get
from hf_transfer.solvers.joined import distinct, solve_joined
from hf_transfer.trainer.args import TransferArguments
from hf_transfer.trainer.trainer import TransferTrainer
from hf_transfer.utils.distributed import on_first_rank, rank_and_world

FOLDS = 5
ENOUGH = 1000
"""From this number of images on a fifth is held out once (standard error up to 3.5 points); below, each in turn."""


class TrialRuns:
    """Trains candidates on the training images without a fold; call it with a candidate and a share of its length.

    Args:
        model: Stays as it is; each trial trains a copy.
        dataset: Training images with labels.
        processor: The model's image processor, or None where the data set has a transform.
        seed: Seed for folds and trainings.
    """

    def __init__(self, model: nn.Module, dataset: Any, processor: Any = None, seed: int = 0) -> None:
        self._model, self._dataset, self._processor, self._seed = model, dataset, processor, seed
        self._labels = np.asarray(labels_of(dataset)[0]())
        self._folds = folds_of(self._labels, seed)

    def __call__(self, candidate: Candidate, share: float) -> Hits:
        """Whether each held-out image is classified right, `(held_out_images,)`."""
        judge = self._solved if candidate.trained == HEAD else self._trained
        return np.concatenate([judge(candidate, share, fit, held_out) for fit, held_out in self._folds])

    def _solved(self, candidate: Candidate, share: float, fit: Any, held_out: Any) -> Hits:
        """A linear classifier on features that are computed once for all folds, and are in the cache."""
        layers = layers_at_depths(self._model) if candidate.layer == ALL else [candidate.layer]
        every = list(extract_features(self._model, self._dataset, self._processor, layers, progress=False).values())
        found = [every[place] for place in distinct(every)]
        parts = [values[fit] for values in found]
        classes = int(self._labels.max()) + 1
        solved = on_first_rank(lambda: solve_joined(parts, self._labels[fit], classes=classes, seed=self._seed))
        features = np.concatenate([values[held_out] for values in found], axis=1)
        return solved.head.scores(features).argmax(axis=1) == self._labels[held_out]

    def _trained(self, candidate: Candidate, share: float, fit: Any, held_out: Any) -> Hits:
        augmentation = candidate.arguments.get("augmentation", "none")
        with tempfile.TemporaryDirectory(prefix="hf_transfer_trial_", ignore_cleanup_errors=True) as folder:
            trainer = TransferTrainer(
                model=copy.deepcopy(self._model),
                args=_arguments(folder, candidate.arguments, self._seed),
                data_collator=collate,
                train_dataset=self._rows(fit, augmentation),
                processing_class=self._processor,
                plan=shorter_plan(get(candidate.recipe, **candidate.options), share),
            )
            trainer.train()
            logits = trainer.predict(self._rows(held_out, None)).predictions
        return np.asarray(logits).argmax(axis=1) == self._labels[held_out]

    def _rows(self, rows: Any, augmentation: str | None) -> Any:
        """Images by position; None is the transform of evaluation. A data set that has its own keeps it."""
        if not isinstance(self._dataset, datasets.Dataset):
            return Subset(self._dataset, [int(row) for row in rows])
        chosen = self._dataset.select(rows)
        if self._processor is None:
            return chosen
        made = eval_transform(self._processor)
        return chosen.with_transform(made if augmentation is None else train_transform(self._processor, augmentation))


def folds_of(labels: npt.NDArray[np.integer[Any]], seed: int) -> list[tuple[Any, Any]]:
    """Rows to fit to and rows held out, stratified; a single pair where there are images enough.

    Raises:
        DataError: No class has two images.
    """
    most = int(np.bincount(labels).max())
    if most < 2:
        raise DataError(
            "Trials need a class with at least two images, one to train on and one to judge by; found none."
        )
    folds = StratifiedKFold(min(FOLDS, most), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes with fewer images than folds are in some of them only
        split = list(folds.split(np.zeros(len(labels)), labels))
    return split[:1] if len(labels) >= ENOUGH else split


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
