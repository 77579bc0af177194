"""CPU time until a command answers, in two checkouts side by side.

    python benchmarks/startup.py --base ../older-checkout

Each command is a process of its own, run in turn in both checkouts. The table has the median, least and largest CPU
time (user and system) of the whole process, the ratio of the medians, and a Python that runs nothing to compare with.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

COMMANDS = (["--help"], ["train", "--help"], ["inspect", "timm:resnet18"], ["inspect", "transformers:vit"])


def cpu_seconds(checkout: Path, words: list[str]) -> float:
    """CPU seconds of a Python with the package of a checkout."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spread(values: list[float]) -> str:
    """Median, least and largest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--base", type=Path, required=True, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    here, base = Path(__file__).resolve().parents[1], options.base.resolve()
    print("| command | base, s | here, s | here over base |\n| --- | ---: | ---: | ---: |")
    rows = {"`python -c pass`": ["-c", "pass"]}
    rows |= {f"`hf-transfer {' '.join(words)}`": ["-m", "hf_transfer", *words] for words in COMMANDS}
    for name, words in rows.items():
        for checkout in (base, here):
            cpu_seconds(checkout, words)  # reads the files from disk
        found: dict[Path, list[float]] = {base: [], here: []}
        for _ in range(options.rounds):
            for checkout, values in found.items():
                values.append(cpu_seconds(checkout, words))
        ratio = statistics.median(found[here]) / statistics.median(found[base])
        print(f"| {name} | {spread(found[base])} | {spread(found[here])} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
