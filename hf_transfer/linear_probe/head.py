"""A solved linear head written into a model's own classifier, so that its forward pass gives exactly those scores.

Between what the head gets and the logits there may be dropout (nothing in eval mode), a BatchNorm of the head's own
(LeViT), a 1x1 convolution instead of a linear layer, and several classifiers whose outputs are averaged (distilled
models). All of that is affine: it is inverted here, and then checked by running the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_transfer.architectures.lookup import wrap
from hf_transfer.errors import ModelError
from hf_transfer.features import head_branches
from hf_transfer.solvers import LinearHead
from hf_transfer.utils.foreign import logits_of
from hf_transfer.utils.modules import eval_mode, is_inside

# Of float32 scores against float64 ones, relative to the largest score.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Classifier:
    """One classifier of a model.

    Attributes:
        path: Path of its branch of the head.
        linear: The linear layer or 1x1 convolution that makes the labels.
        norm: A BatchNorm before it that belongs to the head, too.
    """

    path: str
    linear: nn.Module
    norm: nn.Module | None

    @property
    def channels(self) -> int:
        """Number of inputs."""
        weight: Any = self.linear.weight
        return int(weight.shape[1])


def classifiers(model: nn.Module) -> tuple[Classifier, ...]:
    """Find a model's classifiers.

    Raises:
        LayerGroupError: The model has no head.
        ModelError: A classifier is not affine, such as one with a hidden layer.
    """
    wrapper = wrap(model)
    modules = dict(model.named_modules())
    found = []
    for branch in head_branches(wrapper):
        holders = [
            modules[path]
            for path in dict.fromkeys(name.rpartition(".")[0] for name in wrapper.head.parameter_names)
            if is_inside(path, (branch,))
        ]
        *before, linear = holders
        fits = _is_linear(linear) and len(before) <= 1 and all(isinstance(norm, _BatchNorm) for norm in before)
        if not fits:
            kinds = ", ".join(type(module).__name__ for module in holders)
            raise ModelError(
                f"The head of {type(model).__name__} at {branch!r} cannot hold an exact solution: expected a linear "
                f"layer or 1x1 convolution, with at most a BatchNorm before it; found {kinds}. Train it by gradient "
                "steps: TransferTrainer, or --solver none on the command line."
            )
        found.append(Classifier(branch, linear, before[0] if before else None))
    return tuple(found)


def has_bias(model: nn.Module) -> bool:
    """Whether a model's classifier, or one of several, has a bias."""
    return any(classifier.linear.bias is not None for classifier in classifiers(model))


def write_head(model: nn.Module, head: LinearHead, images: torch.Tensor) -> None:
    """Write a head into a model's classifiers.

    Args:
        model: Changed in place.
        head: On what `extract_features(layers="last")` gives; without a bias where `has_bias` says no.
        images: Images of a few samples `(batch, channels, height, width)`; several classifiers are run on them to see
            how the model joins their outputs.

    Raises:
        ModelError: The head has another size than the classifiers, or their outputs are not joined by a weighted sum.
    """
    parts = _in_order(model, classifiers(model), images)
    width, labels = sum(part.channels for part, _ in parts), len(head.bias)
    outputs = {int(part.linear.weight.shape[0]) for part, _ in parts}  # type: ignore[index]
    if head.weight.shape[1] != width or outputs != {labels}:
        raise ModelError(
            f"The head of {type(model).__name__} maps {width} channels to {sorted(outputs)} labels, the solution "
            f"{head.weight.shape[1]} to {labels}."
        )
    biased = sum(part.linear.bias is not None for part, _ in parts)
    start = 0
    for part, factor in parts:
        weight = head.weight[:, start : start + part.channels] / factor
        start += part.channels
        bias = head.bias / factor / biased if part.linear.bias is not None else None
        _write(part, weight, bias)


@torch.no_grad()
def divide_head(model: nn.Module, temperature: float) -> None:
    """Divide a model's logits by a temperature, folded into its classifiers.

    Raises:
        LayerGroupError: The model has no head.
        ModelError: A classifier is not affine.
    """
    for part in classifiers(model):
        linear: Any = part.linear
        linear.weight.div_(temperature)
        if linear.bias is not None:
            linear.bias.div_(temperature)


