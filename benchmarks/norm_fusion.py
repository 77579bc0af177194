"""Passes in eval mode with batch normalisation fused into the convolutions, over the same passes without, in turns.

    python benchmarks/norm_fusion.py --output_dir benchmarks/results --pairs 7

CPU time (user and system) of one thread, 32 images a pass, channels_last, random weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from hf_transfer.features.extraction import extracting
from hf_transfer.features.norm_fusion import FUSION_IMAGES, NormFusion

MODELS = {"tf_efficientnet_lite0": 128, "mobilenetv3_large_100": 128, "resnet18": 128, "regnety_004": 128}


def seconds(model: nn.Module, images: torch.Tensor) -> float:
    """Seconds of one pass."""
    started = time.process_time()
    model(images)
    return time.process_time() - started


def compare(name: str, size: int, pairs: int) -> dict[str, Any]:
    """Both ways in turns."""
    model = timm.create_model(name, pretrained=False)
    images = torch.randn(32, 3, size, size)
    plain, fused, count = [], [], 0
    with extracting(model, "channels_last"):
        for _ in range(pairs + 1):  # the first is to warm up
            plain.append(seconds(model, images))
            with NormFusion(model) as fusion:
                fusion.fuse(lambda: [model(images[:FUSION_IMAGES])])
                model(images)
                fused.append(seconds(model, images))
                count = fusion.fused
    ratios = [one / other for one, other in zip(plain[1:], fused[1:], strict=True)]
    return {"model": name, "size": size, "fused": count, "ratios": ratios, "median": statistics.median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [compare(name, size, options.pairs) for name, size in MODELS.items()]
    print("| model | pixels | normalisations | median | range |\n| --- | ---: | ---: | ---: | --- |")
    for row in rows:
        print(
            f"| {row['model']} | {row['size']} | {row['fused']} | {row['median']:.2f} | "
            f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f} |"
        )
    (options.output_dir / "norm_fusion.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
