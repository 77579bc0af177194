"""`hf-transfer evaluate`: compute all metrics and figures of a trained model on a data set."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import concatenate_datasets
from torch import nn

from hf_transfer.cli.flags import DESCRIPTIONS, DataOptions, EvaluateOptions
from hf_transfer.cli.loading import load_images
from hf_transfer.cli.options import config_path, parse
from hf_transfer.cli.paths import check_apart
from hf_transfer.cli.terminal import Terminal, quiet_libraries
from hf_transfer.data import ImageData, collate, eval_transform
from hf_transfer.errors import ArgumentError
from hf_transfer.evaluation import METRIC_TITLES, MetricValue, evaluate_predictions, make_compute_metrics
from hf_transfer.evaluation.tables import per_class_table
from hf_transfer.linear_probe.probe_file import load_probe
from hf_transfer.models.loading import label_names_of, load_trained
from hf_transfer.reporting.record import RunRecord
from hf_transfer.reporting.results import SplitResult, write_evaluation
from hf_transfer.reporting.run_folder import RunFolder
from hf_transfer.run_files import is_probe
from hf_transfer.trainer.args import TransferArguments
from hf_transfer.trainer.trainer import TransferTrainer
from hf_transfer.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

_SPLITS = ("train", "validation", "test")


def run(argv: Sequence[str]) -> int:
    """Run the command; the first word may be the model."""
    words = list(argv)
    if words and not words[0].startswith("-"):
        words = ["--model_name_or_path", *words]
    options, data_options, given = parse((EvaluateOptions, DataOptions), words, "evaluate", DESCRIPTIONS["evaluate"])
    if options.per_device_eval_batch_size <= 0:
        raise ArgumentError(f"per_device_eval_batch_size must be above 0, found {options.per_device_eval_batch_size}.")
    if options.split not in (None, *_SPLITS):
        raise ArgumentError(
            f"There is no split {options.split!r}; there can be: {', '.join(_SPLITS)}."
            + did_you_mean(options.split, _SPLITS)
        )
    if options.output_dir is not None:
        read = {
            "model": options.model_name_or_path,
            "data set": data_options.dataset,
            "configuration": config_path(words),
        }
        check_apart(options.output_dir, read)
        RunFolder(Path(options.output_dir)).check(trains=False)
    if data_options.metrics:
        make_compute_metrics(("first", "second"), tuple(data_options.metrics))
    own_run = _own_run(options.model_name_or_path)
    if "split_seed" not in given and own_run is not None:
        # Another seed would put images of the training into the evaluation split.
        data_options.split_seed = own_run.split_seed
    quiet_libraries()
    model, processor = _load(options.model_name_or_path, options.model_revision)
    names = label_names_of(model)
    pixel_range = None if own_run is None else own_run.data.get("pixel_range")
    data = load_images(data_options, names, require_train=False, pixel_range=pixel_range)
    seen = own_run is not None and own_run.data["fingerprint"] == data.fingerprint
    split, images = _choose_split(data, options.split, seen)
    with tempfile.TemporaryDirectory() as unused:
        trainer = TransferTrainer(
            model=model,
            args=TransferArguments(
                output_dir=unused,
                report_to="none",
                remove_unused_columns=False,
                per_device_eval_batch_size=options.per_device_eval_batch_size,
                dataloader_pin_memory=torch.cuda.is_available(),
                disable_tqdm=not sys.stderr.isatty(),
            ),
            data_collator=collate,
            processing_class=processor,
            compute_metrics=make_compute_metrics(names, tuple(data_options.metrics or ())),
        )
        result = evaluate_split(trainer, images.with_transform(eval_transform(processor)), images, split, None)
    terminal = Terminal(sys.stdout, enabled=trainer.is_world_process_zero())
    terminal.heading(f"Data: {data.name}")
    terminal.data(data)
    terminal.results([result.report])
    terminal.text(per_class_table(result.report))
    if options.output_dir is not None and trainer.is_world_process_zero():
        write_evaluation(Path(options.output_dir), result)
        terminal.text(f"\nWritten to {options.output_dir}.")
    return 0


def _load(name: str, revision: str | None) -> tuple[nn.Module, Any]:
    """Model and processor, from a probe file if that is the result of the run."""
    if is_probe(name):
        probe = load_probe(name)
        return probe.model, probe.processor
    loaded = load_trained(name, revision)
    return loaded.model, loaded.processor


def evaluate_split(
    trainer: TransferTrainer, transformed: Dataset, images: Dataset, name: str, prefix: str | None
) -> SplitResult:
    """Predict one split and compute all metrics.

    Args:
        trainer: With `compute_metrics`.
        transformed: The split as input of the model.
        images: The split with its images and names.
        name: Name of the split, for the report.
        prefix: Prefix of the metrics in `<prefix>_results.json`; None writes no file.
    """
    output = trainer.predict(transformed, metric_key_prefix=prefix or "eval")
    if prefix is not None and trainer.is_world_process_zero():
        trainer.save_metrics(prefix, output.metrics)
    logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
    labels = np.asarray(output.label_ids)
    report = evaluate_predictions(logits, labels, label_names_of(trainer.model), name)
    extra = {key: MetricValue(value, None, None) for key, value in _extra_metrics(output.metrics, prefix or "eval")}
    report = replace(report, metrics=report.metrics | extra)
    return SplitResult(report, logits, labels, images)


def _extra_metrics(metrics: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """The metrics that `--metrics` added: neither ours nor the duration of the evaluation."""
    ours = {*METRIC_TITLES, "loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time"}
    for key, value in metrics.items():
        name = key.removeprefix(f"{prefix}_")
        if name not in ours and isinstance(value, int | float) and key != "epoch":
            yield name, float(value)


def _own_run(folder: str) -> RunRecord | None:
    """The record of the run that trained the model, if the model is the folder of a run."""
    path = Path(folder) / "run.json"
    return RunRecord.load(path) if path.is_file() else None


def _choose_split(data: ImageData, wanted: str | None, seen: bool) -> tuple[str, Any]:
    """The split to evaluate. Data without splits are evaluated whole, unless the model was trained on a part."""
    if wanted is None and not seen and data.evaluation_split.startswith("train") and data.train is not None:
        return "all", concatenate_datasets([data.train, data.validation])
    available = {"train": data.train, "validation": data.validation, "test": data.test}
    if data.evaluation_split == "test":
        available = {"train": data.train, "test": data.validation}
    present = {name: images for name, images in available.items() if images is not None}
    for name in [wanted] if wanted else ["validation", "test", "train"]:
        if name in present:
            return data.evaluation_split if present[name] is data.validation else name, present[name]
    raise ArgumentError(f"There is no split {wanted!r} in {data.name}; there are: {', '.join(present)}.")
