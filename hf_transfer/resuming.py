"""Resuming: what a checkpoint must agree in with the run that goes on from it, and optimizer state matched by name."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import TrainerState

from hf_transfer.checkpoints import TRAINER_STATE
from hf_transfer.errors import PlanError
from hf_transfer.freezing import named_parameters
from hf_transfer.phases import ResolvedPlan
from hf_transfer.plan import TransferPlan
from hf_transfer.registry import architecture_name
from hf_transfer.schedules import set_rates

logger = logging.getLogger(__name__)

STATE_FILE = "transfer_state.json"
_SAMPLES = 8


@dataclass(frozen=True)
class RunState:
    """What `transfer_state.json` in a checkpoint holds, beside what Trainer saves.

    Attributes:
        plan: The plan, as plain data.
        architecture: Name of the model's architecture.
        shapes: Shape of each parameter.
        data: Fingerprint of the training data, by part.
        batch_size: Images in one optimizer step, over all processes.
        learning_rate: Of the training arguments.
        starts: First step of each phase that had begun, or begins at the checkpoint's step.
        best_of_phase: The best value of `metric_for_best_model` in the current phase, for early stopping.
        patience: Evaluations without improvement that each early stopping callback has counted.
        solved_phase: How the head was solved, where the first phase was; see `hf_transfer.solved_phase`.
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
    solved_phase: dict[str, Any] | None = None

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
            data = {"solved_phase": None} | json.loads(path.read_text(encoding="utf-8"))
            known = {field.name: data[field.name] for field in fields(cls)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PlanError(
                f"{path.parent.name} cannot be resumed: its {STATE_FILE} is missing or unreadable ({error}). Resume "
                "from a checkpoint that TransferTrainer saved with a plan, or load its weights as the model."
            ) from error
        return cls(**known | {name: tuple(known[name]) for name in ("starts", "patience")})


def run_state(
    plan: TransferPlan, model: nn.Module, dataset: Any, batch_size: int, learning_rate: float, fingerprint: str | None
) -> RunState:
    """The state of a run before its first step.

    Args:
        plan: The plan.
        model: The model, not wrapped.
        dataset: The training data.
        batch_size: Images in one optimizer step.
        learning_rate: Of the training arguments.
        fingerprint: Of the training data, where the caller knows a better one than `data_fingerprint`.
    """
    data = data_fingerprint(dataset) if fingerprint is None else {"fingerprint": fingerprint}
    shapes = {name: list(parameter.shape) for name, parameter in named_parameters(model)}
    return RunState(plan.to_dict(), architecture_name(model), shapes, data, batch_size, learning_rate)


def data_fingerprint(dataset: Any) -> dict[str, Any]:
    """A cheap description of training data that is the same in every process and on every machine.

    Length and class for any data set with a length; for those of `datasets` also columns, and a hash of all labels
    and of eight rows as they are stored, whatever transform is set. Not `Dataset._fingerprint`, which may depend on
    paths, on modification times or on chance.
    """
    found: dict[str, Any] = {"type": type(dataset).__name__}
    if hasattr(dataset, "__len__"):
        found["length"] = len(dataset)
    columns = getattr(dataset, "column_names", None)
    if isinstance(columns, list) and hasattr(dataset, "with_format") and "length" in found:
        found["columns"] = sorted(columns)
        plain = dataset.with_format("arrow")
        spaced = sorted({i * (len(dataset) - 1) // (_SAMPLES - 1) for i in range(_SAMPLES)}) if len(dataset) else []
        rows = plain[spaced].to_pylist() if spaced else []
        labels = [plain.select_columns(name)[:][name].to_pylist() for name in ("label", "labels") if name in columns]
        content = json.dumps([_without_folders(rows), labels], default=_text_of, sort_keys=True)
        found["content"] = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    return found


def _text_of(value: Any) -> str:
    return hashlib.blake2b(value).hexdigest() if isinstance(value, bytes) else str(value)


def _without_folders(value: Any) -> Any:
    """Images are stored with their path, which is another one on another machine."""
    if isinstance(value, Mapping):
        return {
            k: Path(v).name if k == "path" and isinstance(v, str) else _without_folders(v) for k, v in value.items()
        }
    return [_without_folders(item) for item in value] if isinstance(value, list) else value


def differences(then: RunState, now: RunState) -> tuple[list[str], list[str]]:
    """What a checkpoint and the run that resumes it do not agree in, in words.

    Learning rate, length and schedule of the training arguments may differ: the resumed run follows its own.

    Returns:
        Differences of the model, which rule resuming out, and those of plan and data.
    """
    model = []
    if then.architecture != now.architecture:
        model.append(f"the model was {then.architecture}, is {now.architecture}")
    elif then.shapes != now.shapes:
        names = [n for n in {**then.shapes, **now.shapes} if then.shapes.get(n) != now.shapes.get(n)]
        shown = [f"{n} was {then.shapes.get(n, 'absent')}, is {now.shapes.get(n, 'absent')}" for n in names[:4]]
        model.append("; ".join(shown) + (f"; and {len(names) - 4} more parameters" if len(names) > 4 else ""))
    rest = _plan_differences(then.plan, now.plan)
    if then.data != now.data:
        parts = [key for key in {**then.data, **now.data} if then.data.get(key) != now.data.get(key)]
        shown = [f"{key} was {then.data.get(key)}, is {now.data.get(key)}" for key in parts]
        rest.append(f"the training data: {', '.join(shown)}")
    if then.batch_size != now.batch_size:
        rest.append(f"images per step were {then.batch_size}, are {now.batch_size}")
    return model, rest


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


def check_same_run(then: RunState, now: RunState, checkpoint: str | Path, allow_change: bool) -> bool:
    """Check that a run may go on from a checkpoint.

    Returns:
        Whether it goes on exactly; False where plan or data differ and that is allowed.

    Raises:
        PlanError: Shows every difference.
    """
    model, rest = differences(then, now)
    if not model and not rest:
        return True
    if model or not allow_change:
        advice = (
            "Start a new run in another output folder, from the checkpoint as model_name_or_path if its weights fit."
            if model
            else "Resume with what it was saved under (the plan is in its transfer_plan.json), start a new run in "
            "another output folder, or pass --allow_plan_change to start the next phase fresh from its weights."
        )
        raise PlanError(
            f"{Path(checkpoint).name} was saved under another {_topic(model, then, now)}. Different: "
            f"{'; '.join([*model, *rest])}. {advice}"
        )
    return False


def _topic(model: Sequence[str], then: RunState, now: RunState) -> str:
    if model:
        return "model"
    return "plan" if _plan_differences(then.plan, now.plan) else "set of training data"


@dataclass(frozen=True)
class Resumption:
    """A checkpoint that a run goes on from.

    Attributes:
        state: What the checkpoint's `transfer_state.json` says.
        step: Optimizer steps done.
        exact: Whether plan and data are the same; if not, a phase is started fresh from the checkpoint's weights.
    """

    state: RunState
    step: int
    exact: bool

    def place(self, resolved: ResolvedPlan) -> ResolvedPlan:
        """Put the phases where they were in the interrupted run."""
        repeated = len(self.state.starts) if self.exact else self._first_to_repeat(resolved.plan)
        for index, start in enumerate(self.state.starts[: repeated + 1]):
            resolved = resolved.begin_at(index, start)
        return resolved if self.exact else resolved.begin_at(repeated, self.step)

    def check_schedule(self, scheduler: Any, learning_rate: float) -> None:
        """Check that the schedule can follow a learning rate that was changed.

        Raises:
            PlanError: The schedule is no function of the step, so that it must go on from the rates it had.
        """
        if learning_rate == self.state.learning_rate:
            return
        if not isinstance(scheduler, LambdaLR):
            raise PlanError(
                f"The learning rate was {self.state.learning_rate:g} and is {learning_rate:g}, but this schedule "
                f"({type(scheduler).__name__}) goes on from the rates it had. Resume with the old learning rate."
            )
        logger.warning("The learning rate was %g and is %g from here on.", self.state.learning_rate, learning_rate)

    def _first_to_repeat(self, plan: TransferPlan) -> int:
        """The phase of a changed plan that is started fresh: the first that was not finished in the same form."""
        before = TransferPlan.from_dict(self.state.plan).phases
        # The last start is that of the phase which the checkpoint is in, or which begins with it.
        finished = len(self.state.starts) - 1
        same = 0
        while same < min(finished, len(plan.phases) - 1) and before[same] == plan.phases[same]:
            same += 1
        return same


def read_resumption(checkpoint: str | Path, now: RunState, allow_change: bool) -> Resumption:
    """Read a checkpoint's state and check that the run may go on from it.

    Args:
        checkpoint: The folder.
        now: State of the run that would go on.
        allow_change: Whether plan and data may be others.

    Raises:
        PlanError: They do not fit; every difference is shown.
    """
    path = Path(checkpoint)
    if not (path / TRAINER_STATE).is_file():
        raise PlanError(f"{path.name} is no complete checkpoint: it has no {TRAINER_STATE}. Resume from another one.")
    then = RunState.load(path)
    exact = check_same_run(then, now, path, allow_change)
    return Resumption(then, TrainerState.load_from_json(str(path / TRAINER_STATE)).global_step, exact)


def load_training_state(optimizer: Any, scheduler: Any, checkpoint: str | Path) -> None:
    """Load optimizer and schedule of a run that goes on exactly.

    Args:
        optimizer: Takes over the state that the file has for its parameters, by name.
        scheduler: A function of the step is put at the checkpoint's step and keeps its own rates; any other one takes
            over its state, and the optimizer its rates.
        checkpoint: The folder.

    Raises:
        PlanError: There is no optimizer state, or it does not fit.
    """
    files = [Path(checkpoint) / name for name in (OPTIMIZER_NAME, SCHEDULER_NAME)]
    if not all(path.is_file() for path in files):
        raise PlanError(
            f"{Path(checkpoint).name} has no optimizer state (it was saved with save_only_model) and cannot be "
            "resumed exactly. Pass --allow_plan_change to start the next phase fresh from its weights."
        )
    saved, schedule = (torch.load(path, map_location="cpu", weights_only=True) for path in files)
    load_optimizer_state(optimizer, saved, checkpoint)
    if isinstance(scheduler, LambdaLR):
        set_rates(scheduler, optimizer, schedule["last_epoch"])
        return
    scheduler.load_state_dict(schedule)
    rates = {group["name"]: group["lr"] for group in saved["param_groups"]}
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]]


def load_optimizer_state(optimizer: Any, saved: Mapping[str, Any], checkpoint: str | Path) -> None:
    """Load the state of an optimizer by the names and shapes of its parameters.

    Learning rates and weight decay stay those of the present run. State of parameters that the present plan never
    trains is left out.

    Args:
        optimizer: Its groups have `param_names`.
        saved: A state dict whose groups have `param_names`.
        checkpoint: For messages.

    Raises:
        PlanError: Names are missing in the file, or a parameter has another shape.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    if not all("param_names" in group for group in saved["param_groups"]):
        raise PlanError(
            f"The optimizer state in {Path(checkpoint).name} has no parameter names, so that it cannot be matched "
            "safely. Start a new run from the checkpoint's weights."
        )
    by_name = {
        name: saved["state"].get(index)
        for group in saved["param_groups"]
        for name, index in zip(group["param_names"], group["params"], strict=True)
    }
    present = inner.state_dict()
    state = {}
    for group, live in zip(present["param_groups"], inner.param_groups, strict=True):
        for name, index, parameter in zip(live["param_names"], group["params"], live["params"], strict=True):
            values = by_name.get(name)
            if values is not None:
                _check_shapes(name, values, parameter, checkpoint)
                state[index] = values
    inner.load_state_dict({"state": state, "param_groups": present["param_groups"]})


def _check_shapes(name: str, values: Mapping[str, Any], parameter: torch.Tensor, checkpoint: str | Path) -> None:
    for key, value in values.items():
        if isinstance(value, torch.Tensor) and value.ndim == parameter.ndim and value.shape != parameter.shape:
            raise PlanError(
                f"The optimizer state {key} of {name} in {Path(checkpoint).name} has the shape {list(value.shape)}, "
                f"the parameter {list(parameter.shape)}. Start a new run from the checkpoint's weights."
            )
