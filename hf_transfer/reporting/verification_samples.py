"""A few evaluation images and the trainer's logits for them, kept in the run's folder for the verification.

They are the user's data and never published.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hf_transfer.data import decode_row
from hf_transfer.data.preprocessing import image_mode
from hf_transfer.data.transforms import EvalTransform
from hf_transfer.run_files import SAMPLE_INPUTS, SAMPLES, SAMPLES_INDEX, samples
from hf_transfer.utils.modules import eval_mode

logger = logging.getLogger(__name__)

_COUNT = 4
_IMAGES = tuple(f"{row}.png" for row in range(_COUNT))
_LONGEST_SIDE = 1024
"""Pixels: a folder of a few MB, and larger than what models take. The trainer sees the image after it was made so."""
_SAME_ARITHMETIC = 1e-4
"""float32 on a CPU, here as there; number of threads and layout of memory change the order of sums."""
_OTHER_ARITHMETIC = 5e-2
"""The trainer ran on an accelerator or in half precision, the verification on a CPU."""


def write_samples(trainer: Any, folder: Path) -> None:
    """Keep a few images of the evaluation data, and what the trainer's model in memory makes of them.

    Unprocessed images are kept if the data set has them, so that the published preprocessing is compared, too;
    otherwise the model's input is kept. A data set that cannot be indexed or collated is skipped with a warning, and
    the verification compares made images alone.

    Args:
        trainer: The trainer of the first process, with the model that is saved in the folder.
        folder: The run's folder; samples of an earlier training are removed, and no other files.
    """
    target = folder / SAMPLES
    remove_samples(folder)
    dataset = trainer.eval_dataset
    dataset = next(iter(dataset.values()), None) if isinstance(dataset, dict) else dataset
    split_model = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    if dataset is None or split_model or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        return
    if target.exists():
        logger.warning(
            "No evaluation images are kept to verify with; made images will be compared alone: %s is there already, "
            "and holds something else. Give it another name.",
            target,
        )
        return
    try:
        _write(trainer, dataset, target)
    except Exception as error:  # a data set and a collator of the user's may raise anything
        logger.warning(
            "No evaluation images are kept to verify with; made images will be compared alone (%s: %s).",
            type(error).__name__,
            error,
        )
        remove_samples(folder)


def remove_samples(folder: Path) -> None:
    """Remove the samples that a run's folder keeps; other files there stay."""
    with contextlib.suppress(OSError):  # no permission; or the folder is not there, or not empty
        for path in samples(folder):
            path.unlink()
        (folder / SAMPLES).rmdir()


def _write(trainer: Any, dataset: Any, target: Path) -> None:
    count = min(_COUNT, len(dataset))
    indices = [number * len(dataset) // count for number in range(count)]
    transform = _eval_transform(dataset)
    images = None if transform is None else _images(dataset, indices, image_mode(transform.processor))
    if images is None:
        features = [dataset[index] for index in indices]
    else:
        assert transform is not None
        made = transform({"image": images})
        features = [{name: values[row] for name, values in made.items()} for row in range(count)]
    batch = trainer.data_collator(features)
    inputs = {n: v.contiguous() for n, v in batch.items() if n not in trainer.label_names and torch.is_tensor(v)}
    logits = _logits(trainer, inputs)
    target.mkdir(parents=True)
    stored: dict[str, Any] = {"images": list(_IMAGES[:count])} if images else {"inputs": SAMPLE_INPUTS}
    facts = {"schema": 1, "tolerance": _tolerance(trainer), "logits": logits.tolist()} | stored
    # The index first: it marks the other files as ours, even if one of them cannot be written.
    (target / SAMPLES_INDEX).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    for name, image in zip(_IMAGES, images or (), strict=False):
        image.save(target / name)
    if not images:
        save_file(inputs, target / SAMPLE_INPUTS)


def _eval_transform(dataset: Any) -> EvalTransform | None:
    """The transform of a data set of `datasets` that has images; None for other data sets."""
    form = getattr(dataset, "format", None)
    transform = form.get("format_kwargs", {}).get("transform") if isinstance(form, dict) else None
    return transform if isinstance(transform, EvalTransform) else None


def _images(dataset: Any, indices: Sequence[int], mode: str) -> list[Any]:
    rows = dataset.with_format(None)
    images = [decode_row(rows[index], mode) for index in indices]
    for image in images:
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return images


def _logits(trainer: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """As `trainer.predict` makes them: on its device and in its precision."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    with eval_mode(model):
        found = trainer.prediction_step(model, dict(inputs), prediction_loss_only=False)[1]
    logits = found[0] if isinstance(found, tuple | list) else found
    return torch.as_tensor(logits).detach().float().cpu()


def _tolerance(trainer: Any) -> float:
    args = trainer.args
    half = args.bf16 or args.fp16 or args.bf16_full_eval or args.fp16_full_eval
    exact = args.device.type == "cpu" and not half
    exact = exact and all(p.dtype == torch.float32 for p in trainer.model.parameters())
    return _SAME_ARITHMETIC if exact else _OTHER_ARITHMETIC
