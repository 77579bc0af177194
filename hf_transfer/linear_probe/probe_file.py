"""Probe files: a linear head on layers whose features no ordinary checkpoint can read, kept next to the ordinary one.

The folder holds an ordinary checkpoint of the network, whose own head reads the last layer; `probe.safetensors` with
the head on the chosen layers; and `probe.json`, which says what it reads. Only hf_transfer can run that head.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from hf_transfer.architectures.lookup import wrap
from hf_transfer.data import eval_transform
from hf_transfer.data.images import RANGE_COLUMN
from hf_transfer.errors import ModelError
from hf_transfer.features.extraction import default_batch_size
from hf_transfer.features.fingerprints import fingerprint
from hf_transfer.features.reading import model_inputs, pixel_values, read_batches
from hf_transfer.features.taps import TapReader
from hf_transfer.models.loading import LoadedModel, label_names_of, load_trained
from hf_transfer.models.memory_format import set_memory_format
from hf_transfer.run_files import PROBE_FILE, PROBE_WEIGHTS, RECORD, is_probe
from hf_transfer.solvers import LinearHead
from hf_transfer.utils.environment import collect_versions
from hf_transfer.utils.files import write_atomically
from hf_transfer.utils.hashing import digests
from hf_transfer.utils.modules import is_inside

SCHEMA = 1
POOLING = "mean over all positions"


@dataclass(frozen=True)
class ProbeHead:
    """A head on the joined features of some layers.

    Attributes:
        layers: Names as `extract_features` gives them; their features stand side by side in this order.
        head: On all their channels.
    """

    layers: tuple[str, ...]
    head: LinearHead

    def join(self, features: Mapping[str, Any]) -> npt.NDArray[Any]:
        """The features that the head reads, `(images, channels of all layers)`."""
        return joined(features, self.layers)


def joined(features: Mapping[str, Any], layers: Sequence[str]) -> npt.NDArray[Any]:
    """Features of layers side by side."""
    return np.concatenate([np.asarray(features[name]) for name in layers], axis=1)


class ProbeModel(nn.Module):
    """A network whose logits are those of a probe: for evaluation, with `Trainer` or by hand.

    Args:
        backbone: In which the layers are; its own head is not asked.
        probe: The head.
        memory_format: In which the features were computed that the head was solved on.
    """

    def __init__(self, backbone: nn.Module, probe: ProbeHead, memory_format: str = "default") -> None:
        super().__init__()
        set_memory_format(backbone, memory_format)
        self.backbone = backbone
        self.config: Any = backbone.config
        self.probe = probe
        self._taps = TapReader(backbone, list(probe.layers))
        self.eval()

    def train(self, mode: bool = True) -> ProbeModel:
        """Nothing: the network stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def scores(self, images: torch.Tensor) -> npt.NDArray[Any]:
        """Scores as the solver computes them, in float64.

        Args:
            images: `(batch, channels, height, width)`.

        Returns:
            `(batch, classes)`.
        """
        with self._taps:
            found = self._taps.read(images.to(next(self.backbone.parameters()).device))
        scores: npt.NDArray[Any] = self.probe.head.scores(
            self.probe.join({name: value.cpu().numpy() for name, value in found.items()})
        )
        return scores

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        """Logits as float32, and the cross-entropy where labels are given."""
        logits = torch.from_numpy(self.scores(pixel_values)).float().to(pixel_values.device)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


