"""Models for images of another size: position embeddings are interpolated, and stored so, where a model has any."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from hf_transfer.errors import ModelError
from hf_transfer.models.origins import carry_origin
from hf_transfer.models.rebuilding import remake, transplant, vision_config
from hf_transfer.models.timm_interop import (
    is_timm_model,
    is_timm_wrapper,
    timm_architecture,
    timm_arguments,
)
from hf_transfer.utils.foreign import configured, timm_inner, timm_settings
from hf_transfer.utils.modules import eval_mode

# Models take sizes that are a multiple of a patch, of the total stride, or of a window times the stride.
_COMMON_STEPS = (2, 4, 7, 8, 14, 16, 32, 64, 224)
_COMMON_SIZES = (32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384)
_FAILURES = (RuntimeError, ValueError, AssertionError, IndexError, TypeError, ZeroDivisionError)


def native_image_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width that a model was made for, where its configuration says so."""
    settings = configured(model, "pretrained_cfg")
    if is_timm_model(model):
        size = timm_arguments(model).get("img_size")
        settings = settings or timm_settings(timm_inner(model))
        size = size or (settings.get("input_size") or (None,))[1:] or None
    else:
        size = getattr(vision_config(model), "image_size", None)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if size else None


def resize_input(model: nn.Module, size: int) -> nn.Module:
    """Make a model that takes square images of another size, with the same weights.

    Absolute position embeddings are interpolated bicubically, as `interpolate_pos_encoding` does in transformers;
    tables of relative positions bilinearly, as BEiT does; timm models by timm's own rules. The configuration of the
    result has the new size, so that a saved checkpoint loads without any extra argument.

    Args:
        model: A model of transformers or timm; stays as it is. Others are only tried.
        size: Side in pixels.

    Returns:
        The model itself where it takes the size as it is and nothing in its configuration says otherwise.

    Raises:
        ModelError: The model takes no images of this size; names the sizes that it takes.
    """
    if size < 1:
        raise ModelError(f"The image size must be a positive number of pixels; found {size}.")
    try:
        return _attempt(model, size)
    except _FAILURES as error:
        raise ModelError(
            f"{type(model).__name__} takes no images of {size} pixels ({_first_line(error)}). It takes "
            f"{_allowed(model, size)}. Choose --image_size accordingly."
        ) from error


def check_image_size(model: nn.Module, size: int) -> None:
    """Check by one forward pass that a model takes images of a size as it is.

    Args:
        model: Its first convolution says how many channels the image has.
        size: Side in pixels.

    Raises:
        ModelError: Names the size that the model was made for, where its configuration says so.
    """
    try:
        _run(model, size)
    except _FAILURES as error:
        native = native_image_size(model)
        made_for = f"; it was made for {native[0]}" if native else ""
        raise ModelError(f"This model takes no images of {size} pixels{made_for} ({_first_line(error)}).") from error


def _attempt(model: nn.Module, size: int) -> nn.Module:
    if native_image_size(model) == (size, size):
        resized = model
    elif is_timm_model(model):
        resized = _resize_timm(model, size)
    else:
        resized = _resize_transformers(model, size)
    if resized is not model:
        carry_origin(model, resized)
    _run(resized, size)
    return resized


def _run(model: nn.Module, size: int) -> None:
    """One forward pass on a blank image."""
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    parameter = next(model.parameters())
    channels = convolution.in_channels if convolution else 3
    blank = torch.zeros(1, channels, size, size, device=parameter.device, dtype=parameter.dtype)
    # Not inference_mode: BEiT caches a table of its first forward pass, which could then not be trained with.
    with eval_mode(model), torch.no_grad():
        model(blank)


def _resize_transformers(model: nn.Module, size: int) -> nn.Module:
    stated = getattr(vision_config(model), "image_size", None)
    if stated is None:
        return model
    old = native_image_size(model)
    assert old is not None
    resized = remake(model, {"image_size": size if isinstance(stated, int) else type(stated)((size, size))})
    positions: list[str] = []

    def fit(name: str, value: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
        positions.append(name)
        if "bias_table" in name:
            return _interpolate_table(value, own)
        made = _interpolate_as_the_model_does(model, name, own, size)
        return _interpolate_positions(value, own, old, size) if made is None else made

    misfits = transplant(model, resized, fit)
    if misfits:
        raise ValueError(f"{next(iter(misfits))} has a value for each position and cannot be interpolated")
    if positions:
        config = vision_config(model)
        _check_patches(getattr(config, "patch_stride", getattr(config, "patch_size", None)), size)
    return resized


def _resize_timm(model: nn.Module, size: int) -> nn.Module:
    """timm interpolates when it loads weights of another size; so it is given the weights to load."""
    import timm

    inner, name = timm_inner(model), timm_architecture(model)
    arguments = timm_arguments(model) | {"num_classes": inner.num_classes}
    state = {key: value.detach() for key, value in inner.state_dict().items()}
    source = {"state_dict": state, "num_classes": inner.num_classes, "custom_load": False, "label_offset": 0}
    source["input_size"] = (int(arguments.get("in_chans", 3)), *(native_image_size(model) or (size, size)))
    with torch.random.fork_rng(devices=[]):
        try:
            made = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=source, **(arguments | {"img_size": size})
            )
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            # No argument for the size: a convolutional network, which takes many.
            resized = copy.deepcopy(model)
            _note_timm_size(resized, size)
            return resized
    _check_patches(getattr(getattr(inner, "patch_embed", None), "patch_size", None), size)
    if not is_timm_wrapper(model):
        resized = made.to(next(model.parameters()).dtype).train(model.training)
        resized.pretrained_cfg = copy.deepcopy(inner.pretrained_cfg)
    else:
        resized = remake(model, {"img_size": size})
        resized.timm_model.load_state_dict(made.state_dict())  # type: ignore[union-attr]
    _note_timm_size(resized, size)
    return resized


