"""What a model's image processor does to an image: its size, crop, interpolation and normalisation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torchvision.transforms import InterpolationMode

from hf_transfer.errors import ArgumentError
from hf_transfer.utils.foreign import stated

Resize = Literal["squash", "shortest_edge", "longest_edge", "none"]
Crop = Literal["center", "none"]

# Pillow's mode by number of channels.
IMAGE_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_PILLOW = {int(method): method.name.lower() for method in PIL.Image.Resampling}
_TIMM_RESIZE: dict[str, Resize] = {"center": "shortest_edge", "squash": "squash", "border": "longest_edge"}


_SETTINGS = (
    *("image_mean", "image_std", "size", "crop_pct", "do_center_crop", "do_rescale", "do_resize", "rescale_factor"),
    "resample",
)


@dataclass(frozen=True)
class Preprocessing:
    """The settings of an image processor, whichever library it is of.

    A pixel value v of 0 to 255 becomes `(v * rescale - mean) / std`.

    Attributes:
        height: Height of the model's input in pixels; None where it depends on the image.
        width: Likewise.
        resize: "squash" changes the aspect ratio, "shortest_edge" and "longest_edge" keep it.
        resize_to: What `resize` makes: `(height, width)`, or `(edge,)`; empty for "none".
        crop: "center" or "none".
        mean: One for each channel that the model takes.
        std: Likewise.
        interpolation: "bilinear", "bicubic", ...
        rescale: Usually 1/255.
    """

    height: int | None
    width: int | None
    resize: Resize
    resize_to: tuple[int, ...]
    crop: Crop
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    rescale: float

    @classmethod
    def from_processor(cls, processor: Any) -> Preprocessing:
        """Read the settings of an image processor of transformers, or of its wrapper for timm.

        Size, mean and standard deviation are those that the processor is seen to apply: attributes alone do not tell,
        since some processors apply factors of their own.
        """
        height, width = output_size(processor)
        if is_timm(processor):
            return cls._from_timm(processor.data_config)
        settings = stated(processor, _SETTINGS)
        resize, resize_to = _resize(type(processor).__name__, settings)
        crop_inside_resize = settings["crop_pct"] is not None and resize == "shortest_edge"
        crop: Crop = "center" if settings["do_center_crop"] or crop_inside_resize else "none"
        rescale = float(settings["rescale_factor"]) if settings["do_rescale"] else 1.0
        mean, std = _normalisation(processor, settings, rescale)
        interpolation = _interpolation(settings["resample"])
        return cls(height, width, resize, resize_to, crop, mean, std, interpolation, rescale)

    @classmethod
    def _from_timm(cls, settings: dict[str, Any]) -> Preprocessing:
        height, width = settings["input_size"][-2:]
        resize = _TIMM_RESIZE.get(settings["crop_mode"], "shortest_edge")
        edges = tuple(int(edge / settings["crop_pct"]) for edge in (height, width))
        return cls(
            height=height,
            width=width,
            resize=resize,
            resize_to=edges if resize == "squash" or height != width else edges[:1],
            crop="center",
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
            interpolation=settings["interpolation"],
            rescale=1 / 255,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def is_timm(processor: Any) -> bool:
    """Whether a processor is transformers' wrapper around the transforms of timm."""
    return hasattr(processor, "data_config") and hasattr(processor, "val_transforms")


def image_mode(processor: Any) -> str:
    """Pillow's mode of the images that a processor takes: "RGB", "L" for one channel or "RGBA" for four."""
    if is_timm(processor):
        return IMAGE_MODES.get(processor.data_config["input_size"][0], "RGB")
    mean = stated(processor, _SETTINGS)["image_mean"]
    return IMAGE_MODES.get(len(mean), "RGB") if isinstance(mean, list | tuple) else "RGB"


def output_size(processor: Any) -> tuple[int, int] | tuple[None, None]:
    """Height and width of what a processor makes, `(None, None)` if they depend on the image or it makes no images."""
    mode = image_mode(processor)
    made = [_process(processor, _plain_image(*size, 128, mode)) for size in ((96, 64), (64, 96))]
    sizes = {None if pixels is None else (int(pixels.shape[1]), int(pixels.shape[2])) for pixels in made}
    size = sizes.pop()
    return (None, None) if sizes or size is None else size


