"""The feature cache of a training run: for each phase, decide whether the frozen part is computed once, and do it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.lookup import wrap
from hf_transfer.errors import CacheError, CutError, DataError
from hf_transfer.feature_cache.check import CHECK_IMAGES, find_cut
from hf_transfer.feature_cache.columns import CutColumns, costs_of, prefix_tensors, row_bytes
from hf_transfer.feature_cache.costs import Costs, row_seconds, speed_up
from hf_transfer.feature_cache.cut import Captured, Cut, boundary
from hf_transfer.feature_cache.decision import CacheDecision, CacheSettings, pays
from hf_transfer.feature_cache.inputs import Inputs, known_inputs
from hf_transfer.feature_cache.packing import (
    CONSTANTS_FILE,
    Packer,
    images_of,
    is_packed,
    save_constants,
    stamps,
)
from hf_transfer.feature_cache.rows import PackedRows
from hf_transfer.feature_cache.trace import trace
from hf_transfer.features.cache_folder import CacheFolder
from hf_transfer.features.extraction import Extraction, default_batch_size, extracting, fill
from hf_transfer.features.fingerprints import fingerprint, versions, weights_fingerprint
from hf_transfer.features.norm_fusion import NormFusion
from hf_transfer.features.reading import SeededViews, pixel_values
from hf_transfer.features.store import FeatureStore
from hf_transfer.utils.distributed import first_reason, from_first, rank_and_world

logger = logging.getLogger(__name__)


class FeatureCache:
    """Computes the frozen part of a model once for each phase, and feeds the stored tensors to the rest.

    Args:
        model: Not wrapped for several processes.
        train_dataset: What the phases train on.
        collator: Makes batches of rows.
        settings: How.
        obstacle: A reason of the trainer's why images must go the whole way; None where there is none.

    Attributes:
        decisions: One for each phase that began.
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Any,
        collator: Callable[[Any], Any],
        settings: CacheSettings,
        obstacle: str | None = None,
    ) -> None:
        self.model = model
        self.train = PackedRows(train_dataset, settings.seed)
        self.settings = settings
        self.decisions: list[CacheDecision] = []
        self._collator = collator
        self._obstacle = obstacle
        self._folder = CacheFolder(settings.folder, settings.cap_gb)
        self._evaluated: dict[int, PackedRows] = {}
        self._cut: Cut | None = None
        self._image = torch.empty(0)
        self._weights = ""
        self._stamp = 0
        self._train_stamps: set[int] = set()
        self._packers: list[Packer] = []
        self._open = contextlib.ExitStack()
        self._handle = model.register_forward_pre_hook(self._replace_stale, with_kwargs=True)

    def begin(self, phase: str, epochs: float, decided: bool | None = None) -> CacheDecision:
        """Decide for a phase whose freezing has been applied, fill the store and cut the model.

        The store is read from the next epoch on.

        Args:
            phase: Its name.
            epochs: How many epochs begin in it, or, in a resumed run, are left of it.
            decided: What the run that is resumed decided for this phase; its weights are only reproduced bit for bit
                in the same way.
        """
        self.end()
        try:
            if decided is False:
                raise _NotCached("the run that is resumed trained this phase without it")
            decision = self._begin(phase, epochs, decided is True)
        except _NotCached as reason:
            decision = CacheDecision(phase, False, str(reason), epochs=epochs)
        self.decisions.append(decision)
        if rank_and_world()[0] == 0:
            logger.info("%s", decision)
        return decision

    def evaluation(self, dataset: Any, times: float) -> Any:
        """A data set for evaluation during the phase: from a store where the phase has one and it pays.

        Args:
            dataset: What to evaluate.
            times: How often it will be, in this phase.
        """
        if self._cut is None or not hasattr(dataset, "__getitem__") or not len(dataset):
            return dataset
        packed = self._evaluated.get(id(dataset))
        if packed is not None and packed.dataset is dataset:
            return packed
        if times < 2 and self.settings.mode != "on":
            return dataset
        packed = PackedRows(dataset)
        try:
            inputs = self._inputs(dataset)
            if inputs.random or inputs.shape != tuple(self._image.shape):
                raise _NotCached("its transform is random or makes images of another size")
            packed.packer = self._stored(self._cut, dataset, inputs, 1)[0]
        except _NotCached as reason:
            logger.info("The evaluation images go the whole way: %s.", reason)
        self._evaluated[id(dataset)] = packed
        return packed

    def end(self) -> None:
        """Give the model back whole; batches that were packed before are computed from their images."""
        self._open.close()
        self._cut = None
        self.train.packer = self.train.next_packer = None
        for packed in self._evaluated.values():
            packed.packer = None
        self._packers.clear()
        self._evaluated.clear()

    def close(self) -> None:
        """End, and take the hooks away."""
        self.end()
        self._handle.remove()

    def _begin(self, phase: str, epochs: float, decided: bool) -> CacheDecision:
        if self.settings.mode == "off":
            raise _NotCached("--cache_features off")
        if self._obstacle is not None:
            raise _NotCached(self._obstacle)
        groups = wrap(self.model).layer_groups
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        touched = {g.index for g in groups if trained.intersection(g.parameter_names)}
        if not touched or 0 in touched:
            raise _NotCached("nothing in front of the first trained layer is frozen")
        if epochs <= 0:
            raise _NotCached("no epoch begins in it")
        if epochs <= 1 and self.settings.mode == "auto" and not decided:
            raise _NotCached(f"it lasts {epochs:.3g} epochs, so each image is seen once")
        inputs = self._agree(lambda: self._inputs(self.train.dataset))
        views = self._views(inputs)
        self._image = torch.empty(inputs.shape, dtype=getattr(torch, inputs.dtype), device="meta")
        cut, costs = self._agree(lambda: self._find_cut(groups, touched, trained, inputs))
        self._weights = weights_fingerprint(self.model, prefix_tensors(self.model, groups, cut))
        gain, megabytes = self._worthwhile(cut, costs, epochs, views, inputs, decided)
        packer, done = self._stored(cut, self.train.dataset, inputs, views)
        cut.install(self._unpack, self._image)
        self._open.callback(cut.remove)
        self._cut, self.train.next_packer = cut, packer
        self._train_stamps.add(packer.stamp)
        reused = done.computed == 0
        return CacheDecision(
            phase=phase,
            used=True,
            reason="stored by an earlier run" if reused else f"{done.images / max(done.seconds, 1e-9):,.0f} images/s",
            cut=cut.boundary.path,
            images=packer.images,
            views=views,
            megabytes=megabytes,
            epochs=epochs,
            expected_speed_up=gain,
            reused=reused,
            extraction_seconds=done.seconds,
        )

    def _agree(self, work: Callable[[], Any]) -> Any:
        """Do something that may be impossible, in all processes alike."""
        result, reason = None, None
        try:
            result = work()
        except (CutError, DataError, _NotCached) as error:
            reason = str(error)
        reason = first_reason(reason)
        if reason is not None:
            raise _NotCached(reason)
        return result

    def _inputs(self, dataset: Any) -> Inputs:
        return known_inputs(dataset, self._collator, self._folder)

    def _views(self, inputs: Inputs) -> int:
        if not inputs.random:
            return 1
        if self.settings.views < 1:
            raise _NotCached("the training transform is random; --cache_views K would store K views of each image")
        return self.settings.views

    def _find_cut(
        self, groups: Sequence[LayerGroup], touched: Collection[int], trained: Collection[str], inputs: Inputs
    ) -> tuple[Cut, Costs]:
        """The cut and what its parts cost; from a note where the same was found out before."""
        eval_modules = sorted(name for name, module in self.model.named_modules() if not module.training)
        facts: dict[str, Any] = {
            "kind": "cut",
            "trained": sorted(trained),
            "eval": eval_modules,
            "versions": versions(),
        }
        structure = weights_fingerprint(self.model, ())
        key = fingerprint(facts | {"structure": structure, "modules": repr(self.model), "shape": inputs.shape})
        noted = self._folder.noted(key)
        if noted is not None:
            with contextlib.suppress(KeyError, TypeError):
                first, second = trace(self.model, self._image)
                cut = Cut(self.model, boundary(first, second, noted["path"]), noted["materialise"])
                return cut, Costs(**noted["costs"])
        device = next(self.model.parameters()).device
        started = time.perf_counter()
        images = pixel_values(inputs.rows(self.train.dataset, CHECK_IMAGES)).to(device)
        reading = (time.perf_counter() - started) / CHECK_IMAGES
        cut = find_cut(self.model, groups, touched, trained, images)
        costs = costs_of(cut, reading)
        note = {"path": cut.boundary.path, "materialise": cut.materialise, "costs": asdict(costs)}
        self._folder.note(key, note)
        return cut, costs

    def _worthwhile(
        self, cut: Cut, costs: Costs, epochs: float, views: int, inputs: Inputs, decided: bool
    ) -> tuple[float, float]:
        """How many times as fast the phase becomes, and the store's size in MB.

        Raises:
            _NotCached: It does not pay and is not decided, or the store does not fit.
        """
        size = row_bytes(cut)
        total = size * len(self.train.dataset) * views
        key = self._key(cut, inputs, views)
        store = None if key is None else self._folder.open(key)
        missing = 1.0 if store is None else len(store.missing()) / max(store.entry.chunk_count, 1)
        costs = replace(costs, row=row_seconds(size, total, _memory_bytes()))
        gain = from_first(speed_up(costs, epochs, views, missing))
        if not decided and not pays(self.settings.mode, gain):
            raise _NotCached(f"storing {total / 1e6:,.1f} MB would make it about {gain:.2f} times as fast")
        full = from_first(None if store is not None else self._folder.why_not(total))
        if full is not None:
            raise _NotCached(full)
        return gain, total / 1e6

    def _key(self, cut: Cut, inputs: Inputs, views: int) -> str | None:
        """The store's key; None where the data set has no fingerprint."""
        if inputs.fingerprint is None:
            return None
        facts: dict[str, Any] = {"kind": "cut", "path": cut.boundary.path, "weights": self._weights}
        facts |= {"data": inputs.fingerprint, "versions": versions(), "autocast": str(self.settings.autocast)}
        return fingerprint(facts | {"views": views, "seed": self.settings.seed if inputs.random else None})

    def _stored(self, cut: Cut, dataset: Any, inputs: Inputs, views: int) -> tuple[Packer, Extraction]:
        """The packer of a data set whose store is filled, and what filling it took."""
        key = self._key(cut, inputs, views)
        if key is None:
            key = from_first(f"session-{uuid.uuid4().hex}")
            self._open.callback(self._folder.remove, key)
        rows = SeededViews(dataset, views, self.settings.seed if inputs.random else None)
        fusion = NormFusion(self.model)
        compute = CutColumns(cut, self.settings.autocast, fusion)
        try:
            self._open.enter_context(self._folder.using(key))
            with extracting(self.model) as device, fusion:
                store, done = fill(
                    self._folder,
                    key,
                    rows,
                    compute,
                    compute.facts,
                    batch_size=default_batch_size(device),
                    workers=self.settings.workers,
                    progress=self.settings.progress,
                    description="Computing the frozen part",
                )
                _complete_constants(store, compute, rows)
        except (CacheError, CutError, DataError) as error:
            if rank_and_world()[1] > 1:
                raise  # the other processes wait for this one's share
            raise _NotCached(str(error)) from error
        self._stamp += 1
        packer = Packer(store, len(dataset), self._stamp)
        self._packers.append(packer)
        return packer, done

    def _unpack(self, value: torch.Tensor) -> Captured | None:
        if not is_packed(value):
            return None
        return next((c for packer in self._packers if (c := packer.unpack(value)) is not None), None)

    def _replace_stale(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Read the images of a batch that was packed before the phase changed: data loaders read ahead."""
        known = {packer.stamp for packer in self._packers}
        for key, value in kwargs.items():
            if not is_packed(value) or (found := stamps(value)) <= known:
                continue
            if not found <= self._train_stamps:
                raise CacheError("Stored features reached a model that is not fed from their store. Start again.")
            rows = self.train.images(images_of(value))
            return args, kwargs | {key: pixel_values(rows).to(value.device)}
        return None


class _NotCached(Exception):
    """Why a phase is trained the ordinary way."""


def _complete_constants(store: FeatureStore, compute: CutColumns, rows: SeededViews) -> None:
    """Keep the tensors that are the same for all images, if a run that was killed did not."""
    if not store.entry.facts["constants"] or (store.folder / CONSTANTS_FILE).is_file():
        return
    if not compute.constants:
        compute([rows[0]])
    save_constants(store.folder, compute.constants)


def _memory_bytes() -> int:
    """Memory of the machine; 8 GiB where the system does not tell."""
    names = getattr(os, "sysconf_names", {})
    known = "SC_PAGE_SIZE" in names and "SC_PHYS_PAGES" in names
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else 2**33
