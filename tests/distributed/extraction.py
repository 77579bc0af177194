"""Extraction that is killed, that two ranks share, and that is large: `python extraction.py FOLDER`.

Libraries are imported once; each attempt runs in a freshly forked process. The kill is a real SIGKILL.
Prints what was found as one line of JSON.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

import hf_transfer as ht
from hf_transfer.data import collate, decode_image, eval_transform, transforms
from hf_transfer.features import store
from hf_transfer.features.cache_folder import CacheFolder
from hf_transfer.features.extract import extract_features
from hf_transfer.features.extraction import fill
from tests.distributed.killed import attempt
from tests.helpers import labelled_images, tiny
from tests.helpers.training import arguments, logged

IMAGES = 200
ROW_BYTES = 64 * 1024


def kill_at(image: int) -> None:
    """Let this process be killed when it decodes its n-th image."""
    numbers = itertools.count(1)

    def decode(*arguments: Any) -> Any:
        if next(numbers) == image:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode_image(*arguments)

    transforms.decode_image = decode


def extract(folder: Path, report: Any, last: int | None = None) -> None:
    if last is not None:
        kill_at(last)
    torch.manual_seed(0)
    data = labelled_images.labelled_images(IMAGES)
    extract_features(tiny.vit(), data, labelled_images.processor(), "all", cache_folder=folder, progress=False)
    report.send(True)


def as_rank(rank: int, folder: Path, report: Any) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}.init", rank=rank, world_size=2)
    extract(folder, report)
    distributed.destroy_process_group()


def many(folder: Path, report: Any, rows: int) -> None:
    """Extract rows of 64 KiB and tell the process's peak memory in MiB."""

    def compute(batch: Any) -> Any:
        return {"x": np.stack([np.full(ROW_BYTES // 4, row["pixel_values"], np.float32) for row in batch])}

    data = [{"pixel_values": float(i)} for i in range(rows)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fill(CacheFolder(folder), f"rows-{rows}", data, compute, {}, progress=False)
    report.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def train(folder: Path, mode: str) -> None:
    """One of two processes that train two phases; the first writes the losses."""
    torch.set_num_threads(1)
    os.environ["HF_TRANSFER_CACHE"] = str(folder / "cache")
    torch.manual_seed(0)
    phases = (
        ht.Phase("probe", "head", epochs=2),
        ht.Phase("last", "blocks:1", epochs=2),
        ht.Phase("all", "all", epochs=1),
    )
    trainer = ht.TransferTrainer(
        tiny.vit(),
        arguments(folder / mode, cache_features=mode, use_cpu=True, per_device_train_batch_size=4, learning_rate=1e-3),
        data_collator=collate,
        train_dataset=labelled_images.labelled_images(24).with_transform(eval_transform(labelled_images.processor())),
        plan=ht.TransferPlan(phases),
    )
    trainer.train()
    if trainer.is_world_process_zero():
        used = [decision.used for decision in trainer.cache_decisions]
        (folder / f"{mode}.json").write_text(json.dumps({"used": used, "losses": logged(trainer, "loss")}))


def forked(target: Callable[..., None], *arguments: Any) -> tuple[int | None, Any]:
    """Exit code of a forked process, and what it sent."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(arguments[0], sender, *arguments[1:]))
    process.start()
    sender.close()
    process.join()
    return process.exitcode, receiver.recv() if receiver.poll() and process.exitcode == 0 else None


def content(folder: Path) -> int:
    (rows,) = folder.glob("*/rows.bin")
    return zlib.crc32(rows.read_bytes())


def finished(folder: Path) -> int:
    return len(list(folder.glob("*/chunks/*.json")))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    store.CHUNK_BYTES = 1  # chunks of one batch
    forked(extract, folder / "whole")
    found: dict[str, Any] = {"whole": content(folder / "whole"), "chunks": finished(folder / "whole"), "after": []}
    moments = random.Random(7)
    killed = folder / "killed"
    for _ in range(5):
        code, _sent = forked(extract, killed, moments.randrange(10, IMAGES // 2))
        found["after"].append((code, finished(killed)))
    kept = {path: path.stat().st_mtime_ns for path in killed.glob("*/chunks/*.json")}
    forked(extract, killed)
    found["killed"] = content(killed)
    found["kept"] = all(path.stat().st_mtime_ns == time for path, time in kept.items())
    context = multiprocessing.get_context("fork")
    _receiver, sender = context.Pipe(duplex=False)
    ranks = [context.Process(target=as_rank, args=(rank, folder / "ranks", sender)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    found["ranks"] = content(folder / "ranks")
    found["codes"] = [attempt(2, partial(train, folder, mode)) for mode in ("on", "off")]
    found["trained"] = [json.loads((folder / f"{mode}.json").read_text()) for mode in ("on", "off")]
    store.CHUNK_BYTES = 4 * 2**20
    found["peak_mb"] = [forked(many, folder / "many", rows)[1] for rows in (200, 2000)]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
