"""`hf-transfer demo`: train an ImageNet model on images of the package, offline unless the result is pushed."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hf_transfer.cli.flags import DESCRIPTIONS, DemoOptions, ModelOptions, TrainDataOptions

# At this image size the demo takes less than three minutes on two cores; README.md has the accuracies.
SETTINGS = {
    "image_size": "96",
    "recipe": "auto",
    "label_smoothing_factor": "0.1",
    "eval_strategy": "steps",
    "eval_steps": "250",
    "seed": "0",
}


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    if "--push_to_hub" not in argv:
        # Before huggingface_hub is imported: it reads the variable once.
        os.environ["HF_HUB_OFFLINE"] = "1"
    from hf_transfer.cli.options import parse
    from hf_transfer.cli.terminal import Terminal
    from hf_transfer.cli.train import DEFAULTS, Job, train
    from hf_transfer.demo import demo_data_folder
    from hf_transfer.demo.weights import write_lite0_checkpoint
    from hf_transfer.trainer.args import TransferArguments

    options, _ = parse((DemoOptions,), argv, "demo", DESCRIPTIONS["demo"])
    terminal = Terminal(sys.stdout)
    terminal.heading("Demo: an ImageNet EfficientNet-Lite0 learns ten kinds of clothes from 2,000 small grey images")
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = write_lite0_checkpoint(Path(temporary) / "tf_efficientnet_lite0")
        flags = {"model_name_or_path": str(checkpoint), "dataset": str(demo_data_folder())}
        flags |= SETTINGS | {"output_dir": options.output_dir}
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        words += ["--push_to_hub"] if options.push_to_hub else []
        words += ["--hub_model_id", options.hub_model_id] if options.hub_model_id else []
        types = (ModelOptions, TrainDataOptions, TransferArguments)
        model, data, args, given = parse(types, words, "demo", "", DEFAULTS)
        overwrite = options.overwrite_output_dir or _is_demo(Path(options.output_dir))
        train(Job(model, data, args, ("hf-transfer", "demo", *argv), overwrite, given=given))
    terminal.heading("Next")
    terminal.text("hf-transfer train --model_name_or_path MODEL --dataset FOLDER --output_dir RESULTS")
    return 0


def _is_demo(folder: Path) -> bool:
    """Whether the folder holds the result of an earlier demo, which is replaced."""
    try:
        command = json.loads((folder / "run.json").read_text(encoding="utf-8"))["command"]
    except (OSError, ValueError, KeyError):
        return False
    return str(command).startswith("hf-transfer demo")
