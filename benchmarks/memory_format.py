"""Training step in channels_last against the default layout, in turns: what `memory_format="auto"` rests on.

    python benchmarks/memory_format.py --output_dir benchmarks/results

Random weights and images: time only, no accuracy. Each figure is default seconds over channels_last seconds of one
pair of steps, so above 1 means that channels_last is faster; the median and the range of all pairs are written.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import timm
import torch

MODELS = ("resnet18", "tf_efficientnet_lite0", "mobilenetv3_large_100", "convnext_atto", "vit_tiny_patch16_224")


def step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> float:
    start = time.perf_counter()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start


def ratios(name: str, pairs: int, batch: int) -> list[float]:
    size = 224 if "vit" in name else 128
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))
    sides = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = timm.create_model(name, num_classes=10).to(memory_format=layout).train()
        sides.append((model, torch.optim.AdamW(model.parameters(), fused=True)))
    for model, optimizer in sides:
        step(model, optimizer, images, labels)
    found = []
    for _ in range(pairs):
        default, last = (step(model, optimizer, images, labels) for model, optimizer in sides)
        found.append(default / last)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    rows = {}
    for name in MODELS:
        found = ratios(name, options.pairs, options.batch)
        rows[name] = {"median": statistics.median(found), "min": min(found), "max": max(found)}
        print(f"{name:24s} {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})", flush=True)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    facts = {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "pairs": options.pairs,
        "batch": options.batch,
        "default_over_channels_last": rows,
    }
    (options.output_dir / "memory_format.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
