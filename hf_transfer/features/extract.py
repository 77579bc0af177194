"""Features of a frozen network, computed once and kept on disk."""

from __future__ import annotations

import logging
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hf_transfer.architectures.wrapper import ModelWrapper
from hf_transfer.errors import ArgumentError, ModelError
from hf_transfer.features.cache_folder import CacheFolder
from hf_transfer.features.extraction import Columns, default_batch_size, extracting, fill
from hf_transfer.features.fingerprints import (
    content_fingerprint,
    fingerprint,
    tensor_names,
    transform_fingerprint,
    transform_of,
    versions,
    weights_fingerprint,
)
from hf_transfer.features.norm_fusion import FUSION_IMAGES, NormFusion
from hf_transfer.features.reading import Row, SeededViews, model_inputs, pixel_values
from hf_transfer.features.taps import LAST, Layers, TapReader
from hf_transfer.utils.distributed import barrier, from_first
from hf_transfer.utils.modules import is_inside

logger = logging.getLogger(__name__)
# Activations of one image in several places differ by rounding alone; parts of other images differ by much more.
_SAME = 1e-2


def extract_features(
    model: nn.Module,
    dataset: Any,
    processor: Any = None,
    layers: Layers = LAST,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    views: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
    workers: int = 0,
    cache: bool = True,
    cache_folder: str | Path | None = None,
    cache_gb: float | None = None,
    memory_format: str = "auto",
    progress: bool = True,
) -> dict[str, npt.NDArray[Any]]:
    """Compute a model's features of all images, once: the next call with the same of everything reads them from disk.

    The model runs in eval and inference mode and is given back as it was. In a process group all ranks must call this;
    they share the work and the result. A run that is interrupted resumes where it was.

    Args:
        model: An image classifier, not wrapped for several processes.
        dataset: A `datasets.Dataset` with one column of images, or with a transform that makes "pixel_values"; any
            other data set of such rows works too, but is not recognised when it comes again.
        processor: The model's image processor; needed where the data set has no transform.
        layers: "last" for exactly what the head gets; "all" for that and the mean over all positions of each layer
            group's output (a class token counts as one position); or a list of group names, "last" among them.
        dtype: Data type of the stored features; float16 halves the space at 3 digits.
        views: Number of times that each image is read, for a random transform; the numbers of view v are those of
            `seed` and v.
        seed: Seed for random transforms; unused where `views` is 1 and the transform is not random.
        batch_size: Images at a time; None takes 32 on a CPU and 128 on an accelerator, less where memory is short.
        workers: Processes that read images; 0 reads in this one.
        cache: Keep the features for later runs.
        cache_folder: None takes `HF_TRANSFER_CACHE`, or `hf_transfer/features` in `HF_HOME`.
        cache_gb: Most that the folder may take, in GB; the least recently used features are evicted. None takes 20.
        memory_format: "auto", "channels_last" or "default"; see `hf_transfer.models.memory_format`.
        progress: Show a bar with images per second and the time left.

    Returns:
        For each layer by its name, in the order of the forward pass, an array `(views * images, channels)`, view by
        view; mapped from the disk and read-only.

    Raises:
        ArgumentError: Layers, data set or numbers are not as described.
        CacheError: The features are over the cap or over what the disk has free.
        DataError: Rows have no pixels, or their sizes differ.
        LayerGroupError: The model has no head, so that "last" has no meaning.
    """
    if dtype not in ("float32", "float16") or views < 1 or (batch_size is not None and batch_size < 1):
        raise ArgumentError(
            "dtype is float32 or float16, views and batch_size are at least 1; found "
            f"{dtype!r}, {views} and {batch_size}."
        )
    images = model_inputs(dataset, processor)
    if not len(images):
        raise ArgumentError("The data set is empty, so there are no features to extract.")
    reader = TapReader(model, layers)
    wanted = reader.names
    known = _known(model, images, reader.wrapper) if cache else None
    common = {"kind": "taps", "dtype": dtype, "views": views, "seed": seed if views > 1 else None}
    source = None if known is None else fingerprint(common | known)
    rows = SeededViews(images, views, seed if views > 1 else None)

    def run(folder: str | Path | None) -> dict[str, npt.NDArray[Any]]:
        kept = CacheFolder(folder, cache_gb)
        names = wanted if source is None else from_first(_kept_layers(kept, source, wanted))
        taps = reader if names == wanted else TapReader(model, names)
        facts = common | {"layers": names}
        key = fingerprint(facts | (known or {"session": from_first(uuid.uuid4().hex)}))
        with extracting(model, memory_format) as device, kept.using(key), taps, NormFusion(model) as fusion:
            size = default_batch_size(device) if batch_size is None else batch_size
            compute = _tap_computation(taps, fusion, device, np.dtype(dtype))
            facts["source"] = source
            store, _ = fill(kept, key, rows, compute, facts, batch_size=size, workers=workers, progress=progress)
            return {name: store.rows[name] for name in wanted}

    if known is not None:
        return run(cache_folder)
    with tempfile.TemporaryDirectory(prefix="hf_transfer_", ignore_cleanup_errors=True) as folder:
        found = run(from_first(folder))
        barrier()  # mapped arrays outlive the folder, but only where they were mapped in time
        return found


def _kept_layers(cache: CacheFolder, source: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The layers of the store that has the wanted ones, perhaps among others, of the same images and weights.

    Of several it is the one with the most rows computed; where there is none, a store of the wanted layers is to be
    made.
    """
    found = [store for store in cache.stores() if store.entry.facts.get("source") == source]
    wide = [store for store in found if set(wanted) <= set(store.entry.facts["layers"])]
    if not wide:
        return wanted
    best = max(wide, key=lambda store: (-len(store.missing()), store.entry.facts["layers"] == list(wanted)))
    return tuple(best.entry.facts["layers"])


def _known(model: nn.Module, images: Any, wrapper: ModelWrapper) -> dict[str, Any] | None:
    """Fingerprints of all that the features depend on; None where one cannot be known."""
    data = content_fingerprint(images)
    transform = None if data is None else transform_fingerprint(transform_of(images))
    if transform is None:
        logger.info("This data set or its transform has no fingerprint: features are not kept for later runs.")
        return None
    # Taps end where the head begins, whose weights change with every training.
    head = [name for group in wrapper.layer_groups if group.role == "head" for name in group.module_names]
    body = [name for name in tensor_names(model) if not is_inside(name, head)]
    return {"data": data, "transform": transform, "versions": versions(), "weights": weights_fingerprint(model, body)}


def _tap_computation(
    taps: TapReader, fusion: NormFusion, device: torch.device, dtype: np.dtype[Any]
) -> Callable[[Sequence[Row]], Columns]:
    checked = False

    def compute(rows: Sequence[Row]) -> Columns:
        nonlocal checked
        images = pixel_values(rows).to(device)
        fusion.fuse(lambda: list(taps.read(images[:FUSION_IMAGES]).values()))
        found = taps.read(images)
        if taps.folded and not checked and len(images) > 1:
            _check_folding(found, taps.read(images[:1]))
        checked = True
        return {name: value.cpu().numpy().astype(dtype) for name, value in found.items()}

    return compute


def _check_folding(together: dict[str, torch.Tensor], alone: dict[str, torch.Tensor]) -> None:
    """Check that parts of images that a model folds into the batch were given back to their images."""
    for name, value in alone.items():
        expected = together[name][:1]
        if not torch.allclose(value, expected, rtol=_SAME, atol=_SAME * float(expected.abs().max())):
            raise ModelError(
                f"The layer {name!r} mixes images of a batch in an order that is not known. Choose other layers."
            )
