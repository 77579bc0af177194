"""Training on quiet cores, and next to a process that never sleeps and is pinned to one of two cores.

    python benchmarks/busy_machine.py --base ../older-checkout --output_dir benchmarks/results
    python benchmarks/busy_machine.py --what step --rounds 5      # this checkout, one training step: under a minute

Two things are timed in this checkout and in another one, in turn: the training of `hf-transfer demo`, by its
`run.json`, and one training step of EfficientNet-Lite0 on 16 images of 96 pixels, in a process that has begun as
`hf-transfer` does. Settings of threads in the environment are dropped. A run that lasts longer than `--limit` is
ended, and the table says so.

Every run is written to `busy_machine.json` when it ends. The same command later continues with what is missing, and
`--stop_after` begins no run after so many seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

STEP = """
import json, time
from hf_transfer.cli import main
main(["--version"])  # sets what the command line sets before torch is imported
import timm, torch
torch.manual_seed(0)
model = timm.create_model("tf_efficientnet_lite0", num_classes=10)
images, labels = torch.randn(16, 3, 96, 96), torch.arange(16) % 10
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
seconds = []
for _ in range(13):
    start = time.perf_counter()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.perf_counter() - start)
print(sorted(seconds[2:])[5])
"""
THREADS = ("OMP_", "GOMP_", "KMP_", "MKL_")
MACHINES = ("quiet", "busy")


@dataclass(frozen=True)
class Run:
    """One timed run.

    Attributes:
        what: "step" or "demo".
        commit: Of the checkout.
        machine: "quiet", or "busy" with a process that never sleeps.
        number: Counts the runs that are otherwise the same.
        seconds: Of one step, or of the demo's training; the limit where `ended`.
        ended: Whether the run reached the limit.
        load: Load average of the machine when the run began.
    """

    what: str
    commit: str
    machine: str
    number: int
    seconds: float
    ended: bool
    load: float


@contextlib.contextmanager
def neighbour(busy: bool, core: int, limit: float) -> Iterator[None]:
    """A process that never sleeps, pinned to a core, while the context lasts; it also ends by itself."""
    if not busy:
        yield
        return
    code = f"import os, time\nos.sched_setaffinity(0, {{{core}}})\nend = time.monotonic() + {limit}\n"
    process = subprocess.Popen([sys.executable, "-c", code + "while time.monotonic() < end: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def run_python(words: list[str], checkout: Path, cores: set[int], limit: float, **environment: str) -> str | None:
    """The output of a Python on some cores with the package of a checkout; None if it was ended at the limit."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(THREADS)}
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=checkout,
        env=inherited | {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise SystemExit(f"{words} in {checkout.name} ended with {process.returncode}.")
    return output


def step_seconds(checkout: Path, cores: set[int], limit: float) -> float | None:
    """Median seconds of eleven training steps; None if they were ended at the limit."""
    output = run_python(["-c", STEP], checkout, cores, limit)
    return None if output is None else float(output.split()[-1])


def demo_seconds(checkout: Path, cores: set[int], limit: float) -> float | None:
    """Seconds of training of one demo, with a feature cache of its own; None if it was ended at the limit."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "hf_transfer", "demo", "--output_dir", f"{folder}/demo"]
        if run_python(words, checkout, cores, limit, HF_TRANSFER_CACHE=f"{folder}/cache") is None:
            return None
        record = json.loads(Path(folder, "demo", "run.json").read_text(encoding="utf-8"))
        return float(record["timing"]["train_seconds"])


def commit_of(checkout: Path) -> str:
    """The short commit of a checkout, or its folder's name."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or checkout.name


def measure(what: str, checkout: Path, machine: str, number: int, limit: float) -> Run:
    """Time one run."""
    load, cores = os.getloadavg()[0], set(sorted(os.sched_getaffinity(0))[:2])
    with neighbour(machine == "busy", max(cores), limit + 60):
        seconds = {"step": step_seconds, "demo": demo_seconds}[what](checkout, cores, limit)
    ended = seconds is None
    return Run(what, commit_of(checkout), machine, number, limit if seconds is None else seconds, ended, load)


def spread(runs: list[Run]) -> str:
    """Median, least and largest."""
    values = [run.seconds for run in runs]
    sign = "> " if any(run.ended for run in runs) else ""
    return f"{sign}{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g}; {len(values)})"


def table(runs: list[Run]) -> str:
    """The runs of each checkout: seconds on quiet cores, on busy ones, and how many times as long these take."""
    lines = ["| what | commit | quiet, s: median (range; runs) | busy, s | busy over quiet |"]
    lines.append("| --- | --- | ---: | ---: | ---: |")
    for what, commit in dict.fromkeys((run.what, run.commit) for run in runs):
        found = [[r for r in runs if (r.what, r.commit, r.machine) == (what, commit, name)] for name in MACHINES]
        if all(found):
            quiet, busy = (statistics.median(run.seconds for run in group) for group in found)
            factor = ("> " if any(run.ended for run in found[1]) else "") + f"{busy / quiet:.2f}"
            lines.append(f"| {what} | {commit} | {spread(found[0])} | {spread(found[1])} | {factor} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--base", type=Path, help="another checkout to compare with")
    parser.add_argument("--what", choices=("step", "demo", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds after which a run is ended")
    parser.add_argument("--stop_after", type=float, default=float("inf"), help="seconds after which no run begins")
    parser.add_argument("--output_dir", type=Path, help="folder for busy_machine.json")
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    checkouts = [here] if options.base is None else [options.base.resolve(), here]
    file = None if options.output_dir is None else options.output_dir / "busy_machine.json"
    runs = [Run(**each) for each in json.loads(file.read_text())] if file is not None and file.exists() else []
    began = time.monotonic()
    for what in ("step", "demo") if options.what == "both" else (options.what,):
        for number in range(options.rounds):
            for machine in MACHINES:
                for checkout in checkouts:
                    key = (what, commit_of(checkout), machine, number)
                    known = any((run.what, run.commit, run.machine, run.number) == key for run in runs)
                    if known or time.monotonic() - began > options.stop_after:
                        continue
                    runs.append(measure(what, checkout, machine, number, options.limit))
                    print(json.dumps(asdict(runs[-1])), file=sys.stderr, flush=True)
                    if file is not None:
                        file.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    print(f"{time.strftime('%Y-%m-%d')}, {os.uname().machine}, two cores\n\n{table(runs)}")


if __name__ == "__main__":
    main()
