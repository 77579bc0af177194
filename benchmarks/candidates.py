"""Every candidate recipe in full, on two data sets of three sizes: what choosing among them is measured against.

    python benchmarks/candidates.py --animals animals.npz --output_dir benchmarks/results

EfficientNet-Lite0 with its ImageNet weights at 96 pixels, in one thread; 10, 50 and 200 training images of each of ten
classes of Fashion-MNIST (the demo's) and of animals (28 x 28 grey cut-outs; not part of this repository), sampled by
seed. Accuracy is that on 1,000 test images, on which nothing was chosen: settings come from `candidate_settings.py`.
CPU seconds (user and system) are of everything from the loaded model and data to the result, its evaluation left out.

Each cell runs in a process of its own and is written when it is done; cells that are there are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfer_runs import PROBES, FineTuning, run_fine_tuning, run_probes
from transfer_tasks import DATA_SETS, SEEDS, SIZES, make_task

# No augmentation: in so few steps flips and shifts cost more than they give (`candidate_settings.py`).
LP_FT = FineTuning(learning_rate=1e-3, head_lr_ratio=1.0, epochs=4, min_steps=100, augmentation="none")
# What users of Trainer do without further thought: one rate for all, batch normalisation as it trains.
PLAIN = replace(LP_FT, epochs=3, min_steps=96, norm="train", solved_head=False, weight_decay=0.0)
CANDIDATES: dict[str, dict[int, FineTuning]] = {
    # Steps are cheap where the frozen part is cached, and more of them help; averaged as a diagnosis chooses it.
    "last_stages_lp_ft": {
        size: replace(LP_FT, train="part:half", epochs=6, min_steps=384, average_from=share)
        for size, share in ((10, 0.1), (50, 0.25), (200, None))
    },
    # The plain recipe of four epochs, and what a diagnosis would choose of this kind, but for the mean of the weights.
    "lp_ft": dict.fromkeys(SIZES, LP_FT),
    "lp_ft_layer_decay": dict.fromkeys(SIZES, replace(LP_FT, layer_decay=0.85, min_steps=256)),
    "fine_tune": dict.fromkeys(SIZES, replace(LP_FT, solved_head=False, learning_rate=5e-4, head_lr_ratio=10.0)),
    "plain": {10: PLAIN, 50: PLAIN, 200: replace(PLAIN, batch_size=32)},
    "scratch": dict.fromkeys(SIZES, replace(LP_FT, norm="train", solved_head=False, random_weights=True)),
}
# The probes share their features, hence a process.
JOBS = ("probes", *CANDIDATES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--animals", type=Path)
    parser.add_argument("--data_sets", nargs="+", default=DATA_SETS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--jobs", nargs="+", default=JOBS, choices=JOBS)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="Begin no cell after this time.")
    parser.add_argument(
        "--cell", nargs=4, metavar=("DATA_SET", "SIZE", "SEED", "JOB"), help="Run this one, and print."
    )
    options = parser.parse_args()
    if options.cell:
        data_set, size, seed, job = options.cell
        print(json.dumps(run_cell(data_set, int(size), int(seed), job, options.animals)))
        return
    file, started = options.output_dir / "candidates.json", time.monotonic()
    results = json.loads(file.read_text()) if file.is_file() else {"cells": []}
    for size, seed, job, data_set in cells(options):
        if is_there(results["cells"], data_set, size, seed, job):
            continue
        if time.monotonic() - started > options.minutes * 60:
            raise SystemExit(75)  # "temporary failure": call again
        found = in_own_process(options.animals, data_set, size, seed, job)
        results["cells"] += found
        write(file, results)
        for cell in found:
            print(*(cell[key] for key in ("data_set", "per_class", "seed", "candidate", "accuracy")), flush=True)
    print(table(results["cells"]))


def cells(options: argparse.Namespace) -> list[tuple[int, int, str, str]]:
    """Sizes, seeds, jobs and data sets in the order in which they run: small and cheap first."""
    return [
        (size, seed, job, data_set)
        for size in sorted(options.sizes)
        for job in options.jobs
        for seed in options.seeds
        for data_set in options.data_sets
    ]


def run_cell(data_set: str, size: int, seed: int, job: str, animals: Path | None) -> list[dict[str, Any]]:
    """Run a job; a row for each of its candidates."""
    import torch

    torch.set_num_threads(1)
    task = make_task(data_set, size, seed, animals)
    rows = run_probes(task) if job == "probes" else {job: run_fine_tuning(task, CANDIDATES[job][size])}
    cell = {"data_set": data_set, "per_class": size, "seed": seed}
    return [cell | {"candidate": name} | row for name, row in rows.items()]


def in_own_process(animals: Path | None, data_set: str, size: int, seed: int, job: str) -> list[dict[str, Any]]:
    """The same in a process of its own, in one thread and without a network."""
    command = [sys.executable, __file__, "--output_dir", ".", "--cell", data_set, str(size), str(seed), job]
    command += [] if animals is None else ["--animals", str(animals)]
    with tempfile.TemporaryDirectory() as folder:  # an empty feature cache, or a cell would profit from others
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment["HF_TRANSFER_CACHE"] = folder
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows: list[dict[str, Any]] = json.loads(output.strip().splitlines()[-1])
    return rows


def is_there(rows: list[dict[str, Any]], data_set: str, size: int, seed: int, job: str) -> bool:
    """Whether a job's last candidate has a row."""
    last = PROBES[-1] if job == "probes" else job
    key = {"data_set": data_set, "per_class": size, "seed": seed, "candidate": last}
    return any(key.items() <= row.items() for row in rows)


def write(file: Path, results: dict[str, Any]) -> None:
    """Write results with the versions they come from, never half."""
    from hf_transfer.utils.environment import collect_hardware, collect_versions

    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".part")
    half.write_text(json.dumps(results | {"versions": collect_versions(), "hardware": collect_hardware()}, indent=1))
    half.replace(file)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean accuracy over the seeds, its range, and CPU seconds."""
    lines = [
        "| data set | images a class | candidate | accuracy | range | seeds | CPU s |",
        "|---|---:|---|---:|---|---:|---:|",
    ]
    keys = sorted({(row["data_set"], row["per_class"]) for row in rows}, reverse=False)
    for data_set, size in keys:
        for candidate in (*PROBES, *CANDIDATES):
            key = {"data_set": data_set, "per_class": size, "candidate": candidate}
            found = [row for row in rows if key.items() <= row.items()]
            if not found:
                continue
            accuracies = [row["accuracy"] for row in found]
            cost = statistics.mean(row["cpu_seconds"] for row in found)
            lines.append(
                f"| {data_set} | {size} | {candidate} | {statistics.mean(accuracies):.3f} | {min(accuracies):.3f} to "
                f"{max(accuracies):.3f} | {len(found)} | {cost:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
