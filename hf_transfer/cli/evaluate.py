"""`hf-transfer evaluate`: all metrics and figures of a trained model on a data set."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_transfer.cli.images import load_images
from hf_transfer.cli.options import DataOptions, parse
from hf_transfer.cli.terminal import Terminal, quiet_libraries
from hf_transfer.data import ImageData, collate, eval_transform
from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation import evaluate_predictions, make_compute_metrics
from hf_transfer.models import label_names_of, load_trained
from hf_transfer.outputs import SplitResult, write_evaluation
from hf_transfer.run_record import RunRecord
from hf_transfer.trainer import TransferTrainer
from hf_transfer.training_args import TransferArguments

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class EvaluateOptions:
    """Which model, which split, and where to."""

    model_name_or_path: str = field(metadata={"help": "Hub id or local folder of a trained classifier."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    split: str | None = field(
        default=None, metadata={"help": "train, validation or test. Default: validation, else test, else train."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for metrics, predictions and figures. Default: nothing is written."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images in one forward pass."})


def run(argv: Sequence[str]) -> int:
    """Run the command; the model may also be given as the first word."""
    words = list(argv)
    if words and not words[0].startswith("-"):
        words = ["--model_name_or_path", *words]
    options, data_options, given = parse((EvaluateOptions, DataOptions), words, "evaluate", __doc__ or "")
    if "split_seed" not in given:
        data_options.split_seed = _trained_split_seed(options.model_name_or_path, data_options.split_seed)
    quiet_libraries()
    loaded = load_trained(options.model_name_or_path, options.model_revision)
    names = label_names_of(loaded.model)
    data = load_images(data_options, names, require_train=False)
    split, images = _choose_split(data, options.split)
    with tempfile.TemporaryDirectory() as unused:
        trainer = TransferTrainer(
            model=loaded.model,
            args=TransferArguments(
                output_dir=unused,
                report_to="none",
                remove_unused_columns=False,
                per_device_eval_batch_size=options.per_device_eval_batch_size,
                dataloader_pin_memory=torch.cuda.is_available(),
                disable_tqdm=not sys.stderr.isatty(),
            ),
            data_collator=collate,
            processing_class=loaded.processor,
            compute_metrics=make_compute_metrics(names, tuple(data_options.metrics or ())),
        )
        result = evaluate_split(trainer, images.with_transform(eval_transform(loaded.processor)), images, split, None)
    terminal = Terminal(sys.stdout, enabled=trainer.is_world_process_zero())
    terminal.heading(f"Data: {data.name}")
    terminal.data(data)
    terminal.results([result.report])
    terminal.text(result.report.per_class_table())
    if options.output_dir is not None and trainer.is_world_process_zero():
        write_evaluation(Path(options.output_dir), result)
        terminal.text(f"\nWritten to {options.output_dir}.")
    return 0


def evaluate_split(
    trainer: TransferTrainer, transformed: Dataset, images: Dataset, name: str, prefix: str | None
) -> SplitResult:
    """Predict one split and compute all metrics.

    Args:
        trainer: With `compute_metrics`.
        transformed: The split as the model takes it.
        images: The split with its images and names.
        name: Of the split, for the report.
        prefix: Of the metrics in `<prefix>_results.json`; None writes none.
    """
    output = trainer.predict(transformed, metric_key_prefix=prefix or "eval")
    if prefix is not None and trainer.is_world_process_zero():
        trainer.save_metrics(prefix, output.metrics)
    logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
    labels = np.asarray(output.label_ids)
    report = evaluate_predictions(logits, labels, label_names_of(trainer.model), name)
    return SplitResult(report, logits, labels, images)


def _trained_split_seed(folder: str, default: int) -> int:
    """The seed that the model's own run split its data with: another one would mix in images it was trained on."""
    path = Path(folder) / "run.json"
    return RunRecord.load(path).split_seed if path.is_file() else default


def _choose_split(data: ImageData, wanted: str | None) -> tuple[str, Any]:
    available = {"train": data.train, data.evaluation_split: data.validation, "test": data.test}
    present = {name: images for name, images in available.items() if images is not None}
    order = [wanted] if wanted else [data.evaluation_split, "test", "train"]
    for name in order:
        if name in present:
            return name, present[name]
    raise ArgumentError(f"There is no split {wanted!r} in {data.name}; there are: {json.dumps(list(present))}.")
