"""A progress bar that names the phase, and log lines without one learning rate per group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from transformers import Trainer


def short_logs(logs: dict[str, Any]) -> dict[str, Any]:
    """Leave out what belongs in files, not on the screen: the learning rate of each group."""
    return {name: value for name, value in logs.items() if not name.startswith("learning_rate/")}


class PhaseProgressCallback(ProgressCallback):
    """transformers' progress bar with the name of the phase in front."""

    def __init__(self, phase_names: Sequence[str]) -> None:
        super().__init__()
        self.phase_names = phase_names

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.training_bar is not None and logs and "phase" in logs:
            self.training_bar.set_description(self.phase_names[int(logs["phase"]) - 1])
            self.training_bar.total = state.max_steps  # smaller where a phase stopped early
        super().on_log(args, state, control, logs=short_logs(logs or {}), **kwargs)


class PhasePrinterCallback(PrinterCallback):
    """transformers' printer for runs without a progress bar."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().on_log(args, state, control, logs=short_logs(logs or {}), **kwargs)


def use_phase_progress(trainer: Trainer, phase_names: Sequence[str]) -> None:
    """Replace the trainer's standard progress or printer callback, where it has one."""
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback) is ProgressCallback:  # a user's own subclass stays
            trainer.remove_callback(callback)
            trainer.add_callback(PhaseProgressCallback(phase_names))
        elif type(callback) is PrinterCallback:
            trainer.remove_callback(callback)
            trainer.add_callback(PhasePrinterCallback)