class Probe:
    """A classifier that was loaded from a folder with a probe file.

    Attributes:
        model: Gives logits from pixel values.
        processor: Makes pixel values from images.
        label_names: In the order of the logits.
        pixel_range: From which grey images of more than 8 bits are scaled, as in training.
    """

    def __init__(self, loaded: LoadedModel, model: ProbeModel, pixel_range: Sequence[float] | None = None) -> None:
        self.loaded = loaded
        self.model = model
        self.processor = loaded.processor
        self.label_names = label_names_of(loaded.model)
        self.pixel_range = pixel_range

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the head reads."""
        return self.model.probe.layers

    def logits(self, images: Any) -> npt.NDArray[Any]:
        """Logits `(images, classes)`.

        Args:
            images: An image, or several: Pillow images, paths, contents of files, or mappings with "bytes" or "path";
                a `datasets.Dataset` with a column of images; or pixel values `(batch, channels, height, width)` as
                the processor makes them.
        """
        size = default_batch_size(next(self.model.backbone.parameters()).device)
        if isinstance(images, torch.Tensor):
            return np.concatenate([self.model.scores(part) for part in torch.split(images, size)])
        rows = self._rows(images)
        batches = [range(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
        return np.concatenate([self.model.scores(pixel_values(batch)) for batch in read_batches(rows, batches)])

    def predict(self, images: Any) -> list[str]:
        """The label of each image; `images` as in `logits`."""
        return [self.label_names[int(index)] for index in self.logits(images).argmax(axis=1)]

    def _rows(self, images: Any) -> Any:
        if hasattr(images, "column_names"):
            return model_inputs(images, self.processor)
        several = list(images) if isinstance(images, list | tuple) else [images]
        return _Rows(several, self.processor, self.pixel_range)


class _Rows:
    """Images as rows with pixel values."""

    def __init__(self, images: Sequence[Any], processor: Any, pixel_range: Sequence[float] | None) -> None:
        self._images = images
        self._range = pixel_range
        self._transform = eval_transform(processor)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        made = self._transform({"image": [self._images[index]], RANGE_COLUMN: [self._range]})
        return {"pixel_values": made["pixel_values"][0]}


def save_probe(
    folder: str | Path, model: nn.Module, probe: ProbeHead, *, solver: str, memory_format: str = "default"
) -> None:
    """Write a probe next to the checkpoint of its network.

    Args:
        folder: Where `model.save_pretrained` and its processor's wrote to.
        model: The network, with label names.
        probe: The head.
        solver: How it was found.
        memory_format: In which its features were computed.

    Raises:
        OutputError: A file cannot be written.
    """
    facts = {
        "schema": SCHEMA,
        "layers": list(probe.layers),
        "pooling": POOLING,
        "label_names": list(label_names_of(model)),
        "solver": solver,
        "memory_format": memory_format,
        "backbone": _body_fingerprint(model),
        "versions": collect_versions(),
    }
    weights = {"weight": np.ascontiguousarray(probe.head.weight), "bias": np.ascontiguousarray(probe.head.bias)}
    save_file(weights, Path(folder) / PROBE_WEIGHTS, metadata={"format": "np"})
    write_atomically(Path(folder) / PROBE_FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def load_probe(folder: str | Path) -> Probe:
    """Load the classifier of a run that was trained with `--allow_probe_file` and whose result needed it.

    Args:
        folder: The run's `output_dir`.

    Returns:
        An object with `predict(images)`, `logits(images)` and `label_names`, which decides as the solver did.

    Raises:
        ModelError: There is no probe file, it is damaged, or it belongs to other weights than those in the folder.
    """
    folder = Path(folder)
    if not is_probe(folder):
        raise ModelError(
            f"There is no {PROBE_FILE} in {folder}: only results that no ordinary checkpoint can express have "
            'one. Load all others with transformers: pipeline("image-classification", folder).'
        )
    try:
        facts = json.loads((folder / PROBE_FILE).read_text(encoding="utf-8"))
        weights = load_file(folder / PROBE_WEIGHTS)
        schema, layers = facts["schema"], tuple(facts["layers"])
        probe = ProbeHead(layers, LinearHead(weights["weight"], weights["bias"]))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{PROBE_FILE} or {PROBE_WEIGHTS} in {folder} is missing or damaged ({error}). Train again, or copy the "
            "whole folder."
        ) from error
    if schema != SCHEMA or facts["pooling"] != POOLING:
        raise ModelError(
            f"Expected a probe file of schema {SCHEMA}, found {schema!r} ({facts['pooling']}). It was written by "
            f"another version of hf-transfer-learning: {facts['versions'].get('hf_transfer_learning', 'unknown')}."
        )
    loaded = load_trained(str(folder))
    names = list(label_names_of(loaded.model))
    if facts["backbone"] != _body_fingerprint(loaded.model) or facts["label_names"] != names:
        raise ModelError(
            f"The probe in {folder} belongs to other weights or labels than the checkpoint next to it. Copy the whole "
            "folder of the run, or train again."
        )
    return Probe(loaded, ProbeModel(loaded.model, probe, facts["memory_format"]), _pixel_range(folder))


def _pixel_range(folder: Path) -> Sequence[float] | None:
    """The range that the images of the run were scaled from, as its record says; None where it says none."""
    try:
        found: Any = json.loads((folder / RECORD).read_text(encoding="utf-8"))["data"].get("pixel_range")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if isinstance(found, list) and len(found) == 2 else None


def _body_fingerprint(model: nn.Module) -> str:
    """Fingerprint of all tensors but the head's, which the probe does not use."""
    head = wrap(model).head.module_names
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not is_inside(name, head)}
    return fingerprint({"tensors": digests(tensors)})
