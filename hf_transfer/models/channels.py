"""Models for images of one or four channels, whose first convolution is made from the pretrained one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_transfer.errors import ModelError
from hf_transfer.models.rebuilding import remake, transplant, vision_config
from hf_transfer.models.timm_interop import is_timm_model, is_timm_wrapper, timm_arguments
from hf_transfer.utils.foreign import configured, timm_settings

CHANNEL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_FAILURES = (RuntimeError, ValueError, AssertionError, IndexError, TypeError, NotImplementedError)


def num_channels(model: nn.Module) -> int:
    """How many channels a model's images have, as its configuration says."""
    if is_timm_model(model):
        return int(timm_arguments(model).get("in_chans") or _settings(model).get("input_size", (3,))[0])
    config = vision_config(model)
    return int(getattr(config, "stem_num_channels", getattr(config, "num_channels", 3)))


def change_channels(model: nn.Module, channels: int) -> nn.Module:
    """Make a model that takes images of another number of channels.

    The kernels of the first convolution follow timm's convention for `in_chans`: for one channel the sum over the old
    ones, so that a grey image gives what its copies in red, green and blue gave; for more, the old ones repeated and
    scaled down by the ratio of the numbers. All other weights stay, bit for bit. The configuration of the result has
    the new number, so that a saved checkpoint loads without any extra argument.

    Args:
        model: A model of transformers or timm; stays as it is.
        channels: 1 (grey), 3 (red, green, blue) or 4 (and opacity).

    Returns:
        The model itself where it has this number already.

    Raises:
        ModelError: No images have this number of channels, or the model's configuration has none.
    """
    if channels not in CHANNEL_MODES:
        modes = ", ".join(f"{count} ({mode})" for count, mode in CHANNEL_MODES.items())
        raise ModelError(f"num_channels is one of {modes}; found {channels}.")
    before = num_channels(model)
    if channels == before:
        return model
    try:
        changed = remake(model, _changes(model, channels))
    except _FAILURES as error:
        raise _refusal(model, channels, str(error)) from error
    adapted: list[str] = []

    def fit(name: str, value: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
        from timm.models import adapt_input_conv

        if value.ndim != 4 or value.shape[0] != own.shape[0] or value.shape[2:] != own.shape[2:]:
            return None
        try:
            made: torch.Tensor = adapt_input_conv(channels, value, base_chans=before)
        except (NotImplementedError, AssertionError, RuntimeError):
            return None
        adapted.append(name)
        return made if made.shape == own.shape else None

    misfits = transplant(model, changed, fit)
    if misfits:
        raise _refusal(model, channels, f"{next(iter(misfits))} depends on it and is no convolution over channels")
    if not adapted:
        raise _refusal(model, channels, "its configuration has no setting that changes its first convolution")
    if is_timm_model(model):
        holder: Any = changed.config if is_timm_wrapper(changed) else changed
        settings = copy.deepcopy(_settings(model))
        size = tuple(settings.get("input_size") or (before, 224, 224))
        holder.pretrained_cfg = settings | {"input_size": (channels, *size[1:])}
    return changed


def _changes(model: nn.Module, channels: int) -> dict[str, Any]:
    if is_timm_model(model):
        return {"in_chans": channels}
    config = vision_config(model)
    changes: dict[str, Any] = {"num_channels": channels} if hasattr(config, "num_channels") else {}
    if hasattr(config, "stem_num_channels"):  # TextNet
        changes = {"stem_num_channels": channels}
    stem = getattr(config, "stem_channels", None)
    if isinstance(stem, list | tuple) and isinstance(
        model, PreTrainedModel
    ):  # HGNetV2: images, then the stem's widths
        changes["stem_channels"] = type(stem)((channels, *stem[1:]))
    return changes


def _settings(model: nn.Module) -> dict[str, Any]:
    own = configured(model, "pretrained_cfg")
    return dict(own or timm_settings(model))


def _refusal(model: nn.Module, channels: int, reason: str) -> ModelError:
    why = next(iter(reason.splitlines()), "")[:200]
    return ModelError(
        f"{type(model).__name__} cannot be made for images of {channels} channels: {why}. Leave "
        "--num_channels out; images of other modes are then converted to RGB."
    )