def plain_input(processor: Any) -> torch.Tensor | None:
    """What a processor makes of a grey image, `(1, channels, height, width)`; None if it makes no such tensor."""
    pixels = _process(processor, _plain_image(96, 128, 128, image_mode(processor)))
    return None if pixels is None else pixels[None]


def with_image_size(processor: Any, image_size: int) -> Any:
    """A copy of an image processor that makes square images of another size.

    All sizes are scaled alike, so that the share of the image that a crop keeps is the same. A processor that keeps
    the aspect ratio is made to crop the centre.

    Args:
        processor: A processor of transformers, or its wrapper for timm; stays as it is.
        image_size: Edge in pixels.

    Returns:
        The copy. For timm its attribute `pretrained_cfg` has the settings, changed, to be merged into those of the
        model's configuration.

    Raises:
        ArgumentError: The size is not positive, or the processor cannot make images of this size.
    """
    if image_size < 1:
        raise ArgumentError(f"The image size must be a positive number of pixels; found {image_size}.")
    if is_timm(processor):
        return _timm_with_size(processor, image_size)
    height, width = output_size(processor)
    ways: list[Callable[[], Any]] = [lambda: _cropped(processor, image_size), lambda: _squashed(processor, image_size)]
    if height is not None and width is not None:
        scale = (image_size / height, image_size / width)
        ways.insert(0, lambda: _scaled(processor, scale))
    for way in ways:
        try:
            changed = way()
            if output_size(changed) == (image_size, image_size):
                return changed
        # A processor that does not know a form of size says so in its own way; the next form may suit it.
        except (ValueError, TypeError, AttributeError, RuntimeError):
            continue
    raise ArgumentError(
        f"{type(processor).__name__} cannot make images of {image_size} pixels. Leave out --image_size, or choose a "
        "size that the model's documentation names."
    )


