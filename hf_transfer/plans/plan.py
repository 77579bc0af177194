"""Plans: what is trained, at which learning rates, for how long; plain data with an exact JSON round trip."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.selectors import Selector, check_selector, select_groups
from hf_transfer.errors import OutputError, PlanError

if TYPE_CHECKING:
    from torch import nn

NormMode = Literal["eval", "train"]
Schedule = Literal["phase", "run"]
Init = Literal["pretrained", "random"]
HeadSolver = Literal["logistic", "svm", "ridge", "sgd"]
HEAD_SOLVERS: tuple[str, ...] = ("logistic", "svm", "ridge", "sgd")


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which the set of trained parameters does not change.

    Attributes:
        name: Shown in logs, tables and the card.
        train: Selector of what is trained: "head", "all", "last:K" (the head and the last K other groups), "blocks:K"
            (the last K blocks and all behind them), "from:NAME", "only:NAME", "only:I-J", "part:first",
            "part:middle" or "part:last" (a third of the blocks), "part:half" or "part:most" (the last half or two
            thirds), "norm", "bias", "re:REGEX", or a tuple of these.
        epochs: Length in epochs; None takes `num_train_epochs` of the training arguments.
        max_steps: Length in optimizer steps instead of epochs.
        learning_rate: Peak learning rate of pretrained layers; None takes `learning_rate` of the training arguments.
        head_lr_ratio: The head's learning rate over `learning_rate`. 1 by default; about 10 suits a new head on
            pretrained layers.
        layer_decay: Factor from each block to the one before it: the last block trains at `learning_rate *
            layer_decay`, the one before at `learning_rate * layer_decay**2`, and so on to the stem; neck and head
            are not decayed. 1 (off) by default; 0.65 to 0.9 is usual for transformers.
            Source: https://arxiv.org/abs/2106.08254 (BEiT), as timm counts layers.
        weight_decay: None takes `weight_decay` of the training arguments. Biases, norms and tokens are never decayed.
        warmup: Below 1 a fraction of the phase's steps, else a number of steps; None takes `warmup_steps` of the
            training arguments, which counts in the same way.
        lr_scheduler_type: Name of a transformers scheduler; None takes that of the training arguments.
        norm: What batch normalisation does in trained groups: "eval" keeps the pretrained statistics (the default:
            it is better on small data and small batches), "train" adapts them. In frozen groups it is always "eval".
        reset_optimizer: Forget the optimizer's state (Adam's moments) when the phase begins. False by default: moments
            of parameters that an earlier phase trained are carried over.
        head_solver: "logistic", "svm", "ridge" or "sgd" solve the head on features that are computed once: the phase
            takes no steps. Only for `train="head"` in the first of several phases. Where a head cannot be solved, it
            is trained by steps, for which the other fields are. None trains by steps. A solver knows no label
            smoothing: `label_smoothing_factor` counts from the next phase on.
        average_from: If set, the phase leaves the mean of its weights over its steps, from this share of them on; 0
            to below 1, where about the end of the warm-up suits. It takes out much of the noise of few images, and
            of high learning rates. Evaluations and checkpoints within the phase are of the mean so far. None leaves
            the weights of the last step. Source: https://arxiv.org/abs/1803.05407
    """

    name: str
    train: Selector
    epochs: float | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    head_lr_ratio: float = 1.0
    layer_decay: float = 1.0
    weight_decay: float | None = None
    warmup: float | None = None
    lr_scheduler_type: str | None = None
    norm: NormMode = "eval"
    reset_optimizer: bool = False
    head_solver: HeadSolver | None = None
    average_from: float | None = None

    def __post_init__(self) -> None:
        train: Any = self.train  # JSON has lists
        if isinstance(train, list):
            object.__setattr__(self, "train", tuple(train))
        if not isinstance(self.name, str) or not self.name.strip() or not self.name.isprintable():
            raise PlanError(f"A phase needs a name of one line, found {self.name!r}.")
        check_selector(self.train)
        if self.epochs is not None and self.max_steps is not None:
            raise PlanError(f"Phase {self.name!r}: give epochs or max_steps, not both.")
        if self.norm not in ("eval", "train"):
            raise PlanError(f'Phase {self.name!r}: norm is "eval" or "train", found {self.norm!r}.')
        if not isinstance(self.reset_optimizer, bool):
            raise PlanError(f"Phase {self.name!r}: reset_optimizer is true or false, found {self.reset_optimizer!r}.")
        if self.max_steps is not None and (not isinstance(self.max_steps, int) or isinstance(self.max_steps, bool)):
            raise PlanError(f"Phase {self.name!r}: max_steps is a whole number, found {self.max_steps!r}.")
        self._check_solver()
        for field_name in ("epochs", "max_steps", "learning_rate", "head_lr_ratio", "layer_decay"):
            self._check_number(field_name, positive=True)
        for field_name in ("weight_decay", "warmup", "average_from"):
            self._check_number(field_name, positive=False)
        self._check_average()
        if self.layer_decay > 1:
            raise PlanError(f"Phase {self.name!r}: layer_decay is at most 1, found {self.layer_decay}.")
        if self.warmup is not None and self.warmup > 1 and self.warmup != int(self.warmup):
            raise PlanError(
                f"Phase {self.name!r}: warmup is a fraction below 1 or a whole number of steps, found {self.warmup}."
            )
        if self.lr_scheduler_type is not None and not isinstance(self.lr_scheduler_type, str):
            raise PlanError(
                f"Phase {self.name!r}: lr_scheduler_type is the name of a scheduler, found {self.lr_scheduler_type!r}."
            )

    def _check_solver(self) -> None:
        if self.head_solver not in (None, *HEAD_SOLVERS):
            raise PlanError(
                f"Phase {self.name!r}: head_solver is one of {', '.join(HEAD_SOLVERS)} or nothing, found "
                f"{self.head_solver!r}."
            )
        if self.head_solver is not None and self.train not in ("head", ("head",)):
            raise PlanError(
                f"Phase {self.name!r}: head_solver {self.head_solver!r} solves the head alone, but the phase trains "
                f'{self.train!r}. Set train="head", or leave head_solver out.'
            )

    def _check_average(self) -> None:
        if self.average_from is None:
            return
        if not self.average_from < 1:
            raise PlanError(
                f"Phase {self.name!r}: average_from is a share of the phase's steps, 0 to below 1, found "
                f"{self.average_from}."
            )
        if self.norm == "train" or self.head_solver is not None:
            raise PlanError(
                f'Phase {self.name!r}: weights are averaged only with norm="eval" and without head_solver: the '
                "statistics of batch normalisation would be those of other weights, and a solved head takes no steps."
            )

    def _check_number(self, field_name: str, positive: bool) -> None:
        value = vars(self)[field_name]
        if value is None and field_name not in ("head_lr_ratio", "layer_decay"):
            return
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= sys.float_info.max or (positive and value == 0):
            what = "positive" if positive else "not negative"
            raise PlanError(f"Phase {self.name!r}: {field_name} must be a number and {what}, found {value!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; fields at their default are kept, so that a file says all."""
        data = asdict(self)
        return data | {"train": list(self.train)} if isinstance(self.train, tuple) else data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Phase:
        """Inverse of `to_dict`.

        Raises:
            PlanError: A field is unknown, missing or invalid.
        """
        return cls(**_known_fields(cls, data, required=("name", "train")))


@dataclass(frozen=True)
class TransferPlan:
    """A sequence of phases.

    Attributes:
        phases: In the order in which they run.
        recipe: Name of the recipe that made the plan; "custom" for one made by hand.
        init: "pretrained" keeps the model's weights, "random" draws new ones before the first phase.
        architecture: If set, the only architecture that the plan may be used for, as in
            `hf_transfer.architectures.lookup.architecture_name`; set in the `transfer_plan.json` of a run.
        schedule: "phase" gives each phase its own warm-up and decay, "run" lays one warm-up and decay over all phases,
            those of the training arguments; each phase's rates are then the peaks that the schedule scales.
    """

    phases: tuple[Phase, ...]
    recipe: str = "custom"
    init: Init = "pretrained"
    architecture: str | None = None
    schedule: Schedule = "phase"

    def __post_init__(self) -> None:
        phases: Any = self.phases
        if isinstance(phases, list):
            object.__setattr__(self, "phases", tuple(phases))
        is_tuple = isinstance(self.phases, tuple)
        if not is_tuple or not self.phases or not all(isinstance(phase, Phase) for phase in self.phases):
            raise PlanError(f"A plan has a tuple of at least one Phase, found {phases!r}.")
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise PlanError(f"Phases need different names, found {names}.")
        if self.init not in ("pretrained", "random"):
            raise PlanError(f'init is "pretrained" or "random", found {self.init!r}.')
        self._check_schedule()
        self._check_solved()
        if not isinstance(self.recipe, str) or not isinstance(self.architecture, str | None):
            raise PlanError(
                f"A plan's recipe and architecture are text, found {self.recipe!r} and {self.architecture!r}."
            )

    def _check_schedule(self) -> None:
        if self.schedule not in ("phase", "run"):
            raise PlanError(f'schedule is "phase" or "run", found {self.schedule!r}.')
        own = [p.name for p in self.phases if p.warmup is not None or p.lr_scheduler_type is not None]
        if self.schedule == "run" and own:
            raise PlanError(
                'With schedule="run" warm-up and schedule are those of the training arguments; take warmup and '
                f"lr_scheduler_type out of the phases {', '.join(own)}."
            )

    def _check_solved(self) -> None:
        solved = [index for index, phase in enumerate(self.phases) if phase.head_solver is not None]
        if not solved:
            return
        if solved != [0] or len(self.phases) == 1:
            raise PlanError(
                "head_solver is for the first of several phases, found "
                f"{', '.join(repr(self.phases[index].name) for index in solved)} of {len(self.phases)}. A head alone "
                "is solved by LinearProbeTrainer, or by the recipe linear_probe on the command line."
            )
        if self.schedule == "run":
            raise PlanError('A phase with head_solver takes no steps, so that schedule="run" cannot count it.')

    def describe(self, model: nn.Module, learning_rate: float | None = None) -> str:
        """Return a table with one row per layer group of `model`.

        Args:
            model: The model that the plan would train.
            learning_rate: For phases that take theirs from the training arguments; without it their columns show
                multiples of it, such as "10x".

        Raises:
            SelectorError: A phase selects nothing in this model.
            PlanError: The plan is for another architecture.
        """
        from hf_transfer.architectures.lookup import architecture_name, wrap
        from hf_transfer.architectures.norms import norm_parameter_names

        self.check_architecture(architecture_name(model))
        groups = wrap(model).layer_groups
        counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
        return describe(self, groups, counts, norm_parameter_names(model), learning_rate)

    def check_architecture(self, architecture: str) -> None:
        """Refuse a model that the plan was not made for.

        Raises:
            PlanError: Names both architectures.
        """
        if self.architecture is not None and self.architecture != architecture:
            raise PlanError(
                f"The plan was made for {self.architecture}, the model is {architecture}. Use a recipe, or a plan "
                "without `architecture`."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "recipe": self.recipe,
            "init": self.init,
            "architecture": self.architecture,
            "schedule": self.schedule,
            "phases": [phase.to_dict() for phase in self.phases],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TransferPlan:
        """Inverse of `to_dict`; also takes the content of a run's `transfer_plan.json`.

        Raises:
            PlanError: A field is unknown, missing or invalid.
        """
        if not isinstance(data, Mapping):
            raise PlanError(f"A plan is a JSON object, found {type(data).__name__}.")
        if "plan" in data:
            return cls.from_dict(data["plan"])
        known = _known_fields(cls, data, required=("phases",))
        if not isinstance(known["phases"], list | tuple):
            raise PlanError(f"A plan's phases are a list, found {type(known['phases']).__name__}.")
        return cls(**known | {"phases": tuple(Phase.from_dict(phase) for phase in known["phases"])})

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON.

        Raises:
            OutputError: The file cannot be written.
        """
        try:
            Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"The plan cannot be written to {path}: {error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> TransferPlan:
        """Read a plan from JSON, or from the `transfer_plan.json` of a run.

        Raises:
            PlanError: The file is missing, is not JSON or is not a plan.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PlanError(f"No plan can be read from {path}: {error}.") from error
        return cls.from_dict(data)


def group_learning_rates(groups: Sequence[LayerGroup], phase: Phase, learning_rate: float) -> tuple[float, ...]:
    """Learning rate of each layer group in a phase, before anything is frozen.

    The decay is counted over all groups, trained or not, so that freezing some does not move the others' rates.

    Args:
        groups: All groups of a model, from input to output.
        phase: Its `learning_rate`, `head_lr_ratio` and `layer_decay` apply.
        learning_rate: Used where the phase has none.

    Raises:
        PlanError: The rate is not above 0.
    """
    base = phase.learning_rate if phase.learning_rate is not None else learning_rate
    if not base > 0:
        raise PlanError(
            f"Phase {phase.name!r} trains at a learning rate of {base}; it must be above 0. Give learning_rate to "
            "the phase or to the training arguments; what is not to be trained is left out of `train`."
        )
    body = [g.index for g in groups if g.role in ("stem", "block")]
    rates = []
    for group in groups:
        depth = sum(index >= group.index for index in body) if group.role in ("stem", "block") else 0
        ratio = phase.head_lr_ratio if group.role == "head" else 1.0
        rates.append(base * ratio * phase.layer_decay**depth)
    return tuple(rates)


def describe(
    plan: TransferPlan,
    groups: Sequence[LayerGroup],
    parameter_counts: Mapping[str, int],
    norm_parameters: Collection[str] = (),
    learning_rate: float | None = None,
) -> str:
    """The table of `TransferPlan.describe`, from plain data."""
    trained = [{g.index: g for g in select_groups(groups, phase.train, norm_parameters)} for phase in plan.phases]
    rates = [
        group_learning_rates(groups, phase, 1.0 if learning_rate is None else learning_rate) for phase in plan.phases
    ]
    rows = [("#", "group", "role", "parameters", *(phase.name for phase in plan.phases))]
    for group in groups:
        cells = [str(group.index), group.name, group.role, f"{_count(group, parameter_counts):,}"]
        for phase, chosen, phase_rates in zip(plan.phases, trained, rates, strict=True):
            relative = learning_rate is None and phase.learning_rate is None
            if phase.head_solver is not None and group.index in chosen:
                cells.append(f"solved ({phase.head_solver})")
                continue
            cells.append(_cell(chosen.get(group.index), group, phase_rates[group.index], relative))
        rows.append(tuple(cells))
    totals = [f"{sum(_count(g, parameter_counts) for g in chosen.values()):,} trained" for chosen in trained]
    rows.append(("", "total", "", f"{sum(parameter_counts.values()):,}", *totals))
    return align(rows)


def _cell(chosen: LayerGroup | None, group: LayerGroup, rate: float, relative: bool) -> str:
    if chosen is None:
        return "frozen"
    text = f"{rate:.3g}x" if relative else f"{rate:.3g}"
    partly = len(chosen.parameter_names) < len(group.parameter_names)
    return f"{text} ({len(chosen.parameter_names)} of {len(group.parameter_names)} tensors)" if partly else text


def _count(group: LayerGroup, parameter_counts: Mapping[str, int]) -> int:
    return sum(parameter_counts[name] for name in group.parameter_names)


def align(rows: Sequence[Sequence[str]]) -> str:
    """A plain-text table of rows whose first is the heading; index and parameter columns are set to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = (0, 3)
    lines = [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join(line.rstrip() for line in (lines[0], rule, *lines[1:]))


def _known_fields(cls: type[Any], data: Mapping[str, Any], required: tuple[str, ...]) -> dict[str, Any]:
    what = "phase" if cls is Phase else "plan"
    if not isinstance(data, Mapping):
        raise PlanError(f"A {what} is a JSON object, found {data!r}.")
    known = {field.name for field in fields(cls)}
    unknown, missing = sorted(map(str, set(data) - known)), sorted(set(required) - set(data))
    if unknown or missing:
        found = "; ".join(f"{k}: {', '.join(v)}" for k, v in {"unknown": unknown, "missing": missing}.items() if v)
        raise PlanError(f"A {what} has the fields {', '.join(sorted(known))}; {found}.")
    return dict(data)
