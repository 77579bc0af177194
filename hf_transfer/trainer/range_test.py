"""The learning rate of each phase, measured by a range test when the phase begins."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from transformers import Trainer

from hf_transfer.phases.current import CurrentPhase
from hf_transfer.phases.learning_rate_range import RangeTest, geometric_rates, has_diverged, read_off
from hf_transfer.phases.schedules import take_new_rates
from hf_transfer.run_files import RANGE_FILE
from hf_transfer.trainer.trial_steps import cannot_try, trial_batches, trial_step, undone
from hf_transfer.utils.distributed import from_first
from hf_transfer.utils.foreign import inner_optimizer

logger = logging.getLogger(__name__)


class RangeTests:
    """The range tests of one training: one for each phase that has no learning rate of its own.

    Args:
        trainer: The trainer whose steps are tried.
        phase: The phase that the run is in.

    Attributes:
        tests: The tests by index of the phase.
    """

    def __init__(self, trainer: Trainer, phase: CurrentPhase) -> None:
        self.trainer = trainer
        self.phase = phase
        self.tests: dict[int, RangeTest] = {}

    @property
    def in_order(self) -> tuple[RangeTest, ...]:
        """The tests, by phase."""
        return tuple(test for _, test in sorted(self.tests.items()))

    def save(self, folder: Path) -> None:
        """Write the tests, with the phases that they belong to."""
        data = [
            {"index": i, "plan": self.phase.clock.resolved.phases[i].phase.to_dict(), "test": test.to_dict()}
            for i, test in self.tests.items()
        ]
        (folder / RANGE_FILE).write_text(json.dumps({"schema": 1, "tests": data}), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Take over the rates of phases that had begun before a checkpoint and have not moved."""
        if not (folder / RANGE_FILE).is_file():
            return
        for entry in json.loads((folder / RANGE_FILE).read_text(encoding="utf-8"))["tests"]:
            index, test = entry["index"], RangeTest.from_dict(entry["test"])
            phases = self.phase.clock.resolved.phases
            steps = phases[index] if index < len(phases) else None
            if steps is not None and steps.phase.to_dict() == entry["plan"] and steps.start == test.start:
                self._keep(index, test)

    def begin(self, step: int, dataloader: Any, optimizer: Any, scheduler: Any) -> None:
        """Measure the rate of a phase that begins, after it was frozen and cut: what is tried is what will run."""
        index = self.phase.clock.current
        if index is None or index in self.tests or self.phase.steps.phase.learning_rate is not None:
            return
        if step >= self.phase.steps.end:  # a finished run that is resumed trains nothing
            return
        test = from_first(self._test(dataloader))
        self._keep(index, test)
        logger.log(
            logging.INFO if test.chosen else logging.WARNING,
            "Phase %r: learning rate %.3g, %s.",
            test.phase,
            test.learning_rate,
            test.reason,
        )
        take_new_rates(scheduler, optimizer, self.phase.clock)

    def _keep(self, index: int, test: RangeTest) -> None:
        self.tests[index] = test
        clock = self.phase.clock
        if test.chosen:
            clock.resolved = clock.resolved.with_learning_rate(index, test.learning_rate)

    def _test(self, dataloader: Any) -> RangeTest:
        steps = self.phase.steps
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
        optimizer: Any = inner_optimizer(trainer.optimizer)
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
        resolved, index = self.phase.clock.resolved, self.phase.clock.current or 0
        base = resolved.phases[index].learning_rate
        rates = {group.name: group.learning_rates[index] for group in resolved.optimizer_groups}
        return {name: rate / base for name, rate in rates.items() if rate is not None}