def _note_timm_size(model: nn.Module, size: int) -> None:
    """Put the size where timm and transformers' processor look for it."""
    holder: Any = model.config if is_timm_wrapper(model) else model
    settings = dict(timm_settings(holder))
    channels = (settings.get("input_size") or (3,))[0]
    # The sizes for testing are those of the published weights at their native resolution.
    for stale in ("test_input_size", "test_crop_pct", "test_pool_size", "pool_size", "min_input_size"):
        settings.pop(stale, None)
    holder.pretrained_cfg = settings | {"input_size": (channels, size, size)}


def _check_patches(patch: Any, size: int) -> None:
    for edge in (patch,) if isinstance(patch, int) else patch or ():
        if size % edge:
            raise ValueError(f"{size} is no multiple of the patch, {edge} pixels, so that a border would be cut off")


def _interpolate_as_the_model_does(model: nn.Module, name: str, own: torch.Tensor, size: int) -> torch.Tensor | None:
    """What `interpolate_pos_encoding` of the module around the embeddings makes; None where there is none."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        method = getattr(model.get_submodule(".".join(parts[:depth])), "interpolate_pos_encoding", None)
        if not callable(method):
            continue
        try:
            made = method(torch.zeros(1, *own.shape[-2:], dtype=own.dtype, device=own.device), size, size)
        except _FAILURES:  # PVT has another method of this name
            return None
        return made.detach().reshape(own.shape) if made.numel() == own.numel() else None
    return None


def _interpolate_positions(
    value: torch.Tensor, own: torch.Tensor, old_size: tuple[int, int], size: int
) -> torch.Tensor | None:
    """Interpolate embeddings `(..., tokens, channels)`, where class tokens come before those of the image."""
    if value.shape[:-2] != own.shape[:-2] or value.shape[-1] != own.shape[-1] or value.ndim > 3:
        return None
    for extra in range(4):
        before = _grid(value.shape[-2] - extra, old_size[0] / old_size[1])
        after = _grid(own.shape[-2] - extra, 1.0)
        if before is None or after is None:
            continue
        if abs(after[0] / before[0] - size / old_size[0]) > 1 / before[0]:
            continue
        tokens, image = value[..., :extra, :], value[..., extra:, :]
        grid = image.reshape(1, *before, value.shape[-1]).permute(0, 3, 1, 2)
        made = nn.functional.interpolate(grid.float(), size=after, mode="bicubic", align_corners=False)
        image = made.permute(0, 2, 3, 1).reshape(*value.shape[:-2], -1, value.shape[-1]).to(value.dtype)
        return torch.cat((tokens, image), dim=-2)
    return None


def _interpolate_table(value: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """Interpolate biases `(relative positions, heads)`, where those of a class token come last."""
    for extra in (0, 3):
        before, after = _grid(value.shape[0] - extra, 1.0), _grid(own.shape[0] - extra, 1.0)
        if before is None or after is None or value.shape[1] != own.shape[1]:
            continue
        image, tokens = value[: value.shape[0] - extra], value[value.shape[0] - extra :]
        grid = image.reshape(1, *before, -1).permute(0, 3, 1, 2)
        made = nn.functional.interpolate(grid.float(), size=after, mode="bilinear", align_corners=False)
        return torch.cat((made.permute(0, 2, 3, 1).reshape(-1, value.shape[1]).to(value.dtype), tokens))
    return None


def _grid(tokens: int, aspect: float) -> tuple[int, int] | None:
    """Height and width of a grid with this number of tokens; None if there is none of this aspect ratio."""
    if tokens < 1:
        return None
    height = round(math.sqrt(tokens * aspect))
    return (
        (height, tokens // height)
        if height
        and tokens % height == 0
        and abs(height * height / tokens - aspect) < (0.01 if aspect == 1.0 else 0.2)
        else None
    )


def _allowed(model: nn.Module, wanted: int) -> str:
    """The sizes that a model takes, in words, found by trying some around the wanted one."""
    native = native_image_size(model)
    known: dict[int, bool] = {}

    def takes(size: int) -> bool:
        if size not in known:
            try:
                _attempt(model, size)
                known[size] = True
            except _FAILURES:
                known[size] = False
        return known[size]

    odd = max(2 * wanted, 64) + 1
    if takes(odd):
        return (
            f"larger images, such as {next(size for size in (*_COMMON_SIZES, odd) if size > wanted and takes(size))}"
        )
    for step in _COMMON_STEPS:
        below = wanted // step * step
        near = (below, below + step) if below else (step, 2 * step)
        # Two sizes that fit tell a rule from a chance.
        if wanted % step and all(takes(size) for size in near):
            return f"multiples of {step}, such as {near[0]} and {near[1]}"
    return f"exactly {native[0]}" if native else "other sizes only; see its documentation"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
