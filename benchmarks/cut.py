"""Training the last layers from the feature cache, against the stock Trainer and the bare limit, in turns.

    OMP_NUM_THREADS=1 python benchmarks/cut.py --output_dir benchmarks/results --images 128

Rounds are added to those of the same settings in the file, so that they can be run a few at a time (`--scenarios`).

Random weights and JPEG images: time only, no accuracy. Each run is a process of its own with one thread, forked from
one that has imported the libraries and made the images; what counts is all CPU time (user and system, by
`resource.getrusage`) of that process: the model, the trainer and, for ours, the check of the cut, the extraction into
an empty cache and reading it back. Sides:

- stock: `transformers.Trainer` with `requires_grad=False` on the same parameters, the same processor and batch;
- ours: `TransferTrainer` with `--cache_features auto` and an empty cache folder;
- again: the same once more with another learning rate, the cache being there;
- bare: the limit of what a cache can do: one pass of decoding and prefix, then epochs of the suffix alone on tensors
  in memory, in a plain loop without Trainer, evaluation or disk.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
from pathlib import Path
from typing import Any

SCENARIOS = {
    "vit_tiny last 2 blocks": ("vit", "blocks:2", 224, "vit.layers.10"),
    "vit_tiny last block": ("vit", "blocks:1", 224, "vit.layers.11"),
    "resnet18 last stage": ("resnet", "from:resnet.encoder.stages.3.layers.0", 128, "resnet.encoder.stages.3"),
}
SIDES = ("stock", "ours", "again", "bare")
BATCH = 16


def make_model(kind: str) -> Any:
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    if kind == "vit":
        sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
        return ViTForImageClassification(ViTConfig(num_labels=10, **sizes))
    config = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=10,
    )
    return ResNetForImageClassification(config)


def make_images(count: int) -> Any:
    import datasets
    import numpy as np
    import PIL.Image

    generator = np.random.default_rng(0)
    values = []
    for _ in range(count):
        coarse = PIL.Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((500, 375), PIL.Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=90)
        values.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    labels = [index % 10 for index in range(count)]
    return datasets.Dataset.from_dict({"image": values, "label": labels}, features=features)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run_side(scenario: str, side: str, images: Any, epochs: int, folder: str) -> dict[str, Any]:
    """One run, in this process."""
    import torch
    from transformers import Trainer, TrainingArguments, ViTImageProcessor

    import hf_transfer as ht
    from hf_transfer.data import collate, eval_transform

    torch.set_num_threads(1)
    kind, selector, size, boundary = SCENARIOS[scenario]
    model = make_model(kind)
    processor = ViTImageProcessor(size={"height": size, "width": size})
    data = images.with_transform(eval_transform(processor))
    common: dict[str, Any] = {
        "output_dir": f"{folder}/out",
        "num_train_epochs": epochs,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-4 if side != "again" else 3e-4,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "epoch",
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "use_cpu": True,
    }
    if side in ("ours", "again"):
        plan = ht.TransferPlan((ht.Phase("only", train=selector),))
        os.environ["HF_TRANSFER_CACHE"] = f"{folder}/cache"
        args = ht.TransferArguments(**common)
        trainer: Any = ht.TransferTrainer(model, args, data_collator=collate, train_dataset=data, plan=plan)
    else:
        trained = {name for group in ht.select(model, selector) for name in group.parameter_names}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        trainer = Trainer(model, TrainingArguments(**common), data_collator=collate, train_dataset=data)
    if side == "bare":
        losses = bare(model, data, boundary, epochs)
    else:
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found: dict[str, Any] = {"cpu_seconds": cpu_seconds(), "losses": losses}
    if side in ("ours", "again"):
        found["decision"] = trainer.cache_decisions[0].to_dict()
    return found


def bare(model: Any, data: Any, boundary: str, epochs: int) -> list[float]:
    """One pass of decoding and prefix, then the suffix alone, written by hand for these two models."""
    import torch

    class Stop(Exception):
        pass

    stored: list[torch.Tensor] = []
    labels: list[int] = []

    def keep(module: Any, args: Any) -> None:
        stored.append(args[0])
        raise Stop

    modules = dict(model.named_modules())
    handle = modules[boundary].register_forward_pre_hook(keep)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(data), BATCH):
            rows = data[start : start + BATCH]
            labels += rows["labels"]
            with contextlib.suppress(Stop):
                model(torch.as_tensor(rows["pixel_values"]))
    handle.remove()
    features, targets = torch.cat(stored).clone(), torch.tensor(labels)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(features)).split(BATCH):
            x = features[rows]
            if boundary.startswith("vit"):
                for layer in model.vit.layers[int(boundary.rpartition(".")[2]) :]:
                    out = layer(x)
                    x = out[0] if isinstance(out, tuple) else out
                logits = model.classifier(model.vit.layernorm(x)[:, 0])
            else:
                logits = model.classifier(model.resnet.pooler(modules[boundary](x)))
            loss = torch.nn.functional.cross_entropy(logits, targets[rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += float(loss.detach()) * len(rows)
        losses.append(total / len(features))
    return losses


def run_in_process(*arguments: Any) -> dict[str, Any]:
    """Run a side in a forked process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(run_side(*arguments)))
    process.start()
    result: dict[str, Any] = receiver.recv()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    options = parser.parse_args()
    import torch

    import hf_transfer as ht
    import hf_transfer.trainer.trainer  # noqa: F401  (before the forks)

    torch.set_num_threads(1)
    images = make_images(options.images)
    ht.wrap(make_model("vit"))  # the registry imports wrappers when it is first used
    known = earlier(options)
    seconds = {name: row["cpu_seconds"] for name, row in known.get("scenarios", {}).items()}
    details: dict[str, Any] = {}
    for _ in range(options.rounds):
        for scenario in options.scenarios:
            seconds.setdefault(scenario, {side: [] for side in SIDES})
            with tempfile.TemporaryDirectory() as folder:
                for side in SIDES:
                    found = run_in_process(scenario, side, images, options.epochs, folder)
                    seconds[scenario][side].append(found["cpu_seconds"])
                    details[f"{scenario}, {side}"] = found
            each = {side: round(values[-1], 1) for side, values in seconds[scenario].items()}
            print(scenario, each, flush=True)
        write(options, seconds, details, known)  # after each round, so that an interrupted measurement is not lost


