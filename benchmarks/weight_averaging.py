"""LP-FT as the recipe auto chooses it: the mean of the weights over the steps against those of the last step.

    python benchmarks/weight_averaging.py --animals animals.npz --output_dir benchmarks/results --document RESULTS.md

Both are of one and the same training, measured on 500 images that are neither trained nor tested on; there are none
of Fashion-MNIST at 200 images of each class. Results are written after each run, and runs that are there are skipped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from automatic import replace_section
from transfer_tasks import DATA_SETS, SEEDS, Task, load_lite0, make_task
from transformers import TrainerCallback

import hf_transfer as ht
from hf_transfer.data import collate, eval_transform, train_transform
from hf_transfer.diagnosis.priors import ARGUMENTS, lp_ft_options
from hf_transfer.plans.recipes import lp_ft

SIZES = (10, 50)
PARTS = ("last_part", "all_layers")
Row = dict[str, Any]


class LastStep(TrainerCallback):
    """Keeps the weights of the latest step."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def run(task: Task, part: str) -> Row:
    """Accuracy of the mean and of the last step."""
    loaded = load_lite0(task.label_names, task.seed)
    last = LastStep()
    with tempfile.TemporaryDirectory() as folder:
        args = ht.TransferArguments(
            folder, report_to="none", disable_tqdm=True, remove_unused_columns=False, save_strategy="no",
            per_device_train_batch_size=ARGUMENTS["train_batch_size"], per_device_eval_batch_size=64,
            lr_scheduler_type=ARGUMENTS["lr_scheduler_type"], warmup_steps=ARGUMENTS["warmup_steps"],
            weight_decay=ARGUMENTS["weight_decay"], seed=task.seed, dataloader_pin_memory=False, use_cpu=True,
            logging_strategy="no",
        )  # fmt: skip
        trainer = ht.TransferTrainer(
            loaded.model, args, plan=lp_ft(**lp_ft_options(part, len(task.train))), data_collator=collate,
            processing_class=loaded.processor, callbacks=[last],
            train_dataset=task.train.with_transform(train_transform(loaded.processor, "none")),
        )  # fmt: skip
        trainer.train()
        images = task.validation.with_transform(eval_transform(loaded.processor))

        def accuracy() -> float:
            logits = np.asarray(trainer.predict(images).predictions)
            return float((logits.argmax(axis=1) == np.asarray(task.validation["label"])).mean())

        mean = accuracy()
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                parameter.copy_(last.weights[name])
        return {"mean": mean, "last_step": accuracy(), "steps": trainer.state.global_step}


def table(rows: list[Row]) -> str:
    """Markdown: means over the samples, and the range of the differences in points."""
    lines = [
        "| data | images a class | LP-FT of | samples | last step | mean of the weights | points |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for data_set, size, part in sorted({(row["data_set"], row["per_class"], row["part"]) for row in rows}):
        own = [row for row in rows if (row["data_set"], row["per_class"], row["part"]) == (data_set, size, part)]
        gains = [100 * (row["mean"] - row["last_step"]) for row in own]
        last, mean = (statistics.mean(row[name] for row in own) for name in ("last_step", "mean"))
        lines.append(
            f"| {data_set} | {size} | {part.replace('_', ' ')} | {len(own)} | {last:.3f} | {mean:.3f} | "
            f"{statistics.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--animals", type=Path)
    parser.add_argument("--document", type=Path, help="Markdown file; what is between the two marks is replaced.")
    parser.add_argument("--data_sets", nargs="+", default=DATA_SETS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = options.output_dir / "weight_averaging.json"
    rows: list[Row] = json.loads(file.read_text()) if file.is_file() else []
    for data_set, size, seed, part in product(options.data_sets, options.sizes, options.seeds, options.parts):
        cell = {"data_set": data_set, "per_class": size, "seed": seed, "part": part}
        if any(cell.items() <= row.items() for row in rows):
            continue
        rows.append(cell | run(make_task(data_set, size, seed, options.animals), part))
        print(rows[-1], flush=True)
        file.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    if options.document is not None:
        replace_section(options.document, "weight_averaging.py", table(rows))


if __name__ == "__main__":
    main()
