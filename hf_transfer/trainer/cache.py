"""`Trainer` that reads the frozen part of its model from the feature cache; `TransferTrainer` gives it phases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from hf_transfer.feature_cache.cache import FeatureCache
from hf_transfer.feature_cache.decision import CacheDecision, CacheSettings
from hf_transfer.feature_cache.rows import PackedRows, SeededCollator
from hf_transfer.phases.callback import PhaseCallback
from hf_transfer.plans.plan import TransferPlan
from hf_transfer.trainer.base import CheckpointTrainer
from hf_transfer.utils.random_state import own_random_numbers


class CachingTrainer(CheckpointTrainer):
    """`Trainer` whose training data are the same in a resumed run, and are stored tensors where that pays.

    With a plan, random transforms and collators draw numbers that depend on seed, epoch and image; where a phase's
    frozen part was computed once, data loaders give its results.
    """

    plan: TransferPlan | None = None
    train_dataset: Any
    eval_dataset: Any
    _feature_cache: FeatureCache | None = None
    _cache_phases: CachePhasesCallback | None = None
    _cache_decisions: Sequence[CacheDecision] = ()
    _rows: PackedRows | None = None

    @property
    def cache_decisions(self) -> tuple[CacheDecision, ...]:
        """Whether and how each phase of the latest training used the feature cache."""
        return tuple(self._cache_decisions)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> Any:
        """Train as Trainer does, and give the model back whole."""
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self._close_cache()

    def follow_phases(self, phases: PhaseCallback, decided: bool | None = None) -> None:
        """Add the callback that begins phases, and let the feature cache decide for each of them after it.

        Args:
            phases: The callback.
            decided: What was decided for the phase that a resumed run is inside of.
        """
        self.add_callback(phases)
        if self._cache_phases is not None:
            self.remove_callback(self._cache_phases)
        if self._feature_cache is not None:
            self._cache_phases = CachePhasesCallback(self._feature_cache, phases, decided)
            self.add_callback(self._cache_phases)

    def get_train_dataloader(self) -> Any:
        """Make the loader of the training data; with a plan, one that can read the frozen part from the cache."""
        self._close_cache()
        streamed = isinstance(self.train_dataset, IterableDataset) or not has_length(self.train_dataset)
        if self.plan is None or not self.is_in_train or streamed:
            return super().get_train_dataloader()
        self._feature_cache = make_cache(self)
        self._cache_decisions = self._feature_cache.decisions
        self._rows = self._feature_cache.train
        given, self.train_dataset = self.train_dataset, self._rows
        try:
            loader = super().get_train_dataloader()
        finally:
            self.train_dataset = given
        # Else a loader draws from the global random numbers when it is iterated, but not while its workers live on.
        getattr(loader, "base_dataloader", loader).generator = torch.Generator().manual_seed(self.args.seed)
        return loader

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        """Leave out columns as Trainer does; what a collator draws at random for the training is the batch's own."""
        collator = super()._get_collator_with_removed_columns(data_collator, description)
        if self._rows is None or description != "Training":
            return collator
        return SeededCollator(collator, self._rows)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Run an epoch as Trainer does, with its own random numbers and, where the phase has one, from its store."""
        # Not left to accelerate, which tells the data set the epoch only where no sampler takes it.
        if self._rows is not None and self._cache_phases is not None:
            first_step = kwargs["epoch"] * kwargs["num_update_steps_per_epoch"]
            self._rows.begin_epoch(kwargs["epoch"], self._cache_phases.phases.phase.start <= first_step)
        super()._run_epoch(*args, **kwargs)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Make the loader of evaluation data; during a phase with a cut, one that reads them from the cache."""
        if self._feature_cache is not None and self._cache_phases is not None:
            named = self.eval_dataset if eval_dataset is None else eval_dataset
            dataset = self.eval_dataset[named] if isinstance(named, str) else named
            eval_dataset = self._feature_cache.evaluation(dataset, self._cache_phases.evaluations)
        return super().get_eval_dataloader(eval_dataset)

    def _close_cache(self) -> None:
        self._rows = None
        if self._feature_cache is not None:
            self._feature_cache.close()
            self._feature_cache = None


