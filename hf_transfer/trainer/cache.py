"""The feature cache of a training with a plan: made from the trainer's settings, and begun with each phase."""

from __future__ import annotations

import math
from typing import Any

import datasets
import torch
from transformers import IntervalStrategy, Trainer, TrainerState
from transformers.trainer_utils import has_length

from hf_transfer.feature_cache.cache import FeatureCache
from hf_transfer.feature_cache.decision import CacheSettings
from hf_transfer.phases.current import CurrentPhase
from hf_transfer.utils.random_state import own_random_numbers


class PhaseCache:
    """The feature cache of one training, which decides for each phase when it begins.

    Args:
        trainer: The trainer, with model, training data and collator; it has no wrapper around the model yet.

    Attributes:
        features: The cache.
        evaluations: How often the present phase is evaluated.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.features = make_cache(trainer)
        self.evaluations = 0.0
        self._number: int | None = None
        self._decided: bool | None = None

    def resume(self, decided: bool | None) -> None:
        """Keep to what was decided for the phase that a resumed run is inside of; None where a phase begins."""
        self._number, self._decided = None, decided

    def begin(self, phase: CurrentPhase, state: TrainerState, dataloader: Any) -> None:
        """Cut the model and fill the store for a phase that was entered, unless that was done already."""
        if phase.number == self._number:
            return
        self._number = phase.number
        args, now = self._trainer.args, state.global_step
        steps = max(phase.steps.end - now, 0)
        per_epoch = math.ceil(len(dataloader) / args.gradient_accumulation_steps) if has_length(dataloader) else steps
        per_epoch = max(per_epoch, 1)
        epochs = steps / per_epoch
        if phase.steps.start > now // per_epoch * per_epoch:  # it began amid the present epoch, which stays as it is
            epochs = max(phase.steps.end - (now // per_epoch + 1) * per_epoch, 0) / per_epoch
        every = {"epoch": steps / per_epoch, "steps": steps / max(state.eval_steps or steps or 1, 1)}
        self.evaluations = every.get(IntervalStrategy(args.eval_strategy).value, 0.0)
        # A resumed run finds in the cache what the other one had to find out, which may have drawn random numbers.
        with own_random_numbers(device=args.device):
            self.features.begin(phase.name, epochs, self._decided)
        self._decided = None

    def begin_epoch(self, epoch: int, first_step: int, phase: CurrentPhase) -> None:
        """Choose the epoch's random numbers and, where the phase had begun by then, its store.

        Not left to accelerate, which tells the data set the epoch only where no sampler takes it.

        Args:
            epoch: Its number.
            first_step: Its first optimizer step.
            phase: The phase of the epoch.
        """
        self.features.train.begin_epoch(epoch, phase.steps.start <= first_step)

    def evaluation(self, dataset: Any, times: float | None = None) -> Any:
        """Evaluation data for the present phase; from the store where it has one.

        Args:
            dataset: What to evaluate.
            times: How often it will be, in this phase; None for what the arguments say.
        """
        return self.features.evaluation(dataset, self.evaluations if times is None else times)

    def close(self) -> None:
        """Restore the whole model, and close the store."""
        self.features.close()


def make_cache(trainer: Trainer) -> FeatureCache:
    """The feature cache of a run.

    Args:
        trainer: The trainer, with model, training data and collator; it has no wrapper around the model yet.
    """
    args, options = trainer.args, trainer.options
    settings = CacheSettings(
        mode=options.cache_features,
        cap_gb=options.cache_gb,
        views=options.cache_views,
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
        "activation checkpointing": args.activation_checkpointing or args.gradient_checkpointing,
        "dataloader_persistent_workers": args.dataloader_num_workers > 0 and args.dataloader_persistent_workers,
        "include_for_metrics inputs": "inputs" in args.include_for_metrics,
        "neftune_noise_alpha": args.neftune_noise_alpha is not None,
        # Someone else's way to compute the loss may read the images.
        "a loss of a subclass": not type(trainer).compute_loss.__module__.startswith(
            ("hf_transfer.", "transformers.")
        ),
        "sampling by length": args.train_sampling_strategy not in ("random", "sequential"),
    }
    found = [name for name, there in asked.items() if there]
    return f"{', '.join(found)} cannot be combined with it" if found else None
