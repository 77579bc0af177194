"""Runs in a checkout: the environment, the launcher, and where the results go."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .runs import Run, Step

_TIMEOUT = 900
"""Seconds for one step; each takes less than a minute on one core."""


class StepFailed(Exception):
    """A step ended with an error; the message holds the end of what it wrote."""


@dataclass(frozen=True)
class Place:
    """Where runs happen.

    Both checkouts run in one and the same folder, `current`, one after the other, so that no path can make a
    difference; what they wrote is moved away afterwards.

    Attributes:
        work: Holds `material`, `current` and the results of both.
        old: The old checkout.
    """

    work: Path
    old: Path

    def results(self, side: str, run: Run) -> Path:
        """Where the run of "old" or "new" is kept."""
        return self.work / side / run.name

    def run(self, run: Run, checkout: Path, side: str) -> float:
        """Run all steps in a checkout.

        Returns:
            How long it took, in seconds.

        Raises:
            StepFailed: A step ended with an error.
        """
        current, target = self.work / "current", self.results(side, run)
        for folder in (current, target):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.work / "material", current / "material")
        started = time.monotonic()
        try:
            for number, step in enumerate(run.steps):
                _run_step(step, self.old if step.by_old else checkout, current, current / f"step-{number}.log")
        finally:
            target.parent.mkdir(parents=True, exist_ok=True)
            current.rename(target)
        return time.monotonic() - started


def check_checkout(checkout: Path, work: Path) -> None:
    """Check that Python takes hf_transfer from a checkout, and not from where it is installed.

    Raises:
        StepFailed: It takes another one, or none.
    """
    code = "import hf_transfer; print(hf_transfer.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=work, env=environment(checkout, work), capture_output=True, text=True
    )
    found = Path(done.stdout.strip() or "nothing")
    if found.resolve() != (checkout / "hf_transfer" / "__init__.py").resolve():
        raise StepFailed(f"{checkout} is no checkout of this repository: Python imports {found}. {done.stderr}")


def environment(checkout: Path, folder: Path) -> dict[str, str]:
    """Variables of a process that uses a checkout, one thread of the CPU, and caches below a folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "ACCELERATE_"))}
    return kept | {
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "home"),
        "HF_TRANSFER_CACHE": str(folder / "home" / "features"),
    }


def _run_step(step: Step, checkout: Path, folder: Path, log: Path) -> None:
    words = list(step.words)
    if step.processes > 1:
        count = ["--num_processes", str(step.processes), "--main_process_port", str(_free_port())]
        words = ["-m", "accelerate.commands.launch", "--multi_gpu", *count, *words]
    with log.open("w", encoding="utf-8") as output:
        try:
            done = subprocess.run(
                [sys.executable, *words],
                cwd=folder,
                env=environment(checkout, folder),
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            raise StepFailed(f"python {' '.join(words)}\nran for more than {_TIMEOUT} seconds") from error
    if done.returncode:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise StepFailed(f"python {' '.join(words)}\nended with {done.returncode}:\n{end}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
