"""The rows that a data loader reads during training: the same in every run, and from a store where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset

from hf_transfer.data.transforms import LightAugmentation, StandardAugmentation
from hf_transfer.feature_cache.packing import Packer
from hf_transfer.features.fingerprints import transform_of
from hf_transfer.utils.random_state import own_random_numbers, seed_random_numbers


class PackedRows(Dataset[Any]):
    """A data set as the model is fed from a store: its rows, with a packed row in place of each image.

    Without a store it gives the images themselves, so that one data loader can live through phases with and without a
    store. What changes between epochs changes only there: batches that were read ahead, and workers that hold a copy,
    would otherwise decide which images come from the store.

    With a seed, what a random transform draws for an image depends on seed, epoch and image alone: not on the images
    read before, on the worker or on the process, so that a resumed run sees the same pixels. Where the data set reads
    batches (`__getitems__`) with a transform that is not known to treat each image by itself, it depends on the batch
    instead. The random numbers of Python, NumPy and torch are set, and continue afterwards as if nothing had been
    read; generators that a data set holds itself are beyond reach.

    Args:
        dataset: Map-style, with images.
        seed: Seed for what random transforms draw; None leaves it to the global random numbers.

    Attributes:
        packer: Packer of the store that is read.
        next_packer: Packer of the store that is read from the next epoch on.
        batch_seed: Seed for what is done with the batch that was read last.
    """

    def __init__(self, dataset: Any, seed: int | None = None) -> None:
        self.dataset = dataset
        self.packer: Packer | None = None
        self.next_packer: Packer | None = None
        self.seed = seed
        self.batch_seed: int | None = None
        epoch: Any = torch.zeros((), dtype=torch.int64)
        self._epoch: torch.Tensor = epoch.share_memory_()  # workers may outlive an epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Choose random numbers and view of an epoch."""
        self._epoch.fill_(epoch)

    def begin_epoch(self, epoch: int, stored: bool = True) -> None:
        """Begin an epoch, before its data loader is iterated.

        Args:
            epoch: Its number.
            stored: Whether the next packer is used; False where the phase began amid this epoch, when the run that is
                resumed could not use it either.
        """
        self.set_epoch(epoch)
        self.packer = self.next_packer if stored else None

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        if self.packer is None:
            return self.images(indices)
        return [self.packer.row(int(index), int(self._epoch)) for index in indices]

    def images(self, indices: Sequence[int]) -> list[Any]:
        """The rows with their images, whether there is a store or not."""
        if self.seed is None:
            return self._read(indices)
        epoch, numbers = int(self._epoch), [int(index) for index in indices]
        self.batch_seed = hash((self.seed, epoch, *numbers))
        with own_random_numbers(self.batch_seed):
            if _reads_batches(self.dataset) and not _augments_each(self.dataset):
                return self._read(numbers)
            rows = []
            for number in numbers:
                seed_random_numbers(hash((self.seed, epoch, number)))
                rows.append(self.dataset[number])
            return rows

    def _read(self, indices: Sequence[int]) -> list[Any]:
        if _reads_batches(self.dataset):
            return list(self.dataset.__getitems__(list(indices)))
        return [self.dataset[index] for index in indices]


class SeededCollator:
    """A collator whose random numbers depend on the batch and the epoch alone, as those of the rows do.

    Args:
        collator: May be random, as one that mixes images.
        rows: What the batches are read from, in the same process.
    """

    def __init__(self, collator: Callable[[Any], Any], rows: PackedRows) -> None:
        self.collator = collator
        self.rows = rows

    def __call__(self, features: Any) -> Any:
        """Collate."""
        with own_random_numbers(self.rows.batch_seed):
            return self.collator(features)


def _reads_batches(dataset: Any) -> bool:
    return getattr(dataset, "__getitems__", None) is not None


def _augments_each(dataset: Any) -> bool:
    """Whether the transform is random and known to treat each image by itself."""
    if not isinstance(dataset, datasets.Dataset):
        return False
    return isinstance(transform_of(dataset), LightAugmentation | StandardAugmentation)
