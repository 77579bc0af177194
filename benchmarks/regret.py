"""Regret: what the diagnosis chooses against the best of all candidates run in full, and what it costs against them.

    python benchmarks/regret.py --animals animals.npz --output_dir benchmarks/results --document benchmarks/RESULTS.md

Reads `candidates.json` of the output folder, measures each task in a process of its own (once: decisions are made anew
from what `regret.json` keeps), and writes `regret.json` and the tables of candidates and regret in the document. The
accuracy of a choice is that of the candidate of the same kind (what the head reads, or what is trained, with layer
decay or without) on the same training images and seed. The test images played no part in any choice.
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
from pathlib import Path
from typing import Any

from candidates import CANDIDATES, table
from transfer_runs import PROBES
from transfer_tasks import DATA_SETS, SEEDS, SIZES, load_lite0, make_task

# No layer of lite0 but the last can be what an ordinary checkpoint's head reads.
NOT_ORDINARY = ("probe_best_depth", "probe_all_depths")
PREFERENCES = ("fast", "balanced", "best")
BEGIN, END = "<!-- regret.py writes from here -->", "<!-- to here -->"
WRONG = 0.01
ALL_CANDIDATES = len(PROBES) + len(CANDIDATES)
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--document", type=Path, help="Markdown file; what is between the two marks is replaced.")
    parser.add_argument("--animals", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--fresh", action="store_true", help="Measure again what was measured before.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="Begin no measurement after this time.")
    parser.add_argument("--cell", nargs=3, metavar=("DATA_SET", "SIZE", "SEED"), help="Measure this one, and print.")
    options = parser.parse_args()
    if options.cell:
        data_set, size, seed = options.cell
        print(json.dumps(measured(data_set, int(size), int(seed), options.animals)))
        return
    file, started = options.output_dir / "regret.json", time.monotonic()
    found = json.loads(file.read_text())["measured"] if file.is_file() and not options.fresh else []
    tasks = [(name, size, seed) for size in options.sizes for seed in options.seeds for name in DATA_SETS]
    for task in tasks:
        if any(key_of(row) == task for row in found):
            continue
        if time.monotonic() - started > options.minutes * 60:
            raise SystemExit(75)  # "temporary failure": call again
        found.append(in_own_process(options.animals, *task))
        print(*task, flush=True)
        write(file, {"measured": found})
    diagnoses = [decided(row) for row in found]
    write(file, {"measured": found, "diagnoses": diagnoses})
    candidates = json.loads((options.output_dir / "candidates.json").read_text())["cells"]
    rows = [row for diagnosis in diagnoses if (row := judged(diagnosis, candidates)) is not None]
    text = section(rows, diagnoses)
    print(text)
    if options.document is not None:
        before, _, rest = options.document.read_text().partition(BEGIN)
        whole = f"{before}{BEGIN}\n\n{table(candidates)}\n\n{text}\n\n{END}{rest.partition(END)[2]}"
        options.document.write_text(whole)


def key_of(row: Row) -> tuple[str, int, int]:
    """What tells tasks apart."""
    return row["data_set"], row["per_class"], row["seed"]


def measured(data_set: str, size: int, seed: int, animals: Path | None) -> Row:
    """Measure a task as a diagnosis without a budget does, and what that costs."""
    import torch

    from hf_transfer.data import eval_transform
    from hf_transfer.diagnosis.decide import decide
    from hf_transfer.diagnosis.measuring import measure

    torch.set_num_threads(1)
    task = make_task(data_set, size, seed, animals)
    loaded = load_lite0(task.label_names, seed)
    images = task.train.with_transform(eval_transform(loaded.processor))
    started = time.process_time()
    evidence = measure(loaded.model, images, loaded.processor, seed=seed, progress=False)
    decide(evidence)
    cost = time.process_time() - started
    task_facts = {"data_set": data_set, "per_class": size, "seed": seed}
    return task_facts | {"cpu_seconds": cost, "measurements": evidence.to_dict()}


def decided(measurement: Row) -> Row:
    """The choice on measurements under each preference, with probe files and without."""
    from hf_transfer.diagnosis.decide import decide
    from hf_transfer.diagnosis.measurements import Measurements

    evidence = Measurements.from_dict(measurement["measurements"])
    decisions = {prefer: decide(evidence, prefer) for prefer in PREFERENCES}
    decisions["with probe files"] = decide(evidence, "balanced", allow_probe_file=True)
    balanced = decisions["balanced"]
    return {name: value for name, value in measurement.items() if name != "measurements"} | {
        "scenario": balanced.scenario,
        "choices": {name: kind(each.recipe, each.layer, each.options) for name, each in decisions.items()},
        "options": {name: dict(each.options) for name, each in decisions.items()},
        "reasons": list(balanced.reasons),
        "expected": {
            kind(each.recipe, each.layer, each.options): round(each.accuracy, 4)
            for each in reversed(balanced.candidates)  # of several depths the best comes first
        },
    }


def kind(recipe: str, layer: str, options: Any) -> str:
    """The candidate of `candidates.py` that is of the same kind as a choice."""
    if recipe == "linear_probe":
        return {"last": "probe_last", "all": "probe_all_depths"}.get(layer, "probe_best_depth")
    if recipe != "lp_ft":
        return {"from_scratch": "scratch"}.get(recipe, recipe)
    if options.get("train", "all") != "all":
        return "last_stages_lp_ft"
    return "lp_ft" if options.get("layer_decay", 1.0) == 1.0 else "lp_ft_layer_decay"


def judged(diagnosis: Row, candidates: list[Row]) -> Row | None:
    """A diagnosis with its regret; None where the chosen candidate was not run on this task."""
    run = {row["candidate"]: row for row in candidates if key_of(row) == key_of(diagnosis)}
    choices = diagnosis["choices"]
    if choices["balanced"] not in run:
        return None
    ordinary = {name: row for name, row in run.items() if name not in NOT_ORDINARY}
    best, best_of_all = (max(each.values(), key=lambda row: row["accuracy"]) for each in (ordinary, run))
    chosen = run[choices["balanced"]]
    free = run.get(choices["with probe files"])
    cost = diagnosis["cpu_seconds"] + chosen["cpu_seconds"]
    return diagnosis | {
        "chosen": chosen,
        "best": best,
        "best_of_all": best_of_all,
        "regret": best["accuracy"] - chosen["accuracy"],
        "regret_of_all": None if free is None else best_of_all["accuracy"] - free["accuracy"],
        "cost": cost,
        # Only what was run in full can be compared in cost.
        "cost_share": cost / sum(row["cpu_seconds"] for row in run.values()) if len(run) == ALL_CANDIDATES else None,
        "regrets": {p: best["accuracy"] - run[choices[p]]["accuracy"] for p in PREFERENCES if choices[p] in run},
        "candidates": len(run),
    }


def section(rows: list[Row], diagnoses: list[Row]) -> str:
    """The tables and what they come to, in Markdown."""
    if not rows:
        return "No task has both a diagnosis and the candidate that it chose."
    lines = [
        "| data | size | seed | case | chosen | accuracy | ordinary | regret | best of all | run | CPU s | of all |",
        "|---|---:|---:|---|---|---:|---|---:|---|---:|---:|---:|",
    ]
    for row in sorted(rows, key=key_of):
        best, over = row["best"], row["best_of_all"]
        lines.append(
            f"| {row['data_set']} | {row['per_class']} | {row['seed']} | {row['scenario']} | "
            f"{row['chosen']['candidate']} | {row['chosen']['accuracy']:.3f} | "
            f"{best['candidate']} {best['accuracy']:.3f} | "
            f"{100 * row['regret']:.1f} | {over['candidate']} {over['accuracy']:.3f} | "
            f"{row['candidates']} of {ALL_CANDIDATES} | {row['cost']:.0f} | {share(row['cost_share'])} |"
        )
    return "\n".join([*lines, "", *summary(rows, diagnoses), "", *mistakes(rows)])


def summary(rows: list[Row], diagnoses: list[Row]) -> list[str]:
    """Medians over the tasks."""
    costs = [row["cost_share"] for row in rows if row["cost_share"] is not None]
    lines = [
        f"- Tasks: {len(rows)} of {len(diagnoses)}. {completeness(rows)}",
        f"- Diagnosis alone: median {statistics.median(row['cpu_seconds'] for row in rows):.0f} CPU s, highest "
        f"{max(row['cpu_seconds'] for row in rows):.0f}. Diagnosis and choice over all candidates: "
        + (
            f"median {share(statistics.median(costs))}, highest {share(max(costs))} ({len(costs)} tasks)."
            if costs
            else "not known, since on no task all were run."
        ),
    ]
    for prefer in PREFERENCES:
        regrets = [row["regrets"][prefer] for row in rows if prefer in row["regrets"]]
        if regrets:
            lines.append(f"- Regret, `prefer={prefer}`: {in_points(regrets)}.")
    free = [row["regret_of_all"] for row in rows if row["regret_of_all"] is not None]
    if free:
        lines.append(f"- Regret against the best of all, with `allow_probe_file`: {in_points(free)}.")
    return lines


def share(part: float | None) -> str:
    """In per cent; a dash where it is not known."""
    return "-" if part is None else f"{part:.0%}"


def completeness(rows: list[Row]) -> str:
    """How many of the candidates the best is the best of."""
    fewest = min(row["candidates"] for row in rows)
    if fewest == ALL_CANDIDATES:
        return f"All {ALL_CANDIDATES} candidates were run on each."
    return (
        f"Of {ALL_CANDIDATES} candidates at least {fewest} were run on each; the best is the best of those: regrets "
        "are too small where some are missing."
    )


def in_points(regrets: list[float]) -> str:
    """Median, mean and highest regret."""
    points = [100 * each for each in regrets]
    return (
        f"median {statistics.median(points):.1f} points, mean {statistics.mean(points):.1f}, highest "
        f"{max(points):.1f} ({len(points)} tasks)"
    )


def mistakes(rows: list[Row]) -> list[str]:
    """Where the choice was more than a point behind, with what had been expected."""
    wrong = [row for row in sorted(rows, key=lambda row: -row["regret"]) if row["regret"] > WRONG]
    if not wrong:
        return ["No choice was more than a point behind the best ordinary candidate that was run."]
    lines = ["Choices that were more than a point behind the best ordinary candidate:", ""]
    for row in wrong:
        chosen, best, expected = row["chosen"], row["best"], row["expected"]
        known = expected.get(best["candidate"])
        hope = "not among the diagnosis's candidates" if known is None else f"expected {known:.3f}"
        lines.append(
            f"- {row['data_set']}, {row['per_class']} a class, seed {row['seed']}: {chosen['candidate']} "
            f"{chosen['accuracy']:.3f} (expected {expected.get(chosen['candidate'], float('nan')):.3f}); "
            f"{best['candidate']} {best['accuracy']:.3f} ({hope})."
        )
    return lines


def in_own_process(animals: Path | None, data_set: str, size: int, seed: int) -> Row:
    """A diagnosis in one thread, without a network and with an empty feature cache."""
    command = [sys.executable, __file__, "--output_dir", ".", "--cell", data_set, str(size), str(seed)]
    command += [] if animals is None else ["--animals", str(animals)]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment["HF_TRANSFER_CACHE"] = folder
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    row: Row = json.loads(output.strip().splitlines()[-1])
    return row


def write(file: Path, results: Row) -> None:
    """Write results with the versions they come from, never half."""
    from hf_transfer.utils.environment import collect_hardware, collect_versions

    half = file.with_suffix(".part")
    half.write_text(json.dumps(results | {"versions": collect_versions(), "hardware": collect_hardware()}, indent=1))
    half.replace(file)


if __name__ == "__main__":
    main()
