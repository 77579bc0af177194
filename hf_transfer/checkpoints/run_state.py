"""What a checkpoint says of the run that it is of, and how two runs differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments

from hf_transfer.architectures.lookup import architecture_name
from hf_transfer.data.identity import data_identity, transform_description
from hf_transfer.errors import PlanError
from hf_transfer.plans.plan import TransferPlan
from hf_transfer.run_files import STATE_FILE
from hf_transfer.utils.foreign import stated
from hf_transfer.utils.modules import named_parameters

# What decides which images a step sees, and what is drawn at random.
_DRAWN = ("seed", "data_seed", "dataloader_drop_last", "train_sampling_strategy")
# What a resumed run may change: it continues with the new value.
_FOLLOWED = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "weight_decay", "max_grad_norm"),
    *("label_smoothing_factor", "bf16", "fp16", "cache_features", "cache_views"),
)
# Where learning rates come from: an entry of `followed`.
RATE, MEASURED = "learning_rate", "auto"
# What files of an earlier version lack in `data`.
_LATER = ("values", "labels")


@dataclass(frozen=True)
class RunState:
    """What `transfer_state.json` in a checkpoint holds, in addition to what Trainer saves.

    Attributes:
        plan: The plan, as plain data.
        architecture: Name of the model's architecture.
        shapes: Shape of each parameter.
        data: Fingerprint of the training data, by part.
        batch_size: Images in one optimizer step, over all processes.
        learning_rate: `learning_rate` of the training arguments.
        starts: First step of each phase that had begun, or begins at the checkpoint's step.
        best_of_phase: The best value of `metric_for_best_model` in the current phase, for early stopping.
        patience: Evaluations without improvement that each early stopping callback has counted.
        cached: Whether the feature cache was used in the current phase; None where that was not decided.
        finished: How many phases are finished. None here and below: the file is of a version that did not tell.
        optimizer: Its class, and its options except the learning rate.
        drawn: Arguments that decide which images a step sees, and what is drawn at random: seeds and sampling.
        transform: Transform and collator, in words.
        followed: Arguments that a resumed run may change.
        solved_phase: How the head was solved, where the first phase was; see `hf_transfer.trainer.solved_phase`.
        averaged: Number of steps averaged into the checkpoint's weights; 0 if none.
    """

    plan: dict[str, Any]
    architecture: str
    shapes: dict[str, list[int]]
    data: dict[str, Any]
    batch_size: int
    learning_rate: float
    starts: tuple[int, ...] = (0,)
    best_of_phase: float | None = None
    patience: tuple[int, ...] = ()
    cached: bool | None = None
    finished: int | None = None
    optimizer: dict[str, Any] | None = None
    drawn: dict[str, Any] | None = None
    transform: str | None = None
    followed: dict[str, Any] | None = None
    solved_phase: dict[str, Any] | None = None
    averaged: int = 0

    def save(self, checkpoint: Path) -> None:
        """Write the file."""
        (checkpoint / STATE_FILE).write_text(json.dumps({"schema": 1} | asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: str | Path) -> RunState:
        """Read the file.

        Raises:
            PlanError: It is missing or unreadable: the checkpoint was not saved by `TransferTrainer` with a plan.
        """
        path = Path(checkpoint) / STATE_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            # Files of before a field existed mean its default.
            known = {f.name: data[f.name] for f in fields(cls) if f.name in data or f.default is MISSING}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PlanError(
                f"{path.parent.name} cannot be resumed: its {STATE_FILE} is missing or unreadable ({error}). Resume "
                "from a checkpoint that TransferTrainer saved with a plan, or load its weights as the model."
            ) from error
        return cls(**known | {name: tuple(known[name]) for name in ("starts", "patience") if name in known})


def run_state(
    plan: TransferPlan,
    model: nn.Module,
    dataset: Any,
    args: TrainingArguments,
    batch_size: int,
    optimizer: tuple[type, Mapping[str, Any]],
    collator: Any = None,
    data: dict[str, Any] | None = None,
    measures_rates: bool = False,
) -> RunState:
    """The state of a run before its first step.

    Args:
        plan: The plan.
        model: The model, not wrapped.
        dataset: The training data.
        args: The training arguments.
        batch_size: Images in one optimizer step, over all processes.
        optimizer: Its class and options.
        collator: Makes batches of the training data.
        data: Identity of the training data, where the caller knows a better one than `data_identity`.
        measures_rates: Whether the learning rates are measured; that of `args` is then only where that fails.
    """
    return RunState(
        plan=plan.to_dict(),
        architecture=architecture_name(model),
        shapes={name: list(parameter.shape) for name, parameter in named_parameters(model)},
        data=data_identity(dataset) if data is None else data,
        batch_size=batch_size,
        learning_rate=args.learning_rate,
        optimizer=_plain({"class": getattr(optimizer[0], "__name__", str(optimizer[0]))} | _options(optimizer[1])),
        drawn=_plain(stated(args, _DRAWN)),
        transform=transform_description(dataset, collator),
        followed=_plain(stated(args, _FOLLOWED)) | {RATE: MEASURED if measures_rates else "a number"},
    )


def differences(then: RunState, now: RunState) -> dict[str, list[str]]:
    """What a checkpoint and the run that resumes it must agree in and do not, in words, by topic.

    Learning rate, length and schedule of the training arguments may differ: the resumed run follows its own. What a
    file does not tell, since it is of an earlier version, is no difference.

    Returns:
        A difference of "model" rules resuming out; the others may be allowed.
    """
    model = []
    if then.architecture != now.architecture:
        model.append(f"the model was {then.architecture}, is {now.architecture}")
    elif then.shapes != now.shapes:
        names = [n for n in {**then.shapes, **now.shapes} if then.shapes.get(n) != now.shapes.get(n)]
        shown = [f"{n} was {then.shapes.get(n, 'absent')}, is {now.shapes.get(n, 'absent')}" for n in names[:4]]
        model.append("; ".join(shown) + (f"; and {len(names) - 4} more parameters" if len(names) > 4 else ""))
    told = {key: value for key, value in now.data.items() if key not in _LATER or key in then.data}
    data = [f"{text} (training data)" for text in _changed(then.data, told)]
    if then.transform is not None and then.transform != now.transform:
        data.append(f"transform and collator were {then.transform or 'none'!r}, are {now.transform or 'none'!r}")
    if then.batch_size != now.batch_size:
        data.append(f"images per step were {then.batch_size}, are {now.batch_size}")
    found = {
        "model": model,
        "plan": _plan_differences(then.plan, now.plan),
        "set of training data": data,
        "optimizer": [f"{text} (optimizer)" for text in _changed(then.optimizer, now.optimizer)],
        "seed or order of images": _changed(then.drawn, now.drawn),
    }
    return {topic: texts for topic, texts in found.items() if texts}


def followed_differences(then: RunState, now: RunState) -> list[str]:
    """What a resumed run changes and may, though it ends in other weights than with the old values."""
    return _changed(then.followed, now.followed)


def _changed(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    if then is None or now is None:
        return []
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return [f"{key} was {then.get(key, 'absent')}, is {now.get(key, 'absent')}" for key in keys]


def _options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an optimizer without the learning rate, and without models and parameters, which some are given."""
    return {key: value for key, value in kwargs.items() if key not in ("lr", "params", "model", "optimizer_dict")}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they come back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def _plan_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    # Files of before a field existed mean its default.
    before, after = (TransferPlan.from_dict(plan).to_dict() for plan in (then, now))
    found = [
        f"{key} was {before[key]!r}, is {after[key]!r}" for key in ("init", "schedule") if before[key] != after[key]
    ]
    names = [[phase["name"] for phase in plan["phases"]] for plan in (before, after)]
    if names[0] != names[1]:
        return [*found, f"phases were {', '.join(names[0])}, are {', '.join(names[1])}"]
    for old, new in zip(before["phases"], after["phases"], strict=True):
        found += [
            f"{key} of phase {old['name']!r} was {old[key]!r}, is {new[key]!r}" for key in old if old[key] != new[key]
        ]
    return found