def earlier(options: argparse.Namespace) -> dict[str, Any]:
    """What the file says of rounds with the same settings, to be added to."""
    path = options.output_dir / "cut.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    same = all(known.get(name) == getattr(options, name) for name in ("images", "epochs"))
    return known if same else {}


def write(
    options: argparse.Namespace,
    seconds: dict[str, dict[str, list[float]]],
    details: dict[str, Any],
    known: dict[str, Any],
) -> None:
    rows = {}
    for scenario, sides in seconds.items():
        medians = {side: statistics.median(values) for side, values in sides.items()}
        ratios = {
            side: [stock / mine for stock, mine in zip(sides["stock"], sides[side], strict=True)] for side in SIDES[1:]
        }
        rows[scenario] = {
            "cpu_seconds": sides,
            "medians": medians,
            "stock_over": ratios,
        }
        text = ", ".join(f"{s} {statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for s, r in ratios.items())
        print(f"{scenario}: stock over {text}")
    packages = ("torch", "torchvision", "transformers", "timm", "datasets", "accelerate", "numpy", "pillow")
    facts = {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "threads": 1,
        "images": options.images,
        "epochs": options.epochs,
        "batch": BATCH,
        "rounds": {name: len(sides["stock"]) for name, sides in seconds.items()},
        "scenarios": rows,
        "decisions": known.get("decisions", {})
        | {name: found["decision"] for name, found in details.items() if "decision" in found},
        "losses": known.get("losses", {}) | {name: found["losses"] for name, found in details.items()},
    }
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "cut.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
