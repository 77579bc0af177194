"""`hf-transfer train --recipe auto` on Fashion-MNIST against fixed recipes, and what a chosen probe costs.

    python benchmarks/automatic.py --output_dir benchmarks/results --document benchmarks/RESULTS.md
    python benchmarks/automatic.py --output_dir benchmarks/results --document benchmarks/RESULTS.md --cost

The command is run on folders of images: 10, 50 and 200 training images of each class, three samples, with ordinary
checkpoints alone and with `--allow_probe_file`; EfficientNet-Lite0 with its ImageNet weights at 96 pixels, one thread.
Accuracy is that on the demo's 1,000 test images, which no decision looked at. What it is compared with are rows of
`candidates.json` (`candidates.py`): a probe on the last layer, one on the best depth, three epochs of plain
fine-tuning and four of LP-FT.

`--cost` compares, in turns in one process, the CPU time (user and system) of one pass of all 2,000 images through the
network with that of diagnosis, choice (`prefer="fast"`, with probe files) and probe; each begins with the loaded
model, undecoded images and an empty cache.
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
from itertools import product
from pathlib import Path
from typing import Any

from candidates import write
from transfer_tasks import IMAGE_SIZE, SEEDS, SIZES, load_lite0, make_task

COMPARED = ("probe_last", "probe_best_depth", "plain", "lp_ft")
WAYS = {"ordinary": (), "probe files": ("--allow_probe_file",)}
DATA_SET = "fashion_mnist"
ROUNDS = 3
TURNS = {"table": "automatic.py", "cost": "automatic.py --cost"}
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--document", type=Path, help="Markdown file; what is between the two marks is replaced.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--cost", action="store_true", help="Compare CPU times instead.")
    parser.add_argument("--cell", nargs=3, metavar=("SIZE", "SEED", "WAY"), help="Run this one, and print.")
    options = parser.parse_args()
    if options.cell:
        size, seed, way = options.cell
        print(json.dumps(run_command(int(size), int(seed), way)))
        return
    file = options.output_dir / "automatic.json"
    results = json.loads(file.read_text()) if file.is_file() else {"runs": [], "costs": []}
    if options.cost:
        results["costs"] = compare_costs()
        write(file, results)
        text = cost_table(results["costs"])
    else:
        for size, seed, way in product(options.sizes, options.seeds, options.ways):
            if not any(key_of(row) == (size, seed, way) for row in results["runs"]):
                results["runs"].append(in_own_process(size, seed, way))
                write(file, results)
                print(*results["runs"][-1].values(), flush=True)
        cells = json.loads((options.output_dir / "candidates.json").read_text())["cells"]
        text = comparison(results["runs"], [row for row in cells if row["data_set"] == DATA_SET])
    print(text)
    if options.document is not None:
        replace_section(options.document, TURNS["cost" if options.cost else "table"], text)


def key_of(row: Row) -> tuple[int, int, str]:
    """What tells runs apart."""
    return row["per_class"], row["seed"], row["way"]


def run_command(size: int, seed: int, way: str) -> Row:
    """Write the images, run the command, and read what it wrote."""
    import torch

    from hf_transfer.cli import main as hf_transfer
    from hf_transfer.demo.weights import write_lite0_checkpoint

    torch.set_num_threads(1)
    task = make_task(DATA_SET, size, seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for split, images in (("train", task.train), ("validation", task.test)):
            for index, row in enumerate(images):
                path = (
                    folder / "images" / split / task.label_names[row["label"]].replace("/", "-") / f"{index:04d}.png"
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(row["image"]["bytes"])
        checkpoint = write_lite0_checkpoint(folder / "tf_efficientnet_lite0")
        words = ["--model_name_or_path", str(checkpoint), "--dataset", str(folder / "images"), "--seed", str(seed)]
        words += [
            "--image_size",
            str(IMAGE_SIZE),
            "--recipe",
            "auto",
            "--eval_strategy",
            "no",
            "--save_strategy",
            "no",
        ]
        started = time.process_time()
        code = hf_transfer(["train", *words, *WAYS[way], "--output_dir", str(folder / "run")])
        cost = time.process_time() - started
        if code:
            raise SystemExit(code)
        record = json.loads((folder / "run" / "run.json").read_text())
        decision = json.loads((folder / "run" / "diagnosis.json").read_text())
    return {
        "per_class": size,
        "seed": seed,
        "way": way,
        "chosen": decision["chosen"]["name"],
        "accuracy": record["evaluation"]["validation"]["metrics"]["accuracy"]["value"],
        "cpu_seconds": cost,
    }


def in_own_process(size: int, seed: int, way: str) -> Row:
    """The same in a process of its own, in one thread, without a network and with an empty cache."""
    command = [sys.executable, __file__, "--output_dir", ".", "--cell", str(size), str(seed), way]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_TRANSFER_CACHE": folder}
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    row: Row = json.loads(output.strip().splitlines()[-1])
    return row


def comparison(runs: list[Row], cells: list[Row]) -> str:
    """Markdown: each run beside the best of what it is compared with, and means over the samples."""
    lines = [
        "| images a class | sample | way | chosen | accuracy | best of the four | points | CPU s |",
        "|---:|---:|---|---|---:|---|---:|---:|",
    ]
    for row in sorted(runs, key=lambda row: (row["way"], row["per_class"], row["seed"])):
        found = {
            cell["candidate"]: cell["accuracy"]
            for cell in cells
            if (cell["per_class"], cell["seed"]) == (row["per_class"], row["seed"]) and cell["candidate"] in COMPARED
        }
        if len(found) < len(COMPARED):
            continue
        best = max(found, key=lambda name: found[name])
        lines.append(
            f"| {row['per_class']} | {row['seed']} | {row['way']} | {row['chosen']} | {row['accuracy']:.3f} | "
            f"{best} {found[best]:.3f} | {100 * (row['accuracy'] - found[best]):+.1f} | {row['cpu_seconds']:.0f} |"
        )
    return "\n".join([*lines, "", *means(runs, cells)])


def means(runs: list[Row], cells: list[Row]) -> list[str]:
    """Mean accuracies over the samples of a size."""
    lines = []
    for way in WAYS:
        for size in sorted({row["per_class"] for row in runs}):
            own = [row["accuracy"] for row in runs if (row["per_class"], row["way"]) == (size, way)]
            others = {
                name: [cell["accuracy"] for cell in cells if (cell["per_class"], cell["candidate"]) == (size, name)]
                for name in COMPARED
            }
            if not own or any(len(values) != len(own) for values in others.values()):
                continue
            best = max(others, key=lambda name: statistics.mean(others[name]))
            lines.append(
                f"- {size} a class, {way}: mean {statistics.mean(own):.3f} over {len(own)} samples; the best of the "
                f"four in the mean is {best} with {statistics.mean(others[best]):.3f}."
            )
    return lines


def compare_costs() -> list[Row]:
    """CPU seconds of one pass, and of diagnosis and probe, in turns."""
    import torch

    from hf_transfer import LinearProbeTrainer, TransferArguments, diagnose
    from hf_transfer.data import collate, eval_transform
    from hf_transfer.models.memory_format import set_memory_format

    torch.set_num_threads(1)
    task = make_task(DATA_SET, 200, 0)
    rows = []
    for turn in range(ROUNDS):
        loaded = load_lite0(task.label_names, 0)
        images = task.train.with_transform(eval_transform(loaded.processor))
        tested = task.test.with_transform(eval_transform(loaded.processor))
        set_memory_format(loaded.model.eval(), "auto")
        started = time.process_time()
        with torch.inference_mode():
            for batch in torch.utils.data.DataLoader(images, batch_size=32, collate_fn=collate):  # type: ignore[arg-type]
                loaded.model(batch["pixel_values"].contiguous(memory_format=torch.channels_last))
        bare = time.process_time() - started
        loaded = load_lite0(task.label_names, 0)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HF_TRANSFER_CACHE"] = folder
            started = time.process_time()
            found = diagnose(
                loaded.model, images, loaded.processor, prefer="fast", allow_probe_file=True, progress=False
            )
            diagnosed = time.process_time() - started
            trainer = LinearProbeTrainer(
                loaded.model,
                TransferArguments(f"{folder}/run", report_to="none", disable_tqdm=True, dataloader_pin_memory=False),
                train_dataset=images, data_collator=collate, processing_class=loaded.processor,
                layer=found.decision.layer, allow_probe_file=True,
            )  # fmt: skip
            trainer.train()
            whole = time.process_time() - started
            predicted = trainer.predict(tested).predictions
        accuracy = float((predicted.argmax(axis=1) == task.test["label"]).mean())
        rows.append(
            {
                "turn": turn,
                "pass": bare,
                "diagnosis": diagnosed,
                "diagnosis and probe": whole,
                "chosen": found.decision.chosen.name,
                "accuracy": accuracy,
            }
        )
        print(rows[-1], flush=True)
    return rows


def cost_table(rows: list[Row]) -> str:
    """Markdown, with the median of the ratios."""
    lines = [
        "| turn | chosen | accuracy | one pass, CPU s | diagnosis | diagnosis and probe | over a pass |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['turn'] + 1} | {row['chosen']} | {row['accuracy']:.3f} | {row['pass']:.1f} | "
            f"{row['diagnosis']:.1f} | {row['diagnosis and probe']:.1f} | "
            f"{row['diagnosis and probe'] / row['pass']:.2f} |"
        )
    ratios = [row["diagnosis and probe"] / row["pass"] for row in rows]
    return "\n".join([*lines, "", f"Median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}."])


def replace_section(document: Path, script: str, text: str) -> None:
    """Replace what is between the script's two marks in a Markdown file."""
    begin, end = f"<!-- {script} writes from here -->", f"<!-- {script} wrote to here -->"
    before, _, rest = document.read_text().partition(begin)
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
