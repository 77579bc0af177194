"""Settings of fine-tuning by the number of images, chosen on images that are neither trained nor tested on.

    python benchmarks/candidate_settings.py --animals animals.npz --output_dir benchmarks/results

What is found is what `candidates.py` runs. Results are written after each run, and runs that are there are skipped.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfer_runs import FineTuning, run_fine_tuning
from transfer_tasks import DATA_SETS, make_task

FULL = FineTuning(min_steps=100)
LAST = replace(FULL, train="blocks:5", augmentation="none")
# By images of each class. The first of a list is the start, the others change something of it or of the best so far.
TRIED: dict[int, dict[str, FineTuning]] = {
    10: {
        "last-5e-4": LAST,
        "last-2e-4": replace(LAST, learning_rate=2e-4, head_lr_ratio=5.0),
        "last-1e-3": replace(LAST, learning_rate=1e-3, head_lr_ratio=1.0),
        "last-5e-4-4-views": replace(LAST, augmentation="light", cache_views=4),
        "last-5e-4-new-head": replace(LAST, solved_head=False, head_lr_ratio=10.0),
        "5e-4-light": FULL,
        "5e-4-none": replace(FULL, augmentation="none"),
        "2e-4-light": replace(FULL, learning_rate=2e-4, head_lr_ratio=5.0),
        "1e-3-light": replace(FULL, learning_rate=1e-3, head_lr_ratio=1.0),
        "1e-3-light-decay": replace(FULL, learning_rate=1e-3, head_lr_ratio=1.0, layer_decay=0.85),
        "5e-4-light-new-head": replace(FULL, solved_head=False, head_lr_ratio=10.0),
    },
    50: {
        "1e-3-none": replace(FULL, learning_rate=1e-3, head_lr_ratio=1.0, augmentation="none"),
        "1e-3-none-8": replace(FULL, learning_rate=1e-3, head_lr_ratio=1.0, augmentation="none", epochs=8),
        "5e-4-none-decay": replace(FULL, augmentation="none", layer_decay=0.85),
        "5e-4-none-new-head": replace(FULL, augmentation="none", solved_head=False, head_lr_ratio=10.0),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--animals", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=sorted(TRIED))
    parser.add_argument("--data_sets", nargs="+", default=DATA_SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", help="Names of settings.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="Begin no run after this time.")
    options = parser.parse_args()
    file, started = options.output_dir / "candidate_settings.json", time.monotonic()
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    for size in options.sizes:
        for seed in options.seeds:
            for setting in options.only or TRIED[size]:
                for name in options.data_sets:
                    cell = {"data_set": name, "per_class": size, "seed": seed, "setting": setting}
                    if any(
                        cell.items() <= row.items() and FineTuning(**row["settings"]) == TRIED[size][setting]
                        for row in found
                    ):
                        continue
                    if time.monotonic() - started > options.minutes * 60:
                        raise SystemExit(75)
                    task = make_task(name, size, seed, options.animals)
                    row = cell | run_fine_tuning(task, TRIED[size][setting], "validation")
                    print(
                        {k: row[k] for k in (*cell, "accuracy", "cpu_seconds", "head_accuracy") if k in row},
                        flush=True,
                    )
                    found.append(row)
                    file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
