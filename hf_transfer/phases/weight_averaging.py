"""The mean of the trained weights over the steps of a phase, which is what the phase then leaves.

Source: stochastic weight averaging, https://arxiv.org/abs/1803.05407, after Polyak and Juditsky (1992).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hf_transfer.errors import PlanError
from hf_transfer.run_files import AVERAGE_FILE

_MEAN, _LATEST, _COUNT = "mean.", "latest.", "count"

Tensors = Mapping[str, torch.Tensor]


class WeightAverage:
    """A running mean of tensors.

    Args:
        count: Number of steps in the mean.
        mean: By name, in float32 or more.

    Attributes:
        count: As above.
        mean: As above.
    """

    def __init__(self, count: int = 0, mean: Tensors | None = None) -> None:
        self.count = count
        self.mean = dict(mean or {})
        self._latest: dict[str, torch.Tensor] | None = None

    def copy(self) -> WeightAverage:
        """Another one with the same mean."""
        return WeightAverage(self.count, {name: tensor.clone() for name, tensor in self.mean.items()})

    @torch.no_grad()
    def update(self, weights: Tensors) -> None:
        """Take the weights after another step into the mean."""
        self.count += 1
        for name, weight in weights.items():
            wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
            if self.count == 1:
                self.mean[name] = wide.clone()
            else:
                self.mean[name].lerp_(wide, 1 / self.count)

    def finish(self, weights: Tensors) -> None:
        """Leave the mean in place of the weights, also of those that a context would put back."""
        self._latest = None
        self._write_to(weights)

    @torch.no_grad()
    def _write_to(self, weights: Tensors) -> None:
        for name, mean in self.mean.items():
            weights[name].copy_(mean)

    @contextlib.contextmanager
    def in_place_of(self, weights: Tensors) -> Iterator[None]:
        """Let weights be their mean while the context lasts; within another such context nothing changes."""
        if self._latest is not None or not self.count:
            yield
            return
        self._latest = {name: weights[name].detach().clone() for name in self.mean}
        try:
            self._write_to(weights)
            yield
        finally:
            latest, self._latest = self._latest or {}, None
            with torch.no_grad():
                for name, weight in latest.items():
                    weights[name].copy_(weight)

    def save(self, folder: Path, weights: Tensors) -> None:
        """Write the mean, and the weights that training continues with, into a checkpoint."""
        latest = {name: weights[name] for name in self.mean} if self._latest is None else self._latest
        tensors = {_MEAN + name: mean for name, mean in self.mean.items()}
        tensors |= {_LATEST + name: weight.detach() for name, weight in latest.items()}
        plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, folder / AVERAGE_FILE, metadata={"format": "pt", _COUNT: str(self.count)})

    @classmethod
    @torch.no_grad()
    def resumed(cls, folder: Path, weights: Tensors, steps: int) -> WeightAverage:
        """Resume from a checkpoint: restore the weights as they were in training, and the mean so far.

        Args:
            folder: A checkpoint.
            weights: The weights of the model, loaded from the checkpoint.
            steps: Number of steps in the mean, as the checkpoint's state says.

        Raises:
            PlanError: The file is missing, damaged, or of another step or model.
        """
        try:
            with safe_open(folder / AVERAGE_FILE, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                count = int((file.metadata() or {})[_COUNT])
            if count != steps:
                raise ValueError(f"the mean of {count} steps, expected {steps}")
            named = {name.removeprefix(_MEAN): tensor for name, tensor in tensors.items() if name.startswith(_MEAN)}
            mean = {name: tensor.to(weights[name].device) for name, tensor in named.items()}
            for name in mean:
                weights[name].copy_(tensors[_LATEST + name])
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise PlanError(
                f"{AVERAGE_FILE} in {folder.name} is missing, damaged, or of another model ({type(error).__name__}: "
                f"{error}). Resume from another checkpoint."
            ) from error
        return cls(count, mean)
