"""An earlier end for networks whose configuration cannot say it: the layers behind it pass their input through.

EfficientNet-Lite, MobileNetV2, MnasNet and their kin have no field for fewer blocks. Their later blocks can be given
weights with which they hand on what they get, so that the head reads an earlier layer and the checkpoint stays an
ordinary one: same class, same configuration, same shapes.

- A block with a skip connection passes its input on when its branch ends in zeros.
- Of any other block, two channels carry the positive and the negative part of one: x = relu(x) - relu(-x). For ReLU6
  both are scaled to stay below 6.
- A stride of two takes the mean of four pixels, which leaves the mean over a map of even size as it is.

The head then gets the means of both parts of each channel. What passes through is never trained: it has the role
"tail" in the layer groups, found again by the configuration's `ends_after`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.lookup import wrap
from hf_transfer.errors import TruncationError
from hf_transfer.models.timm_interop import is_timm_wrapper
from hf_transfer.utils.foreign import timm_inner

_FAMILY, _BLOCK = "EfficientNet", "InvertedResidual"
_HALVES = 2
_DEVIATIONS = 8.0
"""Standard deviations around its mean within which a channel is taken to stay."""
_SIX = 6.0
_OPEN = 20.0
"""Input at which a sigmoid gate is open."""


def passing_points(model: nn.Module, blocks: Sequence[LayerGroup]) -> tuple[str, ...]:
    """Names of the blocks behind which all others can pass their input through, from input to output.

    Args:
        model: A model of transformers or timm; may be on the meta device.
        blocks: Its blocks.
    """
    return tuple(block.name for block in blocks[:-1] if _obstacle(model, block, blocks) is None)


def end_after(model: nn.Module, block: LayerGroup, blocks: Sequence[LayerGroup], seed: int) -> nn.Module:
    """Make a copy whose blocks behind one pass their input through, with a new head.

    Args:
        model: Stays as it is.
        block: The last block that works.
        blocks: All blocks.
        seed: Seed for the new head's weights.

    Raises:
        TruncationError: A later block cannot pass its input through.
    """
    if (reason := _obstacle(model, block, blocks)) is not None:
        raise TruncationError(reason)
    made = copy.deepcopy(model)
    modules = dict(made.named_modules())
    position = blocks.index(block)
    width = _width(modules[block.name])
    scale = _scale(_stage_so_far(made, blocks, position))
    with torch.no_grad():
        for later in blocks[position + 1 :]:
            _pass_block(modules[later.name], width, scale)
        inner = timm_inner(made)
        _fill_identity(inner.conv_head, width, (scale, -scale))
        _neutral(inner.bn2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in {name.rpartition(".")[0] for name in wrap(made).head.parameter_names}:
            modules[name].reset_parameters()
    config: Any = made.config
    config.ends_after = block.name
    return made


def _obstacle(model: nn.Module, block: LayerGroup, blocks: Sequence[LayerGroup]) -> str | None:
    """Why the blocks behind one cannot pass their input through; None where they can."""
    inner: Any = timm_inner(model)
    if not is_timm_wrapper(model) or type(inner).__name__ != _FAMILY:
        return "no field of its configuration says how many blocks it has, and its layers cannot pass their input on"
    modules = dict(model.named_modules())
    names = [each.name for each in blocks[blocks.index(block) :]]
    if any(type(modules[name]).__name__ != _BLOCK for name in names):
        return f"not all blocks behind it are of the kind {_BLOCK}"
    width = _width(modules[block.name])
    for name in names[1:]:
        found: Any = modules[name]
        if found.has_skip:
            continue
        if not all(map(_is_rectified, (found.bn1, found.bn2))) or not isinstance(found.aa, nn.Identity):
            return f"{name} has another activation than ReLU or ReLU6, or blurs its input"
        if found.conv_pw.out_channels < _HALVES * width or found.conv_pwl.out_channels < width:
            return f"{name} has too few channels for the {width} that would pass through"
        if max(found.conv_dw.stride) > 2 or found.conv_dw.kernel_size[0] < 3:
            return f"{name} leaves out pixels"
    if not _is_rectified(inner.bn2) or inner.conv_head.out_channels < _HALVES * width:
        return f"its last convolution cannot carry the {width} channels"
    return None


def _width(block: Any) -> int:
    return int(block.conv_pwl.out_channels)


def _is_rectified(norm: Any) -> bool:
    return isinstance(norm, nn.BatchNorm2d) and isinstance(getattr(norm, "act", None), nn.ReLU | nn.ReLU6)


def _stage_so_far(model: nn.Module, blocks: Sequence[LayerGroup], position: int) -> list[Any]:
    """The norms whose outputs add up to what a block gives: its own, and those that its skip connections reach."""
    modules: dict[str, Any] = dict(model.named_modules())
    norms = []
    for block in reversed(blocks[: position + 1]):
        norms.append(modules[block.name].bn3)
        if not modules[block.name].has_skip:
            break
    return norms


def _scale(norms: Sequence[Any]) -> float:
    """By what a block's output is multiplied so that ReLU6 does not clip it."""
    largest = sum(norm.bias.detach().abs() + _DEVIATIONS * norm.weight.detach().abs() for norm in norms)
    assert isinstance(largest, torch.Tensor)
    return _SIX / max(float(largest.max()), 1e-6)


def _pass_block(block: Any, width: int, scale: float) -> None:
    if block.has_skip:
        block.bn3.weight.zero_()
        block.bn3.bias.zero_()
        return
    _fill_identity(block.conv_pw, width, (scale, -scale))
    _fill_mean(block.conv_dw)
    gate = getattr(block.se, "conv_expand", None)
    if gate is not None:
        gate.weight.zero_()
        gate.bias.fill_(_OPEN)
    block.conv_pwl.weight.zero_()
    square = torch.eye(width, device=block.conv_pwl.weight.device) / scale
    block.conv_pwl.weight[:width, : _HALVES * width, 0, 0] = torch.cat([square, -square], dim=1)
    for norm in (block.bn1, block.bn2, block.bn3):
        _neutral(norm)


def _fill_identity(convolution: Any, width: int, factors: Sequence[float]) -> None:
    """Let a 1x1 convolution give its first channels, once for each factor; all other outputs are zero."""
    convolution.weight.zero_()
    for part, factor in enumerate(factors):
        square = torch.eye(width, device=convolution.weight.device) * factor
        convolution.weight[part * width : (part + 1) * width, :width, 0, 0] = square
    if convolution.bias is not None:
        convolution.bias.zero_()


def _fill_mean(convolution: Any) -> None:
    """Let a depthwise convolution give its input, or with a stride of two the mean of four pixels."""
    size, stride = convolution.kernel_size[0], convolution.stride[0]
    # timm's "same" padding of an even map puts the smaller half in front.
    first = (size - stride) // 2 if type(convolution).__name__ == "Conv2dSame" else size // 2
    convolution.weight.zero_()
    convolution.weight[:, :, first : first + stride, first : first + stride] = 1 / stride**2
    if convolution.bias is not None:
        convolution.bias.zero_()


def _neutral(norm: Any) -> None:
    """Let a BatchNorm in eval mode give its input."""
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.fill_(1.0)
    norm.bias.zero_()
