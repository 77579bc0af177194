"""Fusion of batch normalisation into convolutions, for passes in eval mode: the same function with one pass less.

In eval mode batch normalisation multiplies each channel by one number and adds another, which the convolution before
it can do by itself with other weights. No architecture is known here: one pass of a few images shows which
normalisations read what a convolution gave, and a second one whether the results are the same afterwards.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)

# Rounding alone differs; activations that a second layer reads without normalising them differ in all digits.
_TOLERANCE = 1e-4
# Images of both passes.
FUSION_IMAGES = 2

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


class NormFusion:
    """Fuses a model's batch normalisation; a context manager that gives the model back as it was.

    Args:
        model: In eval mode until the context ends.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._waiting = False
        self._kept: list[tuple[Pair, dict[str, Any], Any]] = []

    def __enter__(self) -> NormFusion:
        self._waiting = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._waiting = False
        self._undo()

    @property
    def fused(self) -> int:
        """Number of normalisations that are fused."""
        return len(self._kept)

    def fuse(self, run: Callable[[], Sequence[torch.Tensor]]) -> None:
        """Fuse what can be fused without changing the results of `run`; after the context's first call do nothing.

        Args:
            run: Runs the model with a few images, always the same, as far as it will be run.
        """
        if not self._waiting:
            return
        self._waiting = False
        if not any(_is_plain_norm(module) for module in self._model.modules()):
            return
        with _recorded_pairs(self._model) as pairs:
            expected = [tensor.clone() for tensor in run()]
        try:
            for pair in pairs:
                self._replace(pair)
            same = not self.fused or _same(run(), expected)
        except BaseException:  # memory, say: what was not compared must not stay
            self._undo()
            raise
        if not same:
            self._undo()
            logger.info("Batch normalisation stays as it is: the model gives other activations without it.")

    def _replace(self, pair: Pair) -> None:
        convolution, norm = pair
        self._kept.append((pair, dict(convolution._parameters), vars(norm).get("forward")))
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        convolution._parameters |= {"weight": weight, "bias": bias}
        vars(norm)["forward"] = _rest_of(norm)

    def _undo(self) -> None:
        while self._kept:
            (convolution, norm), parameters, forward = self._kept.pop()
            convolution._parameters |= parameters
            vars(norm).pop("forward", None)
            if forward is not None:
                vars(norm)["forward"] = forward


@contextmanager
def _recorded_pairs(model: nn.Module) -> Iterator[list[Pair]]:
    """The convolutions whose result a batch normalisation read while the context lasted, both run once."""
    runs: Counter[nn.Module] = Counter()
    given: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}  # the tensors are kept, so that no identity is used twice
    read: list[Pair] = []

    def see(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        runs[module] += 1
        if isinstance(module, nn.Conv2d):
            given[id(output)] = module, output
        elif isinstance(module, nn.BatchNorm2d) and args and id(args[0]) in given:
            read.append((given[id(args[0])][0], module))

    concerned = [module for module in model.modules() if _is_plain_convolution(module) or _is_plain_norm(module)]
    handles = [module.register_forward_hook(see) for module in concerned]
    pairs: list[Pair] = []
    try:
        yield pairs
    finally:
        for handle in handles:
            handle.remove()
    readers = Counter(convolution for convolution, _ in read)
    pairs += [pair for pair in read if runs[pair[0]] == runs[pair[1]] == readers[pair[0]] == 1]


def _is_plain_convolution(module: nn.Module) -> bool:
    """Whether a module convolves with its own weights, not with what is made of them in each pass, in float32."""
    if not isinstance(module, nn.Conv2d) or set(module._parameters) != {"weight", "bias"}:
        return False
    plain = type(module).forward is nn.Conv2d.forward and type(module)._conv_forward is nn.Conv2d._conv_forward
    floating = all(parameter.dtype == torch.float32 for parameter in module.parameters())
    return floating and (plain or _is_timm(module, "Conv2dSame"))


def _is_plain_norm(module: nn.Module) -> bool:
    """Whether a module normalises with running statistics in float32, and is known to do nothing else before it."""
    if not isinstance(module, nn.BatchNorm2d):
        return False
    if type(module).forward is not nn.BatchNorm2d.forward and not _is_timm(module, "BatchNormAct2d"):
        return False
    tensors = [*module.parameters(), *module.buffers()]
    floating = all(tensor.dtype == torch.float32 for tensor in tensors if tensor.is_floating_point())
    return floating and getattr(module, "running_mean", None) is not None


def _is_timm(module: nn.Module, name: str) -> bool:
    return type(module).__name__ == name and type(module).__module__.startswith("timm.")


def _rest_of(norm: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """What is left of a normalisation's forward pass: timm's applies the activation, too."""
    if type(norm).forward is nn.BatchNorm2d.forward:
        return _unchanged
    drop, activation = norm.drop, norm.act
    return lambda activations: activation(drop(activations))  # type: ignore[operator]


def _unchanged(activations: torch.Tensor) -> torch.Tensor:
    return activations


def _same(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    return len(found) == len(expected) and all(
        one.shape == other.shape
        and torch.allclose(one.float(), other.float(), rtol=_TOLERANCE, atol=_TOLERANCE * float(other.abs().max()))
        for one, other in zip(found, expected, strict=True)
        if other.numel()
    )
