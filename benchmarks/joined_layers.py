"""A linear probe on twelve layers side by side: on all their channels, and on the leading axes of each.

    python benchmarks/joined_layers.py --animals animals.npz --output_dir benchmarks/results --document RESULTS.md

Logistic regression on features of the frozen EfficientNet-Lite0 at 96 pixels, for tasks as in `candidates.py`. The
rule of `hf_transfer.solvers.joined` (axes where images are at least five times as many as axes of a layer) was chosen
by the cross-validated accuracies; accuracies on the 1,000 test images are shown beside them. CPU seconds are of one
solution, features given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from automatic import replace_section
from transfer_tasks import DATA_SETS, SEEDS, SIZES, load_lite0, make_task

import hf_transfer as ht
from hf_transfer.data import eval_transform
from hf_transfer.features.depths import layers_at_depths
from hf_transfer.solvers import joined

# Images for an axis above which axes are taken: never, and always.
WAYS = {"channels": float("inf"), "axes": 0}
Row = dict[str, Any]


def run(data_set: str, size: int, seed: int, animals: Path | None) -> list[Row]:
    """Both ways on one task."""
    task = make_task(data_set, size, seed, animals)
    loaded = load_lite0(task.label_names, seed)
    transform = eval_transform(loaded.processor)
    names = layers_at_depths(loaded.model)
    trained, tested = (
        list(ht.extract_features(loaded.model, images.with_transform(transform), loaded.processor, names,
                                 cache=False, progress=False).values())
        for images in (task.train, task.test)
    )  # fmt: skip
    places = joined.distinct(trained)
    parts, test = [trained[place] for place in places], np.concatenate([tested[place] for place in places], axis=1)
    rows = []
    for way, fewest in WAYS.items():
        with mock.patch.object(joined, "_IMAGES_PER_AXIS", fewest):
            started = time.process_time()
            solved = joined.solve_joined(parts, np.asarray(task.train["label"]), classes=len(task.label_names))
            seconds = time.process_time() - started
        right = solved.head.scores(test).argmax(axis=1) == np.asarray(task.test["label"])
        rows.append(
            {"data_set": data_set, "per_class": size, "seed": seed, "way": way}
            | {"held_out": solved.accuracy, "test": float(right.mean()), "cpu_seconds": seconds}
        )
    return rows


def table(rows: list[Row]) -> str:
    """Markdown: means over the samples."""
    lines = [
        "| data | images a class | probe on | samples | cross-validated | test images | CPU s |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for data_set, size, way in product(DATA_SETS, SIZES, WAYS):
        own = [row for row in rows if (row["data_set"], row["per_class"], row["way"]) == (data_set, size, way)]
        if own:
            held_out, test, seconds = (
                statistics.mean(r[name] for r in own) for name in ("held_out", "test", "cpu_seconds")
            )
            lines.append(f"| {data_set} | {size} | {way} | {len(own)} | {held_out:.3f} | {test:.3f} | {seconds:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--animals", type=Path)
    parser.add_argument("--document", type=Path, help="Markdown file; what is between the two marks is replaced.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row
        for data_set, size, seed in product(DATA_SETS, SIZES, SEEDS)
        for row in run(data_set, size, seed, options.animals)
    ]
    (options.output_dir / "joined_layers.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    if options.document is not None:
        replace_section(options.document, "joined_layers.py", table(rows))


if __name__ == "__main__":
    main()
