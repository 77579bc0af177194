"""Linear probe: the stock Trainer for 20 epochs, `LinearProbeTrainer`, and a bare pass over the same images, in turns.

    python benchmarks/linear_probe.py --output_dir benchmarks/results
    python benchmarks/linear_probe.py --output_dir benchmarks/results --sides stock --rounds 1

Each figure is the CPU time (user and system, children included) of a whole process: imports, decoding, and for the two
trainers everything from images to the saved checkpoint. Bare and probe take turns; runs are added to those in
the file. All use the demo's EfficientNet-Lite0 and 2,000 images of Fashion-MNIST, in one thread, with the transform of
evaluation. The stock Trainer trains the head alone (all else
`requires_grad=False`) with AdamW and a cosine schedule, at the rate of the recipe linear_probe. Accuracies are on the
1,000 test images. `--memory` measures peak memory instead, with 2,000 and with 20,000 images.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIDES = ("bare", "probe", "stock")


def setting(options: argparse.Namespace, folder: Path) -> tuple[Any, Any, Any, Any]:
    """Model, processor, training and evaluation images."""
    from hf_transfer.data import eval_transform, load
    from hf_transfer.demo import demo_data_folder
    from hf_transfer.demo.weights import write_lite0_checkpoint
    from hf_transfer.models.loading import load_for_training

    data = load(str(demo_data_folder()))
    checkpoint = write_lite0_checkpoint(folder / "tf_efficientnet_lite0")
    loaded = load_for_training(str(checkpoint), data.label_names, image_size=options.image_size)
    transform = eval_transform(loaded.processor)
    rows = [index % len(data.train) for index in range(options.images)]
    train = data.train.select(rows).with_transform(transform)
    return loaded.model, loaded.processor, train, data.validation.with_transform(transform)


def run_side(options: argparse.Namespace) -> None:
    """Run one side in this process, and print what it cost."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["HF_TRANSFER_CACHE"] = str(folder / "cache")
        model, processor, train, held_out = setting(options, folder)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if options.side == "bare":
            bare(model, train)
            accuracy = None
        else:
            trainer = (probe if options.side == "probe" else stock)(options, model, processor, train, folder / "run")
            trainer.train()
            trainer.save_model()
            accuracy = None
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        cost = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if options.side != "bare":
            logits = trainer.predict(held_out).predictions
            accuracy = float((logits.argmax(axis=1) == held_out.with_format(None)["label"]).mean())
    found = {"cpu_seconds": cost, "accuracy": accuracy, "peak_mib": peak / 1024, "before_mib": before / 1024}
    if options.side == "probe":
        found["rank"] = trainer.solution.solved.details["rank"]
    print(json.dumps(found), flush=True)


def bare(model: Any, images: Any) -> None:
    """Decode and run all images once, and keep nothing."""
    import torch

    from hf_transfer.models.memory_format import set_memory_format

    set_memory_format(model, "auto")
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(images), 32):
            model(torch.stack(list(images[start : start + 32]["pixel_values"])))


def probe(options: argparse.Namespace, model: Any, processor: Any, train: Any, folder: Path) -> Any:
    """Our trainer."""
    import hf_transfer as ht

    args = ht.TransferArguments(str(folder), report_to="none", disable_tqdm=True, remove_unused_columns=False)
    return ht.LinearProbeTrainer(model, args, train_dataset=train, processing_class=processor, solver="logistic")


def stock(options: argparse.Namespace, model: Any, processor: Any, train: Any, folder: Path) -> Any:
    """transformers' trainer, the head alone."""
    from transformers import Trainer, TrainingArguments

    from hf_transfer.architectures.lookup import wrap
    from hf_transfer.data import collate

    head = set(wrap(model).head.parameter_names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in head)
    args = TrainingArguments(
        str(folder), report_to="none", disable_tqdm=True, remove_unused_columns=False, save_strategy="no",
        num_train_epochs=options.epochs, learning_rate=options.rate, lr_scheduler_type="cosine", warmup_steps=0.1,
        per_device_train_batch_size=32,
    )  # fmt: skip
    made = Trainer(model, args, data_collator=collate, train_dataset=train, processing_class=processor)
    made.add_callback(epoch_costs())
    return made


def epoch_costs() -> Any:
    """A callback that prints the CPU time so far after each epoch: a run that was cut off is worth something, too."""
    from transformers import TrainerCallback

    class EpochCosts(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            used = resource.getrusage(resource.RUSAGE_SELF)
            print(json.dumps({"epoch": state.epoch, "cpu_seconds": used.ru_utime + used.ru_stime}), flush=True)

    return EpochCosts()


def measured(options: argparse.Namespace, side: str, **changes: Any) -> dict[str, Any]:
    """One side in a process of its own."""
    values = vars(options) | changes
    flags = [f"--{name}={values[name]}" for name in ("images", "image_size", "epochs", "rate")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, f"--side={side}", f"--output_dir={options.output_dir}", *flags]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    print(side, changes, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["bare", "probe"])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--add", type=Path, help="The output of one side's process that was run by hand.")
    parser.add_argument("--side", choices=SIDES, help="Run this side here, and print what it cost.")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    if options.side and not options.add:
        run_side(options)
    elif options.memory:
        write(options.output_dir / "linear_probe_memory.json", memory(options))
    else:
        path = options.output_dir / "linear_probe.json"
        results = earlier(path, options)
        if options.add:
            results[options.side].append(json.loads(options.add.read_text().strip().splitlines()[-1]))
        for _ in range(0 if options.add else options.rounds):
            for side in options.sides:
                results[side].append(measured(options, side))
        write(path, summary(results) | settings(options))


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What runs must have in common to be compared."""
    return {name: getattr(options, name) for name in ("images", "image_size", "epochs", "rate")}


def earlier(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs of the same settings that are in the file already: the stock Trainer alone takes longer than a coffee."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    same = all(known.get(name) == value for name, value in settings(options).items())
    return {side: known[side] if same else [] for side in SIDES}


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Medians and their ratios."""
    medians = {s: statistics.median(r["cpu_seconds"] for r in found) for s, found in results.items() if found}
    pairs = {"probe_over_bare": ("probe", "bare"), "stock_over_probe": ("stock", "probe")}
    ratios = {name: medians[one] / medians[two] for name, (one, two) in pairs.items() if {one, two} <= medians.keys()}
    return results | {"median_cpu_seconds": medians} | ratios


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory with two numbers of images."""
    counts = (2000, 20_000)
    small, large = (measured(options, "probe", images=count) for count in counts)
    # The standardised and rotated features, in float32: what the solver works on.
    matrix = (counts[1] - counts[0]) * large["rank"] * 4 / 2**20
    beyond = (large["peak_mib"] - matrix) / small["peak_mib"] - 1
    found = {"peak": [small, large], "images": counts, "solver_matrix_mib": matrix, "beyond_the_matrix": beyond}
    return found | {"image_size": options.image_size}


def write(path: Path, results: dict[str, Any]) -> None:
    from hf_transfer.utils.environment import collect_hardware, collect_versions

    print(json.dumps({k: v for k, v in results.items() if k not in SIDES}, indent=2))
    path.write_text(
        json.dumps(results | {"versions": collect_versions(), "hardware": collect_hardware()}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
