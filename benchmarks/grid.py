"""The grid on which defaults and priors rest: candidates in full on data sets, sizes and networks from packages.

    python benchmarks/grid.py --packages FOLDER --output benchmarks/results/grid.jsonl --hours 8
    python benchmarks/grid.py --packages FOLDER --files            # what FOLDER must hold, and how to get it

One JSON line for each candidate that has run; what is there is skipped, so that it can be stopped at any time. The
order is a fractional design: first the small cases of a Latin square of data sets, sizes and networks, with the probes
and three trainings; then the probes everywhere; then the other trainings of the square, and the rest; then more seeds
where the best two of a case are within two points. 96 pixels, one thread. CPU seconds are of the training, with the
head's features, and not of the test.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from grid_cases import DATA_SETS, FILES, NETWORKS, load_network, make_case
from grid_runs import TRAININGS, run_probes, run_training
from transfer_runs import PROBES

from hf_transfer.utils.environment import collect_versions

SEEDS = (0, 1, 2)
NEAR = 0.02
SMALL = 500
"""Training images of a case whose first trainings run before the probes of all."""
PROBE_JOB = "probes"
_FIRST = ("half_1e-3", "all_3e-4", "half_3e-4", "fine_tune", "all_1e-3", "norm_only", "half_light", "bias_only")
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One process's work: the probes of a case or one training."""

    data_set: str
    size: int
    network: str
    seed: int
    job: str

    @property
    def case(self) -> tuple[str, int, str]:
        """What is compared."""
        return self.data_set, self.size, self.network

    def is_in(self, rows: list[Row]) -> bool:
        """Whether it has run."""
        candidate = PROBES[-1] if self.job == PROBE_JOB else self.job
        return any(
            (*_case_of(row), row["seed"], row["candidate"]) == (*self.case, self.seed, candidate) for row in rows
        )


def design() -> list[tuple[str, int, str]]:
    """All cases; first those in which each data set's n-th size has the network of a Latin square."""
    networks = list(NETWORKS)
    squares = [
        (name, size, networks[(place + step + shift) % len(networks)], shift, step)
        for place, (name, data) in enumerate(DATA_SETS.items())
        for step, size in enumerate(data.sizes)
        for shift in range(len(networks))
    ]
    return [each[:3] for each in sorted(squares, key=lambda each: (each[3], each[4]))]


def jobs(rows: list[Row]) -> Iterator[Job]:
    """Jobs in their order; what has run is among them."""
    cases = design()
    first = cases[: len(cases) // len(NETWORKS)]
    small = [case for case in first if case[1] * DATA_SETS[case[0]].classes <= SMALL]
    others = [case for case in first if case not in small] + cases[len(first) :]
    passes = [(small, name) for name in (PROBE_JOB, *_FIRST[:3])] + [(others, PROBE_JOB)]
    passes += [(first, name) for name in _FIRST] + [(others, name) for name in _FIRST]
    for part, job in passes:
        for case in part:
            yield Job(*case, seed=0, job=job)
    for seed in SEEDS[1:]:
        for case in cases:
            for candidate in near(rows, case):
                yield Job(*case, seed=seed, job=PROBE_JOB if candidate in PROBES else candidate)


def near(rows: list[Row], case: tuple[str, int, str]) -> list[str]:
    """Candidates of a case, where the second is near the best: both, and all others as near."""
    by_candidate: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if _case_of(row) == case:
            by_candidate[row["candidate"]].append(row["test"]["balanced_accuracy"])
    means = {name: sum(values) / len(values) for name, values in by_candidate.items()}
    close = [name for name, mean in means.items() if mean >= max(means.values()) - NEAR]
    return close if len(close) > 1 else []


def run(job: Job, packages: Path) -> list[Row]:
    """A row for each candidate of a job."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_TRANSFER_CACHE"] = cache
        return _run(job, packages)


def _run(job: Job, packages: Path) -> list[Row]:
    task = make_case(job.data_set, job.size, job.seed, packages)
    loaded = load_network(job.network, task.label_names, job.seed, packages)
    trained = {} if job.job == PROBE_JOB else {job.job: run_training(task, loaded, TRAININGS[job.job])}
    found = trained or run_probes(task, loaded)
    case = {
        "data_set": job.data_set, "family": DATA_SETS[job.data_set].family, "per_class": job.size,
        "classes": len(task.label_names), "train_images": len(task.train), "test_images": len(task.test),
        "network": job.network, "seed": job.seed,
    }  # fmt: skip
    return [case | {"candidate": name} | row | {"versions": collect_versions()} for name, row in found.items()]


def read(file: Path) -> list[Row]:
    """Rows of a results file; none if there is none."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="Folder of the downloaded packages.")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/grid.jsonl"))
    parser.add_argument("--hours", type=float, default=8.0, help="Begin no job that would probably end after this.")
    parser.add_argument("--files", action="store_true", help="Print what --packages must hold, and end.")
    options = parser.parse_args()
    if options.files:
        for file in FILES.values():
            print(f"{file.name}\n    {file.command}\n    licence: {file.licence}\n    SHA-256 {file.sha256}")
    else:
        _run_all(options)


def _run_all(options: argparse.Namespace) -> None:
    options.output.parent.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 3600 * options.hours
    rows, longest = read(options.output), 0.0
    for job in jobs(rows):
        if job.is_in(rows):
            continue
        started = time.monotonic()
        if started + longest > ends:
            print("The time is used up; call again to go on.")
            return
        # A process of its own, so that no run profits from another's memory or caches; a fork imports nothing anew.
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found = pool.apply(run, (job, options.packages))
        rows += found
        with options.output.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)
        longest = max(longest, time.monotonic() - started)
        for row in found:
            print(*_case_of(row), row["seed"], row["candidate"], row["test"]["accuracy"], row["test"]["log_loss"])
        sys.stdout.flush()


def _case_of(row: Row) -> tuple[str, int, str]:
    return row["data_set"], row["per_class"], row["network"]


if __name__ == "__main__":
    main()
