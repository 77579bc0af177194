"""A run that is killed at ten moments and resumed each time: `python killed.py FOLDER PROCESSES [KIND]`.

KIND is "plain", or where random numbers and stored features must be those of the whole run amid an epoch: "augmented"
(a data set of the user's), "transformed" (our augmentation) or "cached" (with stored views); killed four times.

Each attempt runs in freshly forked processes, so that the libraries are imported once; the kill is a real
SIGKILL, which no code can catch. At the end FOLDER holds the weights of the run and of one that was not interrupted.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from transformers import TrainerCallback

import hf_transfer as ht
from hf_transfer.trainer import base as checkpoint_trainer
from hf_transfer.trainer.trainer import TransferTrainer
from tests.distributed import runs
from tests.helpers.training import AugmentedImages, RandomImages

MOMENTS = 10
TWO_PHASES = ht.TransferPlan(
    (ht.Phase("head", "head", max_steps=6), ht.Phase("block", "blocks:1", max_steps=6, average_from=0.2))
)
SAVE_STEPS = 2
LAST_STEP = 12


class Kill(TrainerCallback):
    """Kills the process at one event of one step."""

    def __init__(self, step: int, event: str) -> None:
        self.step, self.event = step, event

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at("step begin", state.global_step)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at("between micro-batches", state.global_step)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at("optimizer step", state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at("step end", state.global_step)

    def _at(self, event: str, step: int) -> None:
        if (event, step) == (self.event, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


def kill_before(owner: Any, name: str) -> None:
    """Make a function kill its process before it does anything."""
    setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))


def moments() -> list[tuple[int, str]]:
    """Ten moments in the order of the run: in every phase, at two borders, and three times while saving."""
    draw = random.Random(7)
    inside = [(step, draw.choice(["step begin", "between micro-batches", "optimizer step"])) for step in (1, 4, 7, 9)]
    borders = [(3, "step begin"), (5, "step end")]
    saving = [(2, "model saved"), (6, "optimizer saved"), (8, "before the move"), (10, "during the move")]
    return sorted([*inside, *borders, *saving])


def moments_amid_epochs() -> list[tuple[int, str]]:
    """Four moments after which a run goes on amid an epoch, at its begin, and at a border of phases amid an epoch."""
    return [(3, "step begin"), (5, "between micro-batches"), (7, "optimizer step"), (11, "step begin")]


def train(folder: Path, moment: tuple[int, str] | None, kind: str = "plain") -> None:
    """One attempt."""
    torch.set_num_threads(1)
    callbacks: list[TrainerCallback] = []
    if moment is not None:
        step, event = moment
        callbacks.append(Kill(step, event))
        writing = {"model saved": "_save_optimizer_and_scheduler", "optimizer saved": "_save_rng_state"}
        if event in writing:
            _kill_when_saving(step, TransferTrainer, writing[event])
        elif event == "before the move":
            _kill_when_saving(step, checkpoint_trainer, "move_into_place")
        elif event == "during the move":
            _kill_when_saving(step, Path, "rename")
    model = runs.make_model("vit", dropout=0.1)
    os.environ["HF_TRANSFER_CACHE"] = str(folder / "cache")
    data = {"augmented": AugmentedImages, "transformed": runs.augmented_images, "cached": runs.augmented_images}
    cached: dict[str, Any] = {"cache_features": "on", "cache_views": 2} if kind == "cached" else {}
    trainer = runs.make_trainer(
        model,
        folder,
        TWO_PHASES if kind == "cached" else runs.AVERAGED,
        callbacks,
        data.get(kind, RandomImages)(),
        **cached,
        optim="adamw_torch",
        learning_rate=1e-3,
        gradient_accumulation_steps=2,
        save_strategy="steps",
        save_steps=SAVE_STEPS,
        save_total_limit=2,
    )
    resume = any(folder.glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=resume or None)
    if kind == "cached" and not all(decision.used for decision in trainer.cache_decisions):
        sys.exit(f"not cached: {trainer.cache_decisions}")
    if trainer.is_world_process_zero():
        torch.save(model.state_dict(), folder / "final.pt")


def _kill_when_saving(step: int, owner: Any, name: str) -> None:
    original: Callable[..., Any] = TransferTrainer._save_checkpoint

    def save(trainer: TransferTrainer, *args: Any) -> None:
        if trainer.state.global_step == step:
            kill_before(owner, name)
        original(trainer, *args)

    TransferTrainer._save_checkpoint = save  # type: ignore[method-assign]


def attempt(processes: int, work: Callable[[], None]) -> list[int]:
    """Fork processes that do some work; returns how each ended, in that order, negative for a signal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            if processes > 1:
                os.environ.update(
                    {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                    | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
                )
            status = 1
            try:
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    codes = {}
    for _ in children:
        child, status = os.wait()
        codes[child] = os.waitstatus_to_exitcode(status)
        if codes[child] != 0:  # as a launcher does when one process dies
            for other in set(children) - set(codes):
                os.kill(other, signal.SIGKILL)
    return list(codes.values())


def main(folder: Path, processes: int, kind: str = "plain") -> None:
    """Kill and resume, then compare with a run that was left alone."""
    for moment in moments() if kind == "plain" else moments_amid_epochs():
        codes = attempt(processes, lambda moment=moment: train(folder / "killed", moment, kind))  # type: ignore[misc]
        print("KILLED", *moment, codes, sorted(p.name for p in (folder / "killed").glob("checkpoint-*")), flush=True)
        # The other process may see that its peer is gone, and end by itself before it is killed.
        if codes[0] != -signal.SIGKILL:
            sys.exit(f"{moment} was not reached: {codes}")
    for name in ("killed", "whole"):
        codes = attempt(processes, lambda name=name: train(folder / name, None, kind))  # type: ignore[misc]
        if any(codes):
            sys.exit(f"{name}: {codes}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
