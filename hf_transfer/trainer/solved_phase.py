"""The first phase of a plan solved instead of trained in steps: `Phase.head_solver`, in `TransferTrainer`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import datasets
import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import has_length

from hf_transfer.architectures.lookup import wrap
from hf_transfer.data.transforms import EvalTransform, LightAugmentation, StandardAugmentation
from hf_transfer.errors import ArgumentError, DataError, LayerGroupError, ModelError
from hf_transfer.feature_cache.inputs import changes_at_random
from hf_transfer.features.fingerprints import transform_of
from hf_transfer.linear_probe.head import classifiers
from hf_transfer.linear_probe.solving import HeadSolution, solve_head
from hf_transfer.phases.freezing import check_unchanged, frozen_tensors, phase_freeze_state
from hf_transfer.phases.resolved import ResolvedPlan
from hf_transfer.trainer.args import TransferOptions
from hf_transfer.utils.distributed import first_reason, rank_and_world
from hf_transfer.utils.foreign import configured
from hf_transfer.utils.hashing import digests
from hf_transfer.utils.modules import is_inside

logger = logging.getLogger(__name__)

_OURS = ("hf_transfer.", "transformers.")
# Images x channels x classes, where L-BFGS reads the images some seventy times: about ten minutes on one core.
_LARGEST_FIT = 1e11
# Features in float32; `sgd` streams them.
_LARGEST_FEATURES = 8e9


def solve_first_phase(
    trainer: Trainer, resolved: ResolvedPlan, step: int
) -> tuple[ResolvedPlan, dict[str, Any] | None]:
    """Solve the head where the plan asks for it and the run stands at the beginning of that phase.

    All processes must call this, before the model is wrapped for them.

    Args:
        trainer: Its model's head is changed in place.
        resolved: The plan, with the phases of a run that is resumed where they were.
        step: Optimizer steps done.

    Returns:
        The plan with a first phase of no steps, and what is to be recorded of the solution; the plan as it was and
        None where nothing was to be solved, or where it cannot be, which is logged with the reason.
    """
    first = resolved.phases[0]
    if first.phase.head_solver is None or not first.steps or step != first.start:
        return resolved, None
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    reason = first_reason(_obstacle(trainer, model, first.phase.head_solver))
    solution = None
    if reason is None:
        frozen = frozen_tensors(model, phase_freeze_state(model, resolved.groups, first.phase))
        before = digests(frozen)
        solution, reason = _solve(trainer, model, first.phase.head_solver)
        check_unchanged(before, digests(frozen), first.phase.name)
    if solution is None:
        logger.warning("Phase %r trains the head by steps, since it cannot be solved: %s", first.phase.name, reason)
        return resolved, None
    solved = solution.solved
    if rank_and_world()[0] == 0:
        logger.info(
            "Phase %r: the head was solved (%s, %s %.3g), held-out accuracy %.3f.",
            *(first.phase.name, solved.solver, solved.parameter, solved.value, solved.accuracy),
        )
    return resolved.begin_at(1, step), {"phase": first.phase.name} | solution.to_dict()


def extraction_options(args: TrainingArguments) -> dict[str, Any]:
    """What training arguments say of an extraction, as arguments of `extract_features`."""
    options = TransferOptions.of(args)
    return {
        "workers": args.dataloader_num_workers,
        "memory_format": options.memory_format,
        "cache": options.cache_features != "off",
        "cache_gb": options.cache_gb,
        "progress": not args.disable_tqdm,
    }


def without_augmentation(dataset: Any) -> Any:
    """A data set that shows its images as evaluation does, where its transform is one of this package's."""
    if isinstance(dataset, datasets.Dataset):
        transform = transform_of(dataset)
        if isinstance(transform, LightAugmentation | StandardAugmentation):
            return dataset.with_transform(EvalTransform(transform.processor))
    return dataset


def _solve(trainer: Trainer, model: nn.Module, solver: str) -> tuple[HeadSolution | None, str | None]:
    """The solution, or why there is none; the head is then as it was."""
    args, solution, reason = trainer.args, None, None
    dataset = without_augmentation(trainer.train_dataset)
    give_back = _keep_head(model)
    try:
        options = extraction_options(args)
        solution = solve_head(model, dataset, trainer.processing_class, solver=solver, seed=args.seed, **options)
    except (ArgumentError, DataError, LayerGroupError, ModelError) as error:
        reason = str(error)
    reason = first_reason(reason)
    if reason is not None:
        give_back()
        return None, reason
    return solution, None


def _obstacle(trainer: Any, model: nn.Module, solver: str) -> str | None:
    """What of the trainer's settings needs steps."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or trainer.is_distributed_loading_by_transformers:
        return "the model is divided over processes."
    dataset, loss = trainer.train_dataset, trainer.compute_loss_func
    if not has_length(dataset) or not hasattr(dataset, "__getitem__"):
        return "the training data have no length."
    own_loss = loss is not None and not type(loss).__module__.startswith(_OURS)
    if own_loss or not type(trainer).compute_loss.__module__.startswith(_OURS):
        return "the run has a loss of its own, which the solver does not know."
    if configured(model, "problem_type") not in (None, "single_label_classification"):
        return f"its labels are for {model.config.problem_type}."  # type: ignore[union-attr]
    if any(p.dtype != torch.float32 for p in model.parameters() if p.is_floating_point()):
        return "its weights are not in float32."
    return _obstacle_of_data(without_augmentation(dataset), model, solver)


def _obstacle_of_data(dataset: Any, model: nn.Module, solver: str) -> str | None:
    try:
        size = len(dataset) * sum(part.channels for part in classifiers(model))
        labels = configured(model, "num_labels") or 1
        long = solver in ("logistic", "svm") and size * labels > _LARGEST_FIT
        if solver != "sgd" and (long or 4 * size > _LARGEST_FEATURES):
            return f"{len(dataset):,} images and {labels:,} classes are too many to solve in a few minutes."
        if changes_at_random(dataset):
            return "the training transform is random, and not one of hf_transfer.data.train_transform."
    except (ArgumentError, DataError, LayerGroupError, ModelError) as error:
        return str(error)
    return None


def _keep_head(model: nn.Module) -> Callable[[], None]:
    """Remember the head's tensors; the result writes them back."""
    modules = wrap(model).head.module_names
    own = {n: p.data for n, p in model.named_parameters()} | dict(model.named_buffers())
    kept = {name: tensor.clone() for name, tensor in own.items() if is_inside(name, modules)}

    @torch.no_grad()
    def give_back() -> None:
        for name, value in kept.items():
            own[name].copy_(value)

    return give_back
