"""CPU time until a command answers, in two checkouts side by side.

    python benchmarks/startup.py --base ../older-checkout

Each command is a process of its own, run in turn in both checkouts; the table has the least, median and largest CPU
time (user and system) and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

COMMANDS = (["--help"], ["train", "--help"], ["inspect", "timm:resnet18"])


def cpu_seconds(checkout: Path, words: list[str]) -> float:
    """CPU seconds of one command with the package of a checkout."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "hf_transfer", *words],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spread(values: list[float]) -> str:
    """Least, median and largest."""
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--base", type=Path, required=True, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    here, base = Path(__file__).resolve().parents[1], options.base.resolve()
    print("| command | base, s | here, s | ratio of medians |\n| --- | --- | --- | --- |")
    for words in COMMANDS:
        for checkout in (base, here):
            cpu_seconds(checkout, words)  # compiles the sources
        found: dict[Path, list[float]] = {base: [], here: []}
        for _ in range(options.rounds):
            for checkout, values in found.items():
                values.append(cpu_seconds(checkout, words))
        ratio = statistics.median(found[here]) / statistics.median(found[base])
        print(f"| `hf-transfer {' '.join(words)}` | {spread(found[base])} | {spread(found[here])} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
