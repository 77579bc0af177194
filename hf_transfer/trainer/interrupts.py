"""Interrupts: SIGINT and SIGTERM finish the step, save a checkpoint and end the run with what to do next."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer.checkpoints.folders import checkpoint_name
from hf_transfer.errors import InterruptedTrainingError

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptCallback(TrainerCallback):
    """Catch signals inside `with`, and stop the run at the next step's end.

    A second signal acts as it would have without this class. Handlers that the program has installed itself are left
    alone, and so is every signal outside of the main thread, where Python allows no handlers.

    Args:
        agree: Tells whether any process of the run was interrupted; called by all of them at the end of each step, so
            that they stop at the same one.
    """

    def __init__(self, agree: Callable[[bool], bool]) -> None:
        self.received: signal.Signals | None = None
        self.advice = "Go on with trainer.train(resume_from_checkpoint=True)."
        self._agree = agree
        self._stopping = False
        self._last_save = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def saves_last(self) -> bool:
        """Whether the checkpoint that the run ends with is due now."""
        return self._last_save

    def __enter__(self) -> InterruptCallback:
        self.received, self._stopping, self._last_save = None, False, False
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()
        if self.received is not None and exception[0] is None:
            signal.raise_signal(self.received)  # it came after the last step: let it act now

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._stopping = self._stopping or self._agree(self.received is not None)
        # The last step of an epoch is followed by the evaluation and the checkpoint of the epoch, which a resumed run
        # would not repeat: they come first.
        if self._stopping and not _ends_epoch(state):
            control.should_save = self._last_save = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._stopping:
            control.should_save = self._last_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Raised here, when the checkpoint is complete: the wind-down of the loop would evaluate in mid-epoch.
        if self._last_save:
            raise interrupted(self.received or signal.SIGTERM, state.global_step, args.output_dir, self.advice)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()
        logger.warning(
            "%s: finishing the step and saving a checkpoint; once more to stop at once.", self.received.name
        )

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def interrupted(received: signal.Signals, step: int, output_dir: str | None, advice: str) -> InterruptedTrainingError:
    """The error that ends an interrupted run, with the exit code of the command line."""
    error = InterruptedTrainingError(
        f"Stopped by {received.name} at step {step}; {checkpoint_name(step)} in {output_dir} is complete. {advice}"
    )
    error.exit_code = 128 + received
    return error


def _ends_epoch(state: TrainerState) -> bool:
    epoch = state.epoch or 0.0
    return abs(epoch - round(epoch)) < 1e-9
