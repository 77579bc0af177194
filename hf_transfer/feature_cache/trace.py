"""Trace a forward pass: in which order modules run, and what of theirs depends on the number of images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten

from hf_transfer.errors import CutError
from hf_transfer.utils.modules import device_of, eval_mode

# Two batches tell a dimension that grows with the batch from one that does not.
_BATCHES = (2, 3)


@dataclass(frozen=True)
class Leaf:
    """A value that a module takes or gives, as a function of the number of images.

    Attributes:
        shape: Shape of a tensor; a negative number -k stands for k times the number of images. None for other values.
        dtype: Data type of a tensor.
        value: Value of anything else; an integer that grows with the batch is the factor, with `grows` set.
        grows: Whether the value depends on the number of images.
    """

    shape: tuple[int, ...] | None
    dtype: torch.dtype | None = None
    value: Any = None
    grows: bool = False

    @property
    def is_rows(self) -> bool:
        """A tensor with a part for each image, one after the other."""
        return self.shape is not None and len(self.shape) > 0 and self.shape[0] < 0

    @property
    def factor(self) -> int:
        """Number of entries of the first dimension for each image."""
        assert self.shape is not None and self.is_rows
        return -self.shape[0]

    def sized(self, images: int) -> tuple[int, ...]:
        """The shape for a number of images."""
        assert self.shape is not None
        return tuple(-size * images if size < 0 else size for size in self.shape)


@dataclass
class Trace:
    """What happened in one forward pass.

    Attributes:
        events: "in" or "out" and the module's path, in order.
        inputs: Arguments of each module's first run.
        outputs: Results of each module's runs.
    """

    events: list[tuple[str, str]] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, list[Any]] = field(default_factory=dict)

    def first_in(self) -> dict[str, int]:
        """When each module first begins."""
        found: dict[str, int] = {}
        for position, (kind, name) in enumerate(self.events):
            if kind == "in":
                found.setdefault(name, position)
        return found

    def last_out(self) -> dict[str, int]:
        """When each module last ends."""
        return {name: position for position, (kind, name) in enumerate(self.events) if kind == "out"}


def trace(model: nn.Module, image: torch.Tensor) -> tuple[Trace, Trace]:
    """Trace a forward pass with two and with three images, without computing: on a copy without storage.

    A model that cannot run without storage is run on blank images.

    Args:
        model: Its modes, hooks and tensors are left alone.
        image: An image of the right shape and type `(channels, height, width)`; its values are not read.

    Raises:
        CutError: The model cannot be run.
    """
    try:
        return _trace(_without_storage(model), [torch.empty(n, *image.shape, device="meta") for n in _BATCHES], image)
    except Exception:  # foreign code on the meta device may fail in any way; the real pass decides
        blanks = [torch.zeros(n, *image.shape, device=device_of(model)) for n in _BATCHES]
    try:
        return _trace(model, blanks, image)
    except Exception as error:
        raise CutError(f"a forward pass on blank images failed ({type(error).__name__}: {error})") from error


class NoBoundary(Exception):
    """A place where the model cannot be cut."""


def _trace(model: nn.Module, batches: Sequence[torch.Tensor], image: torch.Tensor) -> tuple[Trace, Trace]:
    with eval_mode(model), torch.no_grad():
        first, second = (traced(model, batch.to(image.dtype))[0] for batch in batches)
    return first, second


def traced(model: nn.Module, images: torch.Tensor) -> tuple[Trace, Any]:
    """Run a model; what happened, and its output."""
    found = Trace()
    handles = []

    def hooks(name: str) -> tuple[Any, Any]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            found.events.append(("in", name))
            found.inputs.setdefault(name, (args, kwargs))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            found.events.append(("out", name))
            found.outputs.setdefault(name, []).append(output)

        return enter, leave

    try:
        for name, module in model.named_modules():
            if name:
                enter, leave = hooks(name)
                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave))
        output = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found, output


def _without_storage(model: nn.Module) -> nn.Module:
    """A copy on the meta device, without hooks."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.data.to("meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to("meta")
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return twin


def pairs(first: Sequence[Any], second: Sequence[Any]) -> Iterator[tuple[tuple[Leaf, ...], TreeSpec]]:
    """Describe the results of each run of a module, from traces with two and with three images."""
    if len(first) != len(second):
        raise NoBoundary("a module runs as often as there are images")
    for one, other in zip(first, second, strict=True):
        yield leaves_of(one, other)


def leaves_of(first: Any, second: Any) -> tuple[tuple[Leaf, ...], TreeSpec]:
    """Describe a value as a function of the number of images, from its forms with two and with three."""
    (two, structure), (three, other) = tree_flatten(first), tree_flatten(second)
    if structure != other:
        raise NoBoundary("the form of a result depends on the number of images")
    return tuple(_leaf(a, b) for a, b in zip(two, three, strict=True)), structure


def _leaf(two: Any, three: Any) -> Leaf:
    if isinstance(two, torch.Tensor) and isinstance(three, torch.Tensor) and two.ndim == three.ndim:
        return Leaf(tuple(_dimension(a, b) for a, b in zip(two.shape, three.shape, strict=True)), two.dtype)
    if type(two) is int and type(three) is int and two != three:
        return Leaf(None, value=-_dimension(two, three), grows=True)
    if two is three or (type(two) is type(three) and isinstance(two, int | float | str | bytes) and two == three):
        return Leaf(None, value=two)
    if type(two) is type(three) and not isinstance(two, torch.Tensor) and _equal(two, three):
        return Leaf(None, value=two)
    raise NoBoundary(f"a {type(two).__name__} depends on the number of images")


def _dimension(two: int, three: int) -> int:
    if two == three:
        return two
    if two % _BATCHES[0] or three % _BATCHES[1] or two // _BATCHES[0] != three // _BATCHES[1]:
        raise NoBoundary(f"a dimension is {two} for two images and {three} for three")
    return -(two // _BATCHES[0])


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # what compares in a way of its own is not known to be equal
        return False
