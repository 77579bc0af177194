"""Early stopping by phase: the callback that would end the run ends the phase, and the next one begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import EarlyStoppingCallback, TrainerState, TrainingArguments


class PhaseStopping:
    """What early stopping needs to judge each phase by itself.

    transformers' callback compares with the best value of the run. A phase that has just unfrozen layers may begin
    below it and must not be stopped for that, so the callback is shown the best value of the phase.

    Attributes:
        best: The best value of `metric_for_best_model` in the present phase.
    """

    def __init__(self) -> None:
        self.best: float | None = None

    def begin_phase(self, callbacks: Sequence[Any], best: float | None = None, patience: Sequence[int] = ()) -> None:
        """Forget the phase before; or, in a resumed run, take over what its checkpoint holds."""
        self.best = best
        for position, callback in enumerate(_stoppers(callbacks)):
            callback.early_stopping_patience_counter = patience[position] if position < len(patience) else 0

    @contextmanager
    def judging(self, callbacks: Sequence[Any], state: TrainerState) -> Iterator[None]:
        """Show the early stopping callbacks the best value of the phase, while an evaluation runs."""
        if not _stoppers(callbacks):
            yield
            return
        of_the_run, state.best_metric = state.best_metric, self.best
        try:
            yield
        finally:
            state.best_metric = of_the_run

    def note(self, metrics: Mapping[str, Any], args: TrainingArguments) -> None:
        """Keep the best value of the phase."""
        name = args.metric_for_best_model
        value = metrics.get(name if name is None or name.startswith("eval_") else f"eval_{name}")
        if value is None:
            return
        if self.best is None or (value > self.best if args.greater_is_better else value < self.best):
            self.best = float(value)

    @staticmethod
    def patience(callbacks: Sequence[Any]) -> tuple[int, ...]:
        """Evaluations without improvement that each callback has counted."""
        return tuple(callback.early_stopping_patience_counter for callback in _stoppers(callbacks))

    @staticmethod
    def asked(callbacks: Sequence[Any]) -> bool:
        """Whether an early stopping callback wants to stop."""
        return any(c.early_stopping_patience_counter >= c.early_stopping_patience for c in _stoppers(callbacks))


def _stoppers(callbacks: Sequence[Any]) -> list[EarlyStoppingCallback]:
    return [callback for callback in callbacks if isinstance(callback, EarlyStoppingCallback)]
