"""`TransferArguments`: transformers' `TrainingArguments` with the fields of transfer learning."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import dataclass, fields
from typing import Any, Literal

from transformers import TrainingArguments

from hf_transfer.errors import ArgumentError, PlanError
from hf_transfer.plans import recipes
from hf_transfer.plans.plan import TransferPlan
from hf_transfer.trainer.fields import AUTO, TransferFields, rate_or_auto

logger = logging.getLogger(__name__)

MemoryFormat = Literal["auto", "channels_last", "default"]


@dataclass
class TransferArguments(TransferFields, TrainingArguments):
    """Training arguments for `TransferTrainer`; all of transformers' own keep their names, defaults and meaning.

    Raises:
        ArgumentError: A value is not one of those listed, or flags contradict each other.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.learning_rate = rate_or_auto(self.learning_rate)
        if isinstance(self.recipe_options, str):
            try:
                self.recipe_options = json.loads(self.recipe_options)
            except ValueError as error:
                raise ArgumentError(
                    f"recipe_options must be a JSON object such as '{{\"k\": 2}}', found {self.recipe_options!r}."
                ) from error
        if self.recipe_options is not None and not isinstance(self.recipe_options, dict):
            raise ArgumentError(f"recipe_options must be a JSON object, found {self.recipe_options!r}.")
        self.class_weights = _class_weights(self.class_weights)
        for each in fields(TransferFields):
            value, choices = vars(self)[each.name], each.metadata.get("choices")
            if choices and value not in choices and value != each.default:
                raise ArgumentError(f"{each.name} must be one of {', '.join(choices)}; found {value!r}.")
        if not self.cache_gb > 0 or self.cache_views < 0:
            raise ArgumentError(
                f"cache_gb must be above 0 and cache_views not below 0; found {self.cache_gb} and {self.cache_views}."
            )
        if self.recipe_options and self.recipe is None:
            raise ArgumentError("recipe_options need a recipe: give --recipe NAME.")
        if self.plan is not None and (self.recipe is not None or self.norm is not None):
            raise ArgumentError(
                "A plan file already says what is trained: give either --plan, or --recipe with its options."
            )


@dataclass(frozen=True)
class TransferOptions:
    """The settings of transfer learning in some training arguments, each as its field in `TransferArguments` says."""

    memory_format: str
    allow_plan_change: bool
    cache_features: Literal["auto", "on", "off"]
    cache_gb: float
    cache_views: int
    stop_on_non_finite_loss: bool
    recipe: str | None
    recipe_options: dict[str, Any] | None
    solver: str | None
    layer: str | None
    allow_probe_file: bool
    class_weights: Any

    @classmethod
    def of(cls, args: TrainingArguments) -> TransferOptions:
        """The settings; plain `TrainingArguments` mean the defaults of `TransferArguments`."""
        defaults = {each.name: each.default for each in fields(TransferArguments)}
        stated = vars(args) if isinstance(args, TransferArguments) else {}
        return cls(**{each.name: stated.get(each.name, defaults[each.name]) for each in fields(cls)})


def measures_rate(args: TrainingArguments) -> bool:
    """Whether the learning rate is to be measured: `learning_rate` is "auto"."""
    rate: Any = args.learning_rate
    return bool(rate == AUTO)


def resolve(args: TrainingArguments, plan: TransferPlan | None) -> TrainingArguments:
    """Arguments with a number as learning rate: for "auto" the recipe's default, until there are measured ones.

    The one place where "auto" is settled before the data are seen. A diagnosis settles `recipe="auto"`, and
    `models.memory_format` settles `memory_format="auto"` on the model.

    Raises:
        ArgumentError: There is no plan, whose phases could be measured.
    """
    if not measures_rate(args):
        return args
    if plan is None:
        raise ArgumentError(
            'learning_rate="auto" measures the rate of each phase of a plan. Give a plan or a recipe, such as '
            "fine_tune, or a number."
        )
    settled = copy.copy(args)
    settled.learning_rate = recipes.default_learning_rate(plan.recipe)
    return settled


def _class_weights(given: Any) -> Any:
    """Class weights as the solvers take them."""
    if not isinstance(given, str) or given == "balanced":
        return given
    try:
        return {int(index): float(weight) for index, weight in json.loads(given).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ArgumentError(
            f"class_weights must be balanced, or a JSON object from class index to weight, found {given!r}."
        ) from error


def plan_from_arguments(args: TrainingArguments) -> TransferPlan | None:
    """The plan that the arguments ask for, or None where they ask for none.

    Raises:
        ArgumentError: Recipe or options are unknown, or `norm` is set without a recipe that can take it.
        PlanError: The plan file cannot be read.
    """
    if not isinstance(args, TransferArguments):
        return None
    if args.plan is not None:
        return TransferPlan.load(args.plan)
    if args.recipe is None:
        if args.norm is not None:
            raise ArgumentError("norm needs a recipe: give --recipe NAME.")
        return None
    if args.recipe == AUTO:
        raise ArgumentError(
            "The recipe auto is chosen by a diagnosis of model and data, which arguments alone cannot make: pass "
            "plan=ht.diagnose(model, dataset, processor).plan to the trainer, or use hf-transfer train --recipe auto."
        )
    options = dict(args.recipe_options) if isinstance(args.recipe_options, dict) else {}
    if args.norm is not None and options.setdefault("norm", args.norm) != args.norm:
        raise ArgumentError(f"--norm {args.norm} contradicts recipe_options, which say norm {options['norm']!r}.")
    return recipes.get(args.recipe, **options)


def agreed_plan(plan: TransferPlan | str | None, args: TrainingArguments, solved: bool = False) -> TransferPlan | None:
    """The plan that is given, or the one that the arguments ask for.

    Args:
        plan: Given, as a plan or by the name of a recipe; or None.
        args: May ask for one.
        solved: Whether the trainer solves heads, and not trains them in steps.

    Raises:
        PlanError: Both are there, or the plan can only be solved.
        ArgumentError: See `plan_from_arguments`; or there is no recipe of the name.
    """
    plan = recipes.get(plan) if isinstance(plan, str) else plan
    from_arguments = plan_from_arguments(args)
    if plan is not None and from_arguments is not None:
        raise PlanError(
            "A plan and a recipe (or plan file) in the arguments contradict each other: give one of the two."
        )
    agreed = plan if plan is not None else from_arguments
    if agreed is not None and agreed.recipe == "svm" and not solved:
        raise PlanError("The recipe svm is solved, not trained in steps: use LinearProbeTrainer, without solver none.")
    return agreed


def replaced(args: TrainingArguments, **changes: Any) -> TrainingArguments:
    """A copy with some fields changed; dataclasses.replace would run the set-up of devices again."""
    changed = copy.copy(args)
    vars(changed).update(changes)
    return changed
