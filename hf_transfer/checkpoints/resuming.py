"""Resuming: a checkpoint is compared with the run that resumes it, and optimizer state is matched by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import TrainerState

from hf_transfer.checkpoints.folders import recover
from hf_transfer.checkpoints.run_state import MEASURED, RATE, RunState, differences, followed_differences
from hf_transfer.errors import PlanError
from hf_transfer.phases.resolved import ResolvedPlan
from hf_transfer.phases.schedules import set_rates
from hf_transfer.plans.plan import TransferPlan
from hf_transfer.run_files import TRAINER_STATE
from hf_transfer.utils.foreign import inner_optimizer

logger = logging.getLogger(__name__)


def check_same_run(then: RunState, now: RunState, checkpoint: str | Path, allow_change: bool) -> bool:
    """Check that a run may resume from a checkpoint.

    Returns:
        Whether it resumes exactly; False where something else than the model differs and that is allowed.

    Raises:
        PlanError: Shows every difference.
    """
    found = differences(then, now)
    if not found:
        return True
    if "model" in found or not allow_change:
        advice = (
            "Start a new run in another output folder, from the checkpoint as model_name_or_path if its weights fit."
            if "model" in found
            else "Resume with what it was saved under (the plan is in its transfer_plan.json), start a new run in "
            "another output folder, or pass --allow_plan_change to start the next phase fresh from its weights."
        )
        shown = "; ".join(text for texts in found.values() for text in texts)
        raise PlanError(
            f"{Path(checkpoint).name} was saved under another {next(iter(found))}. Different: {shown}. {advice}"
        )
    return False


@dataclass(frozen=True)
class Resumption:
    """A checkpoint that a run resumes from.

    Attributes:
        state: What the checkpoint's `transfer_state.json` says.
        step: Optimizer steps done.
        exact: Whether it is the same run; if not, a phase is started fresh from the checkpoint's weights.
    """

    state: RunState
    step: int
    exact: bool

    def place(self, resolved: ResolvedPlan) -> ResolvedPlan:
        """Put the phases where they were in the interrupted run.

        Raises:
            PlanError: A phase should be started fresh, and all of the plan are finished.
        """
        repeated = len(self.state.starts) if self.exact else self._first_to_repeat(resolved.plan)
        if repeated == len(resolved.phases) and not self.exact:
            raise PlanError(
                f"All phases of the plan are finished at step {self.step}, so that none is left to start fresh. Add a "
                "phase to the plan, or start a new run in another output folder from the checkpoint's weights."
            )
        if self.state.solved_phase is not None and repeated:
            first = self.state.starts[0]
            resolved = resolved.begin_at(0, first).begin_at(1, first)  # it was solved, and so has no steps
        for index, start in enumerate(self.state.starts[: repeated + 1]):
            resolved = resolved.begin_at(index, start)
        if self.exact:
            return resolved
        # Of other data: what a phase had fewer steps for is not known, nor whether it came to averaging.
        begun = resolved.begin_at(repeated, self.step)
        finished = [
            replace(steps, planned=None, phase=replace(steps.phase, average_from=None))
            for steps in begun.phases[:repeated]
        ]
        ahead = [replace(steps, planned=None) for steps in begun.phases[repeated:]]
        return replace(begun, phases=(*finished, *ahead))

    def check_schedule(self, scheduler: Any, learning_rate: float, measured: bool = False) -> None:
        """Check that the schedule can follow a learning rate that was changed.

        Args:
            scheduler: The schedule of the run.
            learning_rate: `learning_rate` of its arguments.
            measured: Whether its rates are measured.

        Raises:
            PlanError: The schedule is no function of the step, so that it must continue from the rates it had.
        """
        was_measured = (self.state.followed or {}).get(RATE) == MEASURED
        if was_measured == measured and (measured or learning_rate == self.state.learning_rate):
            return
        was = MEASURED if was_measured else f"{self.state.learning_rate:g}"
        now = MEASURED if measured else f"{learning_rate:g}"
        if not isinstance(scheduler, LambdaLR):
            raise PlanError(
                f"The learning rate was {was} and is {now}, but this schedule ({type(scheduler).__name__}) continues "
                "from the rates it had. Resume with the old learning rate."
            )
        logger.warning("The learning rate was %s and is %s from here on.", was, now)

    def _first_to_repeat(self, plan: TransferPlan) -> int:
        """The phase of a changed plan that is started fresh: the first that was not finished in the same form."""
        before = TransferPlan.from_dict(self.state.plan).phases
        finished = self.state.finished
        if finished is None:  # the last start is that of the phase which the checkpoint is in, or which begins with it
            finished = min(len(self.state.starts), len(plan.phases)) - 1
        same = 0
        while same < min(finished, len(plan.phases)) and before[same] == plan.phases[same]:
            same += 1
        return same


def read_resumption(checkpoint: str | Path, now: RunState, allow_change: bool) -> Resumption:
    """Read a checkpoint's state and check that the run may resume from it.

    Args:
        checkpoint: The folder.
        now: State of the run that would resume.
        allow_change: Whether everything but the model may be another.

    Raises:
        PlanError: They do not fit; every difference is shown.
    """
    path = Path(checkpoint)
    recover(path.parent)
    if not (path / TRAINER_STATE).is_file():
        raise PlanError(f"{path.name} is no complete checkpoint: it has no {TRAINER_STATE}. Resume from another one.")
    then = RunState.load(path)
    exact = check_same_run(then, now, path, allow_change)
    for text in followed_differences(then, now):
        logger.warning("%s from here on.", text)
    return Resumption(then, TrainerState.load_from_json(str(path / TRAINER_STATE)).global_step, exact)


def load_training_state(optimizer: Any, scheduler: Any, checkpoint: str | Path) -> None:
    """Load optimizer and schedule of a run that resumes exactly.

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
    inner = inner_optimizer(optimizer)
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