def with_num_channels(processor: Any, channels: int) -> Any:
    """A copy of an image processor for images of another number of channels.

    One channel gets the average of the means and standard deviations, since its kernels are the sum over the old
    channels; an opacity gets the average, too. The saved processor then takes images of that mode, which are converted
    before: `processor(image.convert("L"))`. `pipeline("image-classification")` cannot be used, since it converts every
    image to RGB.

    Args:
        processor: A processor of transformers, or its wrapper for timm; stays as it is.
        channels: 1 (grey), 3 (red, green, blue) or 4 (and opacity).

    Returns:
        The copy; as for `with_image_size`, that for timm has `pretrained_cfg`.

    Raises:
        ArgumentError: No images have this number of channels, or the processor cannot make images of it.
    """
    if channels not in IMAGE_MODES:
        raise ArgumentError(f"The number of channels is one of {', '.join(map(str, IMAGE_MODES))}; found {channels}.")
    if image_mode(processor) == IMAGE_MODES[channels]:
        return processor
    if is_timm(processor):
        settings = processor.data_config
        mean, std = _for_channels(settings["mean"], channels), _for_channels(settings["std"], channels)
        size = (channels, *settings["input_size"][1:])
        return _timm_with(processor, {"input_size": size, "mean": mean, "std": std})
    changed = copy.deepcopy(processor)
    # Processors that do not normalise get numbers that change nothing, since their count tells the channels.
    settings = stated(processor, _SETTINGS)
    mean, std = settings["image_mean"] or (0.0,) * 3, settings["image_std"] or (1.0,) * 3
    changed.image_mean, changed.image_std = list(_for_channels(mean, channels)), list(_for_channels(std, channels))
    changed.do_convert_rgb = channels == 3
    if channels == 1 and getattr(changed, "do_flip_channel_order", None):
        changed.do_flip_channel_order = False
    try:
        made = _process(changed, _plain_image(64, 64, 128, IMAGE_MODES[channels]))
    except (ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise ArgumentError(
            f"{type(processor).__name__} cannot make images of {channels} channels ({str(error)[:100]}). Leave out "
            "--num_channels; images are then converted to RGB."
        ) from error
    if made is None or made.shape[0] != channels:
        raise ArgumentError(
            f"{type(processor).__name__} makes no images of {channels} channels. Leave out --num_channels; images are "
            "then converted to RGB."
        )
    return changed


def _for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """The first three as they are, others the average of those that there are."""
    average = round(sum(values) / len(values), 6)
    kept = tuple(values) if channels > 1 and len(values) > 1 else ()
    return (*kept, *[average] * channels)[:channels]


def _timm_with_size(processor: Any, image_size: int) -> Any:
    channels = processor.data_config["input_size"][0]
    return _timm_with(processor, {"input_size": (channels, image_size, image_size)})


def _timm_with(processor: Any, changes: dict[str, Any]) -> Any:
    settings = {**processor.data_config, **changes}
    made = type(processor)(pretrained_cfg=settings, architecture=getattr(processor, "architecture", None))
    made.pretrained_cfg = settings
    return made


def _plain_image(height: int, width: int, value: int, mode: str) -> PIL.Image.Image:
    return PIL.Image.new(mode, (width, height), (value,) * len(mode) if len(mode) > 1 else value)


def _process(processor: Any, image: PIL.Image.Image) -> torch.Tensor | None:
    """Pixels `(channels, height, width)` that a processor makes of an image; None if it makes patches or tokens."""
    pixels = processor(images=[image], return_tensors="pt").get("pixel_values")
    return None if pixels is None or pixels.ndim != 4 else torch.as_tensor(pixels[0])


def _resize(kind: str, settings: Mapping[str, Any]) -> tuple[Resize, tuple[int, ...]]:
    """How a processor of a class resizes, and to which edges."""
    size = dict(settings["size"] or {})
    if not size or not settings["do_resize"]:
        return "none", ()
    edge = size.get("shortest_edge")
    if edge is None:
        return "squash", (size["height"], size["width"]) if "height" in size else ()
    if settings["crop_pct"] is not None:
        # ConvNeXt's processor squashes at 384 pixels and above.
        at_once = not settings["do_center_crop"] and edge >= 384
        return ("squash", (edge, edge)) if at_once else ("shortest_edge", (int(edge / settings["crop_pct"]),))
    if kind.startswith("Levit"):
        return "shortest_edge", (int(256 / 224 * edge),)
    return "shortest_edge", (edge,)


def _interpolation(resample: Any) -> str:
    """The name of Pillow's number, or of torchvision's mode; bilinear is what processors use where none is set."""
    if resample is None:
        return "bilinear"
    return str(resample.value) if isinstance(resample, InterpolationMode) else _PILLOW[resample]


def _normalisation(
    processor: Any, settings: Mapping[str, Any], rescale: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation as applied, from what becomes of black and of white."""
    named = settings["image_mean"], settings["image_std"]
    made = [_process(processor, _plain_image(64, 64, value, image_mode(processor))) for value in (0, 255)]
    # At the centre, since some processors put a border around small images.
    black, white = (None if image is None else _centre(image) for image in made)
    if black is None or white is None:
        mean, std = (tuple(float(value) for value in values or ()) for values in named)
        return mean, std
    deviation = 255 * rescale / (white - black)
    return _exact(-black * deviation, named[0]), _exact(deviation, named[1])


def _centre(pixels: torch.Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2], dtype=np.float64)


def _exact(measured: npt.NDArray[np.float64], stated: Sequence[float] | None) -> tuple[float, ...]:
    """The stated numbers where they are what was measured: they are free of rounding errors."""
    if stated is not None and np.shape(stated) == measured.shape and np.allclose(measured, stated, atol=1e-4):
        return tuple(float(value) for value in stated)
    return tuple(round(float(value), 4) + 0.0 for value in measured)


def _scaled(processor: Any, scale: tuple[float, float]) -> Any:
    changed = copy.deepcopy(processor)
    for attribute, value in stated(processor, ("size", "crop_size", "pad_size")).items():
        if value is None:
            continue
        edges = {name: max(1, round(edge * _factor(name, scale))) for name, edge in dict(value).items()}
        setattr(changed, attribute, type(value)(**edges))
    return changed


def _factor(name: str, scale: tuple[float, float]) -> float:
    return scale[0] if "height" in name else scale[1] if "width" in name else max(scale)


def _cropped(processor: Any, image_size: int) -> Any:
    changed = copy.deepcopy(processor)
    kind = type(processor.size)
    changed.size = kind(shortest_edge=image_size)
    changed.do_center_crop, changed.crop_size = True, kind(height=image_size, width=image_size)
    return changed


def _squashed(processor: Any, image_size: int) -> Any:
    changed = copy.deepcopy(processor)
    changed.size = type(processor.size)(height=image_size, width=image_size)
    return changed