def make_cache(trainer: Trainer) -> FeatureCache:
    """The feature cache of a run.

    Args:
        trainer: With model, training data and collator; it has no wrapper around the model yet.
    """
    args = trainer.args
    settings = CacheSettings(
        mode=getattr(args, "cache_features", "off"),
        cap_gb=getattr(args, "cache_gb", None),
        views=getattr(args, "cache_views", 0),
        seed=args.data_seed if args.data_seed is not None else args.seed,
        workers=args.dataloader_num_workers,
        autocast=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None,
        progress=not args.disable_tqdm,
    )
    dataset, collator = trainer.train_dataset, trainer.data_collator
    if isinstance(dataset, datasets.Dataset):
        dataset = trainer._remove_unused_columns(dataset, description="Training")
    collator = trainer._get_collator_with_removed_columns(collator, description="Training")
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    return FeatureCache(model, dataset, collator, settings, _obstacle(trainer))


def _obstacle(trainer: Trainer) -> str | None:
    """What of the trainer's settings asks for the whole model."""
    args = trainer.args
    asked = {
        "FSDP": trainer.is_fsdp_enabled,
        "DeepSpeed": trainer.is_deepspeed_enabled,
        "torch_compile": args.torch_compile,
        "activation checkpointing": args.gradient_checkpointing or getattr(args, "activation_checkpointing", False),
        "dataloader_persistent_workers": args.dataloader_num_workers > 0 and args.dataloader_persistent_workers,
        "include_for_metrics inputs": "inputs" in args.include_for_metrics,
        "neftune_noise_alpha": getattr(args, "neftune_noise_alpha", None) is not None,
        # Someone else's way to compute the loss may read the images.
        "a loss of a subclass": not type(trainer).compute_loss.__module__.startswith(
            ("hf_transfer.", "transformers.")
        ),
        "sampling by length": args.train_sampling_strategy not in ("random", "sequential"),
    }
    found = [name for name, there in asked.items() if there]
    return f"{', '.join(found)} cannot be combined with it" if found else None


class CachePhasesCallback(TrainerCallback):
    """Begin the cache's phases with those of the run; comes after the callback that freezes.

    Args:
        cache: Of the run.
        phases: The callback that freezes.
        decided: What was decided for the phase that a resumed run is inside of, None elsewhere.

    Attributes:
        evaluations: How often the present phase is evaluated.
    """

    def __init__(self, cache: FeatureCache, phases: PhaseCallback, decided: bool | None = None) -> None:
        self._decided = decided
        self.cache = cache
        self.phases = phases
        self.evaluations = 0.0
        self._number: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._follow(args, state, kwargs["train_dataloader"])

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._follow(args, state, kwargs["train_dataloader"])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._follow(args, state, kwargs["train_dataloader"])

    def _follow(self, args: TrainingArguments, state: TrainerState, dataloader: Any) -> None:
        if self.phases.number == self._number:
            return
        self._number = self.phases.number
        phase, now = self.phases.phase, state.global_step
        steps = max(phase.end - now, 0)
        per_epoch = math.ceil(len(dataloader) / args.gradient_accumulation_steps) if has_length(dataloader) else steps
        per_epoch = max(per_epoch, 1)
        epochs = steps / per_epoch
        if phase.start > now // per_epoch * per_epoch:  # it began amid the present epoch, which goes on as it began
            epochs = max(phase.end - (now // per_epoch + 1) * per_epoch, 0) / per_epoch
        every = {"epoch": steps / per_epoch, "steps": steps / max(state.eval_steps or steps or 1, 1)}
        self.evaluations = every.get(str(getattr(args.eval_strategy, "value", args.eval_strategy)), 0.0)
        # A resumed run finds in the cache what the other one had to find out, which may have drawn random numbers.
        devices = [args.device] if args.device.type == "cuda" else []
        with own_random_numbers(), torch.random.fork_rng(devices):
            self.cache.begin(self.phases.phase_name, epochs, self._decided)
        self._decided = None
