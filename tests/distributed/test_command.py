"""The command under `accelerate launch` in two processes: each file is written by one, and the metrics agree."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import ViTImageProcessor

from tests.distributed import command
from tests.helpers import tiny
from tests.helpers.image_files import write_classes

pytestmark = pytest.mark.slow
LABELS = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without dropout, 24 images to train on and 9 to evaluate, which two ranks cannot share evenly."""
    made = tmp_path_factory.mktemp("command")
    tiny.vit(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(made / "model")
    size = {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}
    ViTImageProcessor(size=size).save_pretrained(made / "model")
    for split, count, seed in (("train", 8, 0), ("validation", 3, 1000)):
        write_classes(made / "photos" / split, dict.fromkeys(LABELS, count), seed)
    return made


def run(folder: Path, processes: int) -> Path:
    """Run the command in some processes, with the same 8 images in each step; returns the output folder."""
    out = folder / f"out-{processes}"
    flags = ["--model_name_or_path", str(folder / "model"), "--dataset", str(folder / "photos")]
    flags += ["--output_dir", str(out), "--recipe", "lp_ft", "--recipe_options", json.dumps({"probe_epochs": 1})]
    flags += ["--num_train_epochs", "1", "--per_device_train_batch_size", str(8 // processes)]
    flags += ["--per_device_eval_batch_size", str(8 // processes), "--learning_rate", "1e-3", "--use_cpu", "true"]
    flags += ["--augmentation", "light", "--cache_features", "off", "--save_total_limit", "9", "--logging_steps", "1"]
    start = [command.__file__, str(folder / f"writes-{processes}"), "train", *flags]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        accelerate = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"]
        start = [*accelerate, "--main_process_port", port, *start]
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *start], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (out / "printed.txt").write_text(done.stdout)
    return out


def writes(folder: Path, out: Path, rank: int) -> Counter[str]:
    """How often a rank wrote each file below the output folder; temporary names count as the file's own."""
    paths = map(Path, (folder / "writes-2" / f"{rank}.txt").read_text().splitlines())
    return Counter(str(path.relative_to(out)) for path in paths if path.is_relative_to(out))


def test_each_file_is_written_by_one_rank_and_the_metrics_are_those_of_one_process(folder: Path) -> None:
    """Checkpoints, card, record, results and log come from rank 0, once; rank 1 writes its random state alone."""
    two, one = run(folder, 2), run(folder, 1)
    first, second = writes(folder, two, 0), writes(folder, two, 1)
    assert not first.keys() & second.keys()
    assert second and {Path(name).name for name in second} == {"rng_state_1.pth"}
    assert set(second.values()) == {1}
    for name in ("README.md", "run.json", "report.html", "model.safetensors", "trainer_state.json"):
        assert first[name] == 1, (name, first)
    for step in (3, 6):
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "transfer_state.json"):
            assert first[f".unfinished/checkpoint-{step}/{name}"] == 1, (name, first)
    # The record misses nothing but what Arrow writes: each file of the run is in it.
    known = {Path(name).name for name in first + second}
    files = {path.name for path in two.rglob("*") if path.is_file()} - {"printed.txt"}
    assert {name for name in files - known if not name.endswith(".parquet")} == set()
    printed = (two / "printed.txt").read_text()
    assert printed.count("Data: photos") == 1 and printed.count("{'train_runtime'") == 1

    launched = "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 -m hf_transfer train "
    assert f"```bash\n{launched}" in (two / "README.md").read_text()
    assert "```bash\nhf-transfer train " in (one / "README.md").read_text()

    def metrics(out: Path) -> dict[str, Any]:
        return dict(json.loads((out / "all_results.json").read_text()))

    found, expected = metrics(two), metrics(one)
    compared = [
        key for key in expected if key.startswith("eval_") and "per_second" not in key and "runtime" not in key
    ]
    assert {"eval_loss", "eval_accuracy"} <= set(compared)
    for key in (*compared, "train_loss"):
        assert found[key] == pytest.approx(expected[key], abs=2e-3), key
