"""`LinearProbeTrainer`: the head solved exactly on features that are computed once."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, IntervalStrategy, PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, denumpify_detensorize, speed_metrics

from hf_transfer.errors import ArgumentError, PlanError
from hf_transfer.features import LAST
from hf_transfer.features.extract import extract_features
from hf_transfer.linear_probe.head import classifiers
from hf_transfer.linear_probe.labels import labels_of
from hf_transfer.linear_probe.probe_file import joined, save_probe
from hf_transfer.linear_probe.solving import HeadSolution, solve_head
from hf_transfer.models.memory_format import set_memory_format
from hf_transfer.phases.resolved import resolve_plan
from hf_transfer.plans.plan import Phase, TransferPlan
from hf_transfer.run_files import remove_probe
from hf_transfer.solvers import SOLVERS, ClassWeights
from hf_transfer.solvers.head import cross_entropy
from hf_transfer.trainer.args import TransferArguments, TransferOptions, plan_from_arguments
from hf_transfer.trainer.solved_phase import extraction_options
from hf_transfer.trainer.trainer import TransferTrainer

logger = logging.getLogger(__name__)

DEFAULT_SOLVER = "logistic"
_RECIPE_SOLVERS = {"svm": "svm"}
_RECIPES = ("linear_probe", "svm")
_OPTIMIZERS = {
    "logistic": "L-BFGS, to the optimum",
    "svm": "L-BFGS, to the optimum",
    "ridge": "none: closed form",
    "sgd": "SGD with momentum 0.9, a grid of learning rates at once",
}


def solves(args: TrainingArguments) -> bool:
    """Whether arguments ask for a head that is solved: a recipe of the head alone, without options for steps."""
    options = TransferOptions.of(args)
    return options.recipe in _RECIPES and not options.recipe_options and options.solver != "none"


class LinearProbeTrainer(TransferTrainer):
    """A trainer that solves the head exactly instead of training it for epochs.

    The features of all images are computed once, in eval mode and without a random transform's help: give training
    data with the transform of evaluation. The head is solved on them, written into the model's own classifier, and
    checked by running the model. `evaluate`, `predict` and `save_model` are those of `Trainer`; evaluation data, too,
    pass through the network once and are kept in the feature cache. With `layer` other than "last" the trained
    `model` may be a truncated one. Learning rate, epochs, batch size and schedule of the arguments are not used.

    Args:
        solver: "logistic" (default: the minimum of the loss that training minimises), "svm", "ridge" or "sgd". None
            takes that of the arguments, or of the recipe "svm".
        layer: "last" (default: the head reads what it always does), "auto", "all" or a layer group's name; see
            `hf_transfer.linear_probe.solving.solve_head`. None takes that of the arguments.
        allow_probe_file: Where no ordinary checkpoint can hold the solved head, `save_model` keeps it in a probe file
            next to one; `hf_transfer.load_probe` loads it. Needed for layer "all". None takes that of the arguments.
        class_weights: None, "balanced", or a mapping from class index to weight. None takes that of the arguments.

    All other arguments are those of `TransferTrainer`.

    Raises:
        ArgumentError: Solver or layer are unknown.
        PlanError: The plan trains more than the head.
    """

    solves_head = True

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_metrics: Callable[..., dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        *,
        solver: Literal["logistic", "svm", "ridge", "sgd"] | None = None,
        layer: str | None = None,
        class_weights: ClassWeights = None,
        allow_probe_file: bool | None = None,
    ) -> None:
        args = TransferArguments(output_dir="tmp_trainer") if args is None else args
        asked = plan_from_arguments(args)
        if asked is not None and asked.recipe not in _RECIPES:
            raise PlanError(f"LinearProbeTrainer trains the head alone; the recipe {asked.recipe!r} trains more.")
        recipe = None if asked is None else asked.recipe
        options = TransferOptions.of(args)
        stated = solver or options.solver
        self.solver = stated or _RECIPE_SOLVERS.get(recipe or "", DEFAULT_SOLVER)
        self.layer = layer or options.layer or LAST
        self.class_weights = options.class_weights if class_weights is None else class_weights
        asked_file = options.allow_probe_file if allow_probe_file is None else allow_probe_file
        self.allow_probe_file = bool(asked_file)
        if self.solver not in SOLVERS:
            raise ArgumentError(f"The solvers are {', '.join(SOLVERS)}; found {self.solver!r}.")
        if recipe == "svm" and self.solver != "svm":
            raise ArgumentError(f"The recipe svm is solver svm, found {self.solver!r}. Use the recipe linear_probe.")
        name = "svm" if self.solver == "svm" else "linear_probe"
        plan = None if asked is not None else TransferPlan((Phase("linear probe", "head"),), recipe=name)
        self.solution: HeadSolution | None = None
        self._written: list[torch.Tensor] = []
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            model_init,
            None,
            compute_metrics,
            callbacks,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            plan=plan,
        )

    def train(
        self,
        resume_from_checkpoint: str | os.PathLike[str] | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: Any = None,
    ) -> TrainOutput:
        """Solve the head.

        Args:
            resume_from_checkpoint: Not needed: features that were computed before are read from the cache. A folder
                must be there.
            trial: For `model_init`.
            ignore_keys_for_eval: Unused.

        Returns:
            As `Trainer.train`, with 0 steps; the loss is that of the training images under the solved head.

        Raises:
            DataError: Labels are missing, features are not finite, or there are too few images.
            ModelError: The head cannot hold an exact solution.
            PlanError: `resume_from_checkpoint` is a folder that is not there.
        """
        if isinstance(resume_from_checkpoint, str | os.PathLike) and not Path(resume_from_checkpoint).is_dir():
            raise PlanError(
                f"There is no checkpoint folder {os.fspath(resume_from_checkpoint)!r}. A head that is solved needs "
                "none: leave resume_from_checkpoint out."
            )
        if self.train_dataset is None:
            raise ArgumentError("There is no train_dataset to solve the head on.")
        if self.model_init is not None:
            self.model = self.call_model_init(trial)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if self.allow_probe_file and not isinstance(model, PreTrainedModel):
            raise ArgumentError(
                "A probe file needs a model that from_pretrained loads; this one is a bare "
                f"{type(model).__name__}. Load it with AutoModelForImageClassification, or leave allow_probe_file out."
            )
        if self.measures_rates:
            logger.info("A solved head has no learning rate: there is nothing to measure for learning_rate auto.")
        started = self.training_began = time.time()
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)  # type: ignore[has-type]
        set_memory_format(model, self.options.memory_format)
        self.solution = solve_head(
            model,
            self.train_dataset,
            self.processing_class,
            solver=self.solver,
            layer=self.layer,
            class_weights=self.class_weights,
            seed=self.args.seed,
            allow_probe_file=self.allow_probe_file,
            **extraction_options(self.args),
        )
        self._take(self.solution.model)
        self.state.epoch = 1.0
        solved = self.solution.solved
        metrics = speed_metrics("train", started, num_samples=len(self.train_dataset))
        metrics |= {"train_loss": solved.train_loss, "train_accuracy": solved.train_accuracy}
        metrics |= {"held_out_accuracy": solved.accuracy, solved.parameter: solved.value, "epoch": 1.0}
        self.log(dict(metrics))
        if IntervalStrategy(self.args.eval_strategy) != IntervalStrategy.NO:
            self.evaluate()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return TrainOutput(0, solved.train_loss, metrics)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as Trainer does; once the head is solved, from features that are computed once."""
        dataset = getattr(dataloader, "dataset", None)
        if not self._is_solved() or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            return super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        assert self.solution is not None
        labels, reading = labels_of(dataset)
        layers = list(self.solution.layers)
        found = extract_features(self.model, reading, self.processing_class, layers, **extraction_options(self.args))
        features = joined(found, layers)
        known = labels()
        scores = self.solution.solved.head.scores(features)
        metrics = {f"{metric_key_prefix}_loss": cross_entropy(scores, known)}
        logits: Any = scores.astype(np.float32)
        if self.preprocess_logits_for_metrics is not None:
            processed = self.preprocess_logits_for_metrics(torch.from_numpy(logits), torch.from_numpy(known))
            logits = processed.numpy() if isinstance(processed, torch.Tensor) else processed
        if self.compute_metrics is not None:
            computed = denumpify_detensorize(self.compute_metrics(EvalPrediction(logits, known)))
            for name, value in computed.items():
                own = name.startswith(f"{metric_key_prefix}_")
                metrics[name if own else f"{metric_key_prefix}_{name}"] = value
        return EvalLoopOutput(logits, known, metrics, len(known))

    @property
    def has_trained(self) -> bool:
        """Whether a head was solved."""
        return self.solution is not None

    def facts(self) -> dict[str, Any]:
        """What was solved and how, for the record: a solved head has no learning rate, and no steps."""
        if self.solution is None:
            return super().facts()
        facts = self.solver_facts()
        return {
            "plan": self.plan_facts(),
            "optimizer": {"class": facts.pop("optimizer")},
            "solved_head": facts,
            "steps": 0,
            "epochs": 1.0,
            "final_loss": facts["train_loss"],
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }

    def plan_facts(self) -> dict[str, Any]:
        """The content of `transfer_plan.json`: the head solved, without steps, learning rate or weight decay."""
        assert self.plan is not None and self.solution is not None
        facts = resolve_plan(self.plan, self.model, self.args, 1).to_dict()
        name = f"solved ({self.solution.solved.solver})"
        for phase in facts["phases"]:
            phase |= {"name": name, "start_step": 0, "end_step": 0, "warmup_steps": 0, "lr_scheduler_type": "none"}
        for group in facts["groups"]:
            for phase in group["phases"]:
                phase |= {"learning_rate": None, "weight_decay": None, "solved": phase["trained_parameters"] > 0}
        return facts

    def solver_facts(self) -> dict[str, Any]:
        """What `run.json` and the card say of the head."""
        assert self.solution is not None
        return self.solution.to_dict() | {"optimizer": _OPTIMIZERS[self.solution.solved.solver]}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save; where the checkpoint cannot hold the solved head, add a probe file."""
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        if self._is_solved() and self.solution is not None and self.solution.probe is not None:
            layout = self.options.memory_format
            solver = self.solution.solved.solver
            save_probe(folder, self.solution.model, self.solution.probe, solver=solver, memory_format=layout)
        else:
            remove_probe(folder)

    def _take(self, model: nn.Module) -> None:
        """Go on with the model that has the solved head."""
        self.model = model
        self.model_wrapped = model
        self._written = [part.linear.weight.detach().clone() for part in classifiers(model)]  # type: ignore[operator]

    def _is_solved(self) -> bool:
        """Whether the model's head is still the one that was written."""
        if self.solution is None or self.model is not self.solution.model:
            return False
        now: list[Any] = [part.linear.weight for part in classifiers(self.model)]
        return len(now) == len(self._written) and all(map(torch.equal, now, self._written))