@torch.no_grad()
def check_head(model: nn.Module, images: torch.Tensor, expected: Any) -> float:
    """Check that a model's forward pass gives the scores that the solver found.

    Args:
        model: With the head written into it.
        images: Samples `(batch, channels, height, width)`.
        expected: The solver's scores `(batch, classes)`.

    Returns:
        The largest difference.

    Raises:
        ModelError: Scores or decisions differ by more than rounding.
    """
    with eval_mode(model):
        logits = logits_of(model(images.to(next(model.parameters()).device))).double().cpu().numpy()
    if logits.shape != expected.shape:
        raise ModelError(f"The model gives scores of shape {logits.shape}, the solver {expected.shape}.")
    difference = float(np.abs(logits - expected).max())
    best = np.sort(expected, axis=1)
    clear = best[:, -1] - best[:, -2] > 2 * difference
    same = (logits.argmax(axis=1) == expected.argmax(axis=1))[clear].all()
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())) or not same:
        raise ModelError(
            f"{type(model).__name__} does not give the solver's scores: they differ by up to {difference:.2g}. What "
            "its head does is not affine in what it gets, or its body is not the same for each image. Train the head "
            "by gradient steps: TransferTrainer, or --solver none on the command line."
        )
    return difference


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1} and module.groups == 1
    )


@torch.no_grad()
def _write(part: Classifier, weight: Any, bias: Any) -> None:
    norm: Any = part.norm
    if norm is not None:
        deviation = (norm.running_var.double() + norm.eps).sqrt().cpu().numpy()
        mean = norm.running_mean.double().cpu().numpy()
        if norm.affine:
            # A new head may have a new norm: one that can be inverted without loss.
            norm.weight.fill_(1.0)
            shift = 0.0 if bias is not None else mean / deviation
            norm.bias.copy_(torch.as_tensor(np.broadcast_to(shift, mean.shape).copy()))
        weight = weight * deviation
        bias = None if bias is None else bias + weight @ (mean / deviation)
    linear: Any = part.linear
    linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)).reshape(linear.weight.shape))
    if bias is not None:
        linear.bias.copy_(torch.from_numpy(np.ascontiguousarray(bias)))


@torch.no_grad()
def _in_order(model: nn.Module, parts: Sequence[Classifier], images: torch.Tensor) -> list[tuple[Classifier, float]]:
    """The classifiers in the order in which they run, each with its factor in the logits."""
    if len(parts) == 1:
        return [(parts[0], 1.0)]
    outputs: dict[str, torch.Tensor] = {}

    def keep(path: str) -> Any:
        return lambda _module, _args, output: outputs.setdefault(path, output.flatten(1).double())

    modules = dict(model.named_modules())
    handles = [modules[part.path].register_forward_hook(keep(part.path)) for part in parts]
    # Random heads of one draw could be alike; these are not.
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        generator = torch.Generator().manual_seed(0)
        for part in parts:
            linear: Any = part.linear
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator))
        with eval_mode(model):
            logits = logits_of(model(images.to(next(model.parameters()).device))).double()
    finally:
        for handle in handles:
            handle.remove()
        model.load_state_dict(saved)
    if set(outputs) != {part.path for part in parts}:
        raise ModelError(f"Not all classifiers of {type(model).__name__} run: {sorted(outputs)} of {len(parts)} do.")
    columns = torch.stack([outputs[path].flatten() for path in outputs], dim=1)
    factors = torch.linalg.lstsq(columns, logits.flatten()[:, None]).solution[:, 0]
    if not torch.allclose(columns @ factors, logits.flatten(), rtol=1e-4, atol=1e-4 * float(logits.abs().max())):
        raise ModelError(f"The outputs of the classifiers of {type(model).__name__} are not joined by a weighted sum.")
    by_path = {part.path: part for part in parts}
    return [(by_path[path], float(factor)) for path, factor in zip(outputs, factors, strict=True)]
