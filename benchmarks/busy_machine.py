"""The demo on quiet cores, and beside a process that never sleeps and is pinned to one of two cores.

    python benchmarks/busy_machine.py                              # this checkout
    python benchmarks/busy_machine.py --base ../older-checkout     # both, in turn
    python benchmarks/busy_machine.py --step                       # one training step alone: seconds, not minutes

The seconds are those of the training in the demo's `run.json`. The busy process is ended with each run, and a run that
takes longer than `--limit` seconds counts as that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

STEP = """
import time, torch, timm
torch.manual_seed(0)
model = timm.create_model("tf_efficientnet_lite0", num_classes=10)
images, labels = torch.randn(16, 3, 96, 96), torch.arange(16) % 10
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
seconds = []
for _ in range(8):
    start = time.perf_counter()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.perf_counter() - start)
print(sorted(seconds)[4])
"""


@contextlib.contextmanager
def busy(on: bool, core: int) -> Iterator[None]:
    """A process that never sleeps, pinned to a core, while the context lasts."""
    if not on:
        yield
        return
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def demo_seconds(checkout: Path, cores: set[int], limit: float) -> float:
    """Seconds of training of one demo."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "PYTHONPATH": str(checkout),
            "HF_HUB_OFFLINE": "1",
            "HF_TRANSFER_CACHE": f"{folder}/cache",
        }
        command = [sys.executable, "-m", "hf_transfer", "demo", "--output_dir", f"{folder}/demo"]
        try:
            subprocess.run(
                command,
                cwd=checkout,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
                timeout=limit,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        except subprocess.TimeoutExpired:
            return limit
        record = json.loads(Path(folder, "demo", "run.json").read_text(encoding="utf-8"))
        return float(record["timing"]["train_seconds"])


def step_seconds(policy: str | None, cores: set[int], limit: float) -> float:
    """Seconds of one training step of 16 images with a policy of waiting threads."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_NUM_THREADS": str(len(cores))} | ({} if policy is None else {"OMP_WAIT_POLICY": policy})
    done = subprocess.run(
        [sys.executable, "-c", STEP],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=limit,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return float(done.stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--base", type=Path, help="another checkout to compare with")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds after which a run is ended")
    parser.add_argument("--step", action="store_true", help="time a training step instead of the demo")
    options = parser.parse_args()
    cores = set(sorted(os.sched_getaffinity(0))[:2])
    here = Path(__file__).resolve().parents[1]
    checkouts = [here] if options.base is None else [options.base.resolve(), here]
    ways = ["spinning threads", "yielding threads"] if options.step else [path.name for path in checkouts]
    print(f"{time.strftime('%Y-%m-%d')}, cores {sorted(cores)}\n")
    print("| what | quiet, s | beside a busy process, s | factor |\n| --- | --- | --- | --- |")
    for number, way in enumerate(ways):
        found: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(options.rounds):
            for on, values in found.items():
                with busy(on, max(cores)):
                    if options.step:
                        values.append(step_seconds("PASSIVE" if number else None, cores, options.limit))
                    else:
                        values.append(demo_seconds(checkouts[number], cores, options.limit))
        quiet, loud = statistics.median(found[False]), statistics.median(found[True])
        shown = [", ".join(f"{value:.3g}" for value in values) for values in found.values()]
        print(f"| {way} | {shown[0]} | {shown[1]} | {loud / quiet:.2f} |", flush=True)


if __name__ == "__main__":
    main()
