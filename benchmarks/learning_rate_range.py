"""Accuracy at the learning rate that the range test chooses, against a grid of rates chosen by hand.

    OMP_NUM_THREADS=1 python benchmarks/learning_rate_range.py --output_dir benchmarks/results

ImageNet EfficientNet-Lite0 (the extra `demo`) on Fashion-MNIST images of the package: 400 to train on and 400 others
of its training file to evaluate on, 64 pixels, no augmentation, batches of 16. For each recipe the same training is
run at each rate of a grid and at `learning_rate="auto"`, with the same seeds. The rates of the grid are those of
pretrained layers, as `--learning_rate` counts them; `lp_ft` measures a rate for each of its two phases. "tenth" is the
usual reading of the same losses: a tenth of the rate at which the smoothed loss is lowest.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

IMAGES, PIXELS = 400, 64
CASES: dict[str, dict[str, Any]] = {
    "head, AdamW": {
        "recipe": "linear_probe",
        "options": {"epochs": 10},
        "grid": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    },
    "head, SGD": {
        "recipe": "linear_probe",
        "options": {"epochs": 10},
        "grid": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
        "arguments": {"optim": "sgd", "optim_args": "momentum=0.9"},
    },
    "all layers, AdamW": {
        "recipe": "fine_tune",
        "options": {"epochs": 3},
        "grid": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    },
    "all layers, SGD": {
        "recipe": "fine_tune",
        "options": {"epochs": 3},
        "grid": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        "arguments": {"optim": "sgd", "optim_args": "momentum=0.9"},
    },
    "head, then all layers, AdamW": {
        "recipe": "lp_ft",
        "options": {"probe_epochs": 3, "epochs": 3},
        "grid": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    },
}


def tenth(plan: Any, tests: list[dict[str, Any]]) -> Any:
    """The plan with a tenth of the rate of the lowest loss in each phase."""
    from hf_transfer.phases.learning_rate_range import smooth

    lowest = [test["rates"][int(smooth(test["losses"]).argmin())] for test in tests]
    phases = (replace(phase, learning_rate=rate / 10) for phase, rate in zip(plan.phases, lowest, strict=True))
    return replace(plan, phases=tuple(phases))


def run_once(
    checkpoint: Path, case: dict[str, Any], rate: float | str, seed: int, measured: list[dict[str, Any]]
) -> dict[str, Any]:
    """Train at a rate; returns accuracy, CPU seconds and, for "auto", what was measured."""
    import datasets
    import transformers

    import hf_transfer as ht
    from hf_transfer.data import collate, eval_transform, load
    from hf_transfer.demo import demo_data_folder
    from hf_transfer.evaluation import make_compute_metrics
    from hf_transfer.models.loading import load_for_training

    plan = ht.recipes.get(case["recipe"], **case["options"])
    plan = tenth(plan, measured) if rate == "tenth" else plan
    data = load(str(demo_data_folder()))
    images = datasets.concatenate_datasets([data.train]).shuffle(seed=100 + seed)
    transformers.set_seed(seed)
    loaded = load_for_training(str(checkpoint), data.label_names, seed=seed, image_size=PIXELS)
    transform = eval_transform(loaded.processor)
    with tempfile.TemporaryDirectory() as folder:
        args = ht.TransferArguments(
            output_dir=folder,
            learning_rate=1.0 if rate == "tenth" else rate,
            seed=seed,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=100,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            weight_decay=0.05,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            remove_unused_columns=False,
            disable_tqdm=True,
            log_level="error",
            dataloader_pin_memory=False,
            **case.get("arguments", {}),
        )
        trainer = ht.TransferTrainer(
            loaded.model,
            args,
            collate,
            images.select(range(IMAGES)).with_transform(transform),
            images.select(range(IMAGES, 2 * IMAGES)).with_transform(transform),
            loaded.processor,
            compute_metrics=make_compute_metrics(data.label_names),
            plan=plan,
        )
        started = time.process_time()
        try:
            trainer.train()
            accuracy = trainer.evaluate()["eval_accuracy"]
        except ht.TransferError as error:
            print(error)
            accuracy = None
        seconds = time.process_time() - started
    tests = [test.to_dict() for test in trainer.range_tests]
    return {"rate": rate, "seed": seed, "accuracy": accuracy, "cpu_seconds": round(seconds, 1), "range_tests": tests}


def versions() -> dict[str, str]:
    names = ("torch", "transformers", "timm", "datasets", "accelerate")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--only_auto", action="store_true", help="Keep the rows of the grid that the file has.")
    options = parser.parse_args()
    import torch

    from hf_transfer.demo.weights import write_lite0_checkpoint

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    path = options.output_dir / "learning_rate_range.json"
    found = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    rows = found["rows"]
    with tempfile.TemporaryDirectory() as temporary:
        os.environ.setdefault("HF_TRANSFER_CACHE", f"{temporary}/cache")
        checkpoint = write_lite0_checkpoint(Path(temporary) / "lite0")
        for name in options.cases:
            for seed in options.seeds:
                measured: list[dict[str, Any]] = []
                for rate in (*(() if options.only_auto else CASES[name]["grid"]), "auto", "tenth"):
                    row = {"case": name} | run_once(checkpoint, CASES[name], rate, seed, measured)
                    measured = row["range_tests"] or measured
                    rows[:] = [r for r in rows if (r["case"], r["rate"], r["seed"]) != (name, rate, seed)] + [row]
                    chosen = ", ".join(f"{test['learning_rate']:.2g}" for test in row["range_tests"])
                    print(f"{name:30} seed {seed} rate {rate}: {row['accuracy']} {chosen}", flush=True)
                    options.output_dir.mkdir(parents=True, exist_ok=True)
                    path.write_text(
                        json.dumps(
                            {"versions": versions(), "images": IMAGES, "pixels": PIXELS, "rows": rows}, indent=1
                        )
                    )


if __name__ == "__main__":
    main()
