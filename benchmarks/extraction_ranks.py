"""Feature extraction by one process and by two, in turns: wall time without start-up, and whether stores are equal.

    python benchmarks/extraction_ranks.py --output_dir benchmarks/results

Each process has one thread and is forked from one that has imported the libraries and loaded model and images. Timed
is `extract_features` into an empty cache, from a barrier behind the set-up of the process group to the slower
process's end. Needs two idle cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any


def extract(rank: int, world: int, folder: Path, setting: tuple[Any, Any, Any], sender: Any) -> None:
    """One process."""
    import torch
    from torch import distributed

    from hf_transfer.features.extract import extract_features

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)
    model, processor, images = setting
    distributed.barrier()
    started = time.perf_counter()
    extract_features(model, images, processor, cache_folder=folder / "cache", progress=False)
    sender.send(time.perf_counter() - started)
    distributed.barrier()
    distributed.destroy_process_group()


def measured(world: int, setting: tuple[Any, Any, Any]) -> dict[str, Any]:
    """Seconds of the slowest of some processes, and the checksum of what they stored."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranks = [context.Process(target=extract, args=(rank, world, folder, setting, sender)) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            raise SystemExit("A process failed.")
        (rows,) = (folder / "cache").glob("*/rows.bin")
        found = {"seconds": max(receiver.recv() for _ in ranks), "crc32": zlib.crc32(rows.read_bytes())}
    print(world, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    from linear_probe import setting

    from hf_transfer.utils.environment import collect_hardware, collect_versions

    with tempfile.TemporaryDirectory() as folder:
        model, processor, images, _ = setting(options, Path(folder))
        rounds = [[measured(world, (model, processor, images)) for world in (1, 2)] for _ in range(options.rounds)]
    ratios = [one["seconds"] / two["seconds"] for one, two in rounds]
    checksums = {each["crc32"] for pair in rounds for each in pair}
    results = {
        "one_over_two": ratios,
        "median": statistics.median(ratios),
        "same_store": len(checksums) == 1,
        "seconds": {"one": [one["seconds"] for one, _ in rounds], "two": [two["seconds"] for _, two in rounds]},
        "images": options.images,
        "image_size": options.image_size,
        "versions": collect_versions(),
        "hardware": collect_hardware(),
    }
    print(
        f"one over two: {results['median']:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), same: {len(checksums) == 1}"
    )
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "extraction_ranks.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
