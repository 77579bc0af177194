"""CPU time of `TransferTrainer` with a plan over that of stock `Trainer`, on the same full fine-tuning.

    python benchmarks/trainer_overhead.py --output_dir benchmarks/results

Both train all layers of the same randomly initialised model on the same random images, with AdamW and a linear
schedule, in turns; ours with the layer-wise groups, hashes, checks and logs of a plan of one phase. Counted is the CPU
time of `train()` in this process, over all threads, without making model and data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import hf_transfer as ht

SIZE = 64


class Images(Dataset[dict[str, torch.Tensor]]):
    """Random images, `pixel_values` of the shape (3, 64, 64)."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(n, 3, SIZE, SIZE, generator=generator)
        self.labels = torch.randint(0, 10, (n,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def measure(ours: bool, steps: int, batch: int, images: Images) -> float:
    """CPU seconds of one training."""
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=192,
            num_hidden_layers=6,
            num_attention_heads=3,
            intermediate_size=768,
            image_size=SIZE,
            patch_size=8,
            num_labels=10,
        )
    )
    kind = ht.TransferArguments if ours else TrainingArguments
    with tempfile.TemporaryDirectory() as folder:
        args = kind(
            folder,
            num_train_epochs=steps * batch / len(images),
            per_device_train_batch_size=batch,
            weight_decay=0.05,
            logging_steps=10,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        if ours:
            plan = ht.recipes.fine_tune(layer_decay=0.75)
            trainer: Trainer = ht.TransferTrainer(model, args, train_dataset=images, plan=plan)
        else:
            trainer = Trainer(model, args, train_dataset=images)
        started = time.process_time()
        trainer.train()
        return time.process_time() - started


def main() -> None:
    """Measure pairs in turns and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    images = Images(options.batch * 10)
    measure(True, 2, options.batch, images)  # warm-up
    measure(False, 2, options.batch, images)
    pairs = []
    for index in range(options.pairs):
        order = (False, True) if index % 2 else (True, False)
        seconds = {ours: measure(ours, options.steps, options.batch, images) for ours in order}
        pairs.append(
            {"trainer": seconds[False], "hf_transfer": seconds[True], "ratio": seconds[True] / seconds[False]}
        )
        print(f"pair {index + 1}: {seconds[False]:.2f} s, {seconds[True]:.2f} s, {pairs[-1]['ratio']:.3f}", flush=True)
    median = statistics.median(pair["ratio"] for pair in pairs)
    print(f"median of {len(pairs)}: {median:.3f}")
    found = {
        "command": " ".join(sys.argv),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "steps": options.steps,
        "batch": options.batch,
        "pairs": pairs,
        "median": median,
    }
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "trainer_overhead.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
