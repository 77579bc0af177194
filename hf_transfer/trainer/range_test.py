"""`Trainer` that measures the learning rate of each phase where it is asked to; `TransferTrainer` gives it phases."""

from __future__ import annotations

import copy
import json
import logging
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer.errors import ArgumentError
from hf_transfer.phases.callback import PhaseCallback
from hf_transfer.phases.learning_rate_range import RangeTest, geometric_rates, has_diverged, read_off
from hf_transfer.phases.schedules import take_new_rates
from hf_transfer.plans import recipes
from hf_transfer.trainer.args import measures_rate
from hf_transfer.trainer.run import ResumingTrainer
from hf_transfer.trainer.trial_steps import cannot_try, trial_batches, trial_step, undone
from hf_transfer.utils.distributed import from_first

logger = logging.getLogger(__name__)

RANGE_FILE = "learning_rate_range.json"
"""In a checkpoint: the tests of the phases that had begun, so that a resumed run keeps their rates."""


class RangeTestTrainer(ResumingTrainer):
    """`Trainer` with a learning-rate range test at the start of each phase that has no learning rate of its own."""

    is_trying = False
    _measures_rates = False
    _range_callback: RangeTestCallback | None = None
    _resumed_from: str | None = None

    @property
    def range_tests(self) -> tuple[RangeTest, ...]:
        """The learning-rate range tests of the latest training, by phase; empty where rates were given."""
        if self._range_callback is None:
            return ()
        return tuple(test for _, test in sorted(self._range_callback.tests.items()))

    def settle_rate(self, args: TrainingArguments) -> TrainingArguments:
        """Arguments with a number as learning rate: for "auto" the recipe's default, until there are measured ones.

        Raises:
            ArgumentError: There is no plan, whose phases could be measured.
        """
        self._measures_rates = measures_rate(args)
        if not self._measures_rates:
            return args
        if self.plan is None:
            raise ArgumentError(
                'learning_rate="auto" measures the rate of each phase of a plan. Give a plan or a recipe, such as '
                "fine_tune, or a number."
            )
        settled = copy.copy(args)
        settled.learning_rate = recipes.default_learning_rate(self.plan.recipe)
        return settled

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> Any:
        """Train as Trainer does; rates that the interrupted run measured are kept."""
        self._resumed_from = resume_from_checkpoint if isinstance(resume_from_checkpoint, str) else None
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def follow_phases(self, phases: PhaseCallback, decided: bool | None = None) -> None:
        """Add the callbacks of phases and cache, and the range test behind them: it tries what the phase will run."""
        super().follow_phases(phases, decided)
        if self._range_callback is not None:
            self.remove_callback(self._range_callback)
            self._range_callback = None
        if self._measures_rates:
            self._range_callback = RangeTestCallback(self, phases)
            if self._resumed_from is not None:
                self._range_callback.restore(Path(self._resumed_from))
            self.add_callback(self._range_callback)

    def complete_checkpoint(self, folder: Path) -> None:
        """Add the range tests to a checkpoint."""
        super().complete_checkpoint(folder)
        if self._range_callback is not None:
            self._range_callback.save(folder)


class RangeTestCallback(TrainerCallback):
    """Choose the learning rate when a phase begins; comes after the callbacks that freeze and that cut.

    Args:
        trainer: Whose steps are tried.
        phases: The callback that freezes.

    Attributes:
        tests: By index of the phase.
    """

    def __init__(self, trainer: RangeTestTrainer, phases: PhaseCallback) -> None:
        self.trainer = trainer
        self.phases = phases
        self.tests: dict[int, RangeTest] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._follow(state, kwargs)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._follow(state, kwargs)

    def save(self, folder: Path) -> None:
        """Write the tests, with the phases that they belong to."""
        data = [
            {"index": i, "plan": self.phases.clock.resolved.phases[i].phase.to_dict(), "test": test.to_dict()}
            for i, test in self.tests.items()
        ]
        (folder / RANGE_FILE).write_text(json.dumps({"schema": 1, "tests": data}), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Take over the rates of phases that had begun before a checkpoint and go on where they were."""
        if not (folder / RANGE_FILE).is_file():
            return
        for entry in json.loads((folder / RANGE_FILE).read_text(encoding="utf-8"))["tests"]:
            index, test = entry["index"], RangeTest.from_dict(entry["test"])
            phases = self.phases.clock.resolved.phases
            steps = phases[index] if index < len(phases) else None
            if steps is not None and steps.phase.to_dict() == entry["plan"] and steps.start == test.start:
                self._keep(index, test)

    def _follow(self, state: TrainerState, given: dict[str, Any]) -> None:
        index = self.phases.clock.current
        if index is None or index in self.tests or self.phases.phase.phase.learning_rate is not None:
            return
        if state.global_step >= self.phases.phase.end:  # a finished run that is resumed trains nothing
            return
        test = from_first(self._test(given["train_dataloader"]))
        self._keep(index, test)
        logger.log(
            logging.INFO if test.chosen else logging.WARNING,
            "Phase %r: learning rate %.3g, %s.",
            test.phase,
            test.learning_rate,
            test.reason,
        )
        take_new_rates(given["lr_scheduler"], given["optimizer"], self.phases.clock)

    def _keep(self, index: int, test: RangeTest) -> None:
        self.tests[index] = test
        clock = self.phases.clock
        if test.chosen:
            clock.resolved = clock.resolved.with_learning_rate(index, test.learning_rate)

    def _test(self, dataloader: Any) -> RangeTest:
        steps = self.phases.phase
        default, obstacle = steps.learning_rate, cannot_try(self.trainer, dataloader)
        if obstacle is not None:
            reason = f"the default, as no range test is possible: {obstacle}"
            return RangeTest(steps.phase.name, (), (), default, False, reason, steps.start)
        rates, losses = self._sweep(dataloader)
        choice = read_off(rates[: len(losses)], losses)
        rate = default if choice.learning_rate is None else choice.learning_rate
        reason = f"the default, as {choice.reason}" if choice.learning_rate is None else choice.reason
        finite = tuple(loss for loss in losses if math.isfinite(loss))
        return RangeTest(
            steps.phase.name,
            rates[: len(finite)],
            finite,
            rate,
            choice.learning_rate is not None,
            reason,
            steps.start,
        )

    def _sweep(self, dataloader: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Rates, and the losses of the steps at them, until they diverge."""
        trainer, args = self.trainer, self.trainer.args
        optimizer: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        ratios = self._ratios()
        rates = geometric_rates(max(ratios.values()))
        each = args.gradient_accumulation_steps
        seed = args.seed if args.data_seed is None else args.data_seed
        batches = trial_batches(
            dataloader, trainer._train_batch_size, len(rates) * each, seed, args.dataloader_num_workers
        )
        losses: list[float] = []
        trainer.is_trying = True
        try:
            with undone(trainer, seed):
                for rate in rates:
                    for group in optimizer.param_groups:
                        group["lr"] = rate * ratios.get(group["name"], 0.0)
                    losses.append(trial_step(trainer, [next(batches) for _ in range(each)]))
                    if has_diverged(losses):
                        break
        finally:
            trainer.is_trying = False
        return rates, tuple(losses)

    def _ratios(self) -> dict[str, float]:
        """The rate of each optimizer group that trains over the phase's own rate."""
        resolved, index = self.phases.clock.resolved, self.phases.clock.current or 0
        base = resolved.phases[index].learning_rate
        rates = {group.name: group.learning_rates[index] for group in resolved.optimizer_groups}
        return {name: rate / base for name, rate in rates.items() if rate is not None}
