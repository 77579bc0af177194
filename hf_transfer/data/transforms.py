"""Transforms for `datasets.Dataset.with_transform`: encoded images in, a model's input out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import PIL.Image
import torch
from datasets import Dataset, Image
from torchvision.transforms import InterpolationMode, v2
from transformers.image_processing_utils import BaseImageProcessor

from hf_transfer.data.columns import find_image_column, find_label_column, is_image_feature, is_text_feature
from hf_transfer.data.images import RANGE_COLUMN, decode_image
from hf_transfer.data.preprocessing import Preprocessing, image_mode, is_timm
from hf_transfer.errors import ArgumentError, DataError

Augmentation = Literal["none", "light", "standard"]
Batch: TypeAlias = Mapping[str, Any]

# As on CIFAR: four pixels of padding around 32.
LIGHT_SHIFT = 1 / 8
# The usual 8 % of the area cuts most objects away. That suits hundreds of epochs; fine-tuning has few.
STANDARD_SCALE = (0.35, 1.0)
STANDARD_RATIO = (3 / 4, 4 / 3)
_THIN, _MOST_PIXELS = 20, 2**24
_SUPPORT = 6
"""Pixels beside a crop that can reach into it by interpolation, and more."""


@dataclass(frozen=True)
class EvalTransform:
    """Decode images and pass them through the model's own processor, as `pipeline("image-classification")` does.

    Attributes:
        processor: Image processor of transformers, or its wrapper for timm.
    """

    processor: Any

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Transform rows with the columns "image" and, for training and evaluation, "label".

        Returns:
            "pixel_values", float32 `(batch, channels, height, width)`, or a list of tensors where sizes differ, or
            whatever else the processor makes; "labels", a list of int.
        """
        return _with_labels(process(self.processor, _decoded(batch, self.processor)), batch)


@dataclass(frozen=True)
class LightAugmentation:
    """What evaluation sees, flipped at random and shifted by up to an eighth of each edge, the border reflected.

    Attributes:
        processor: Image processor of transformers, or its wrapper for timm.
    """

    processor: Any
    _augment: v2.Transform = field(init=False, repr=False)

    def __post_init__(self) -> None:
        height, width = _fixed_size(Preprocessing.from_processor(self.processor), self.processor)
        padding = [int(width * LIGHT_SHIFT), int(height * LIGHT_SHIFT)]
        steps = [v2.RandomHorizontalFlip(), v2.RandomCrop((height, width), padding=padding, padding_mode="reflect")]
        object.__setattr__(self, "_augment", v2.Compose(steps))

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Transform rows; returns what `EvalTransform` does."""
        made = process(self.processor, _decoded(batch, self.processor))
        # Flips and shifts only move pixels, so it is the same after normalisation, when the whole batch was resized.
        made["pixel_values"] = torch.stack([self._augment(pixels) for pixels in made["pixel_values"]])
        return _with_labels(made, batch)


@dataclass(frozen=True)
class StandardAugmentation:
    """A random crop of 35 to 100 % of the image, resized to the model's input, and a random flip.

    Attributes:
        processor: Image processor of transformers, or its wrapper for timm; it normalises.
    """

    processor: Any
    _augment: v2.Transform = field(init=False, repr=False)

    def __post_init__(self) -> None:
        settings = Preprocessing.from_processor(self.processor)
        size = _fixed_size(settings, self.processor)
        # torchvision resizes tensors by fewer methods than Pillow; bicubic is closest to the others.
        known = settings.interpolation in ("nearest", "bilinear", "bicubic")
        crop = v2.RandomResizedCrop(
            size,
            scale=STANDARD_SCALE,
            ratio=STANDARD_RATIO,
            interpolation=InterpolationMode(settings.interpolation if known else "bicubic"),
            antialias=True,
        )
        object.__setattr__(self, "_augment", v2.Compose([v2.PILToTensor(), crop, v2.RandomHorizontalFlip()]))

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Transform rows; returns what `EvalTransform` does."""
        pixels = torch.stack([self._augment(image) for image in _decoded(batch, self.processor)])
        return _with_labels({"pixel_values": normalise(self.processor, pixels)}, batch)


def eval_transform(processor: Any) -> EvalTransform:
    """The transform for evaluation, and for training without augmentation.

    Args:
        processor: The model's image processor.
    """
    return EvalTransform(processor)


def train_transform(
    processor: Any, augmentation: str = "none"
) -> EvalTransform | LightAugmentation | StandardAugmentation:
    """The transform for training.

    Args:
        processor: The model's image processor.
        augmentation: "none": as in evaluation. "light": a random flip and a shift by up to an eighth, for few epochs
            and small or centred images. "standard": a random resized crop of 35 to 100 % of the area, and a random
            flip.

    Raises:
        ArgumentError: There is no such augmentation, or the processor makes no images of a fixed size.
    """
    if augmentation == "none":
        return EvalTransform(processor)
    if augmentation == "light":
        return LightAugmentation(processor)
    if augmentation == "standard":
        return StandardAugmentation(processor)
    raise ArgumentError(f"augmentation must be one of none, light, standard; found {augmentation!r}.")


def has_transform(*sets: Any) -> bool:
    """Whether one of some data sets, or of dictionaries of them, makes its columns on the fly."""
    flat = [each for item in sets for each in (item.values() if isinstance(item, dict) else [item])]
    return any(isinstance(f := getattr(each, "format", None), dict) and f.get("type") == "custom" for each in flat)


def holds_raw_images(dataset: Any) -> bool:
    """Whether a data set of `datasets` has a column of images and nothing that makes a model's input of them.

    Args:
        dataset: Any, or a dictionary of data sets, one of which may hold some.
    """
    if isinstance(dataset, dict):
        return any(map(holds_raw_images, dataset.values()))
    if not isinstance(dataset, Dataset) or dataset.format["type"] is not None or "pixel_values" in dataset.features:
        return False
    return any(is_image_feature(feature) for feature in dataset.features.values())


def with_inputs(dataset: Any, processor: Any) -> Any:
    """A data set whose raw images are passed through an image processor, without augmentation.

    Args:
        dataset: Other data sets are given back as they are.
        processor: The model's image processor.

    Raises:
        ArgumentError: There is no image processor, or the labels are text.
    """
    if isinstance(dataset, dict):
        return {name: with_inputs(each, processor) for name, each in dataset.items()}
    if not holds_raw_images(dataset):
        return dataset
    if not isinstance(processor, BaseImageProcessor):
        raise ArgumentError(
            "The data set holds images, and nothing that makes a model's input of them. Give the model's image "
            "processor as processing_class, or the data set with a transform: "
            "dataset.with_transform(ht.train_transform(processor)), with data_collator=ht.collate."
        )
    image = find_image_column(dataset.features)
    label = find_label_column(dataset.features, image_column=image)
    if is_text_feature(dataset.features[label]):
        raise ArgumentError(
            f"The labels in the column {label!r} are text; the trainer needs class indices. Encode them: "
            f"dataset.class_encode_column({label!r})."
        )
    names = {old: new for old, new in ((image, "image"), (label, "label")) if old != new}
    renamed = dataset.select_columns([image, label]).rename_columns(names)
    return renamed.cast_column("image", Image(decode=False)).with_transform(eval_transform(processor))


def collate(features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack transformed rows into a batch for the trainer.

    Args:
        features: Each with "pixel_values" `(channels, height, width)` and, where known, "labels".

    Raises:
        DataError: The images differ in size.
    """
    batch = {}
    for key, first in features[0].items():
        values = [feature[key] for feature in features]
        if not isinstance(first, torch.Tensor):
            batch[key] = torch.tensor(values)
            continue
        if len({value.shape for value in values}) > 1:
            found = ", ".join(sorted({"×".join(map(str, value.shape)) for value in values})[:5])
            raise DataError(
                f"The images of a batch differ in size ({found}), since the model's processor keeps their aspect "
                "ratio. Set one size: --image_size N."
            )
        batch[key] = torch.stack(values)
    return batch


def process(processor: Any, images: list[PIL.Image.Image]) -> dict[str, Any]:
    """Pass images through a processor, all in one call where their results agree in size.

    Returns:
        What the processor makes, as tensors, floating point as float32; lists of tensors where sizes differ.
    """
    images = [_bounded(image, processor) for image in images]
    try:
        made = [processor(images=images, return_tensors="pt")]
    except (ValueError, RuntimeError):
        # Images of different sizes cannot become one tensor; any other reason comes up again.
        made = [processor(images=[image], return_tensors="pt") for image in images]
    tensors = {key: [_float32(part[key]) for part in made] for key in made[0]}
    if len(made) == 1:
        return {key: parts[0] for key, parts in tensors.items()}
    return {key: [part[0] for part in parts] for key, parts in tensors.items()}


def _bounded(image: PIL.Image.Image, processor: Any) -> PIL.Image.Image:
    """Cut off what a centre crop would, where resizing the whole image first would take too much memory.

    An image of 1 × 4,000 pixels whose shortest edge becomes 224 would have 200 million pixels.

    Raises:
        DataError: The processor keeps all of it.
    """
    short, long = sorted(image.size)
    if long < _THIN * short:
        return image
    settings = Preprocessing.from_processor(processor)
    if settings.resize != "shortest_edge" or settings.resize_to[0] ** 2 * long / short <= _MOST_PIXELS:
        return image
    edge = settings.resize_to[0]
    if settings.crop != "center" or settings.height is None or settings.width is None:
        raise DataError(
            f"An image of {image.width:,} × {image.height:,} pixels would become one of {edge * long // short:,} × "
            f"{edge}, since {type(processor).__name__} keeps the aspect ratio. Leave it out, or set --image_size N."
        )
    margin = math.ceil(_SUPPORT * max(1.0, short / edge))
    least = min(long, math.ceil(max(settings.height, settings.width) / edge * short) + 2 * margin)
    # Whole pixels at both ends, and after resizing as nearly as can be: else what is kept would be shifted.
    fitting = range(least + (long - least) % 2, min(long, least + 2 * short) + 1, 2)
    kept = min(fitting, key=lambda pixels: edge * pixels / short % 1, default=long)
    start = (long - kept) // 2
    box = (start, 0, start + kept, image.height) if image.width == long else (0, start, image.width, start + kept)
    return image.crop(box)


def normalise(processor: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Only rescale and normalise, as a processor does, images that have their size already.

    Args:
        processor: Image processor of transformers, or its wrapper for timm.
        pixels: uint8 `(batch, channels, height, width)`.

    Returns:
        float32 `(batch, channels, height, width)`.
    """
    if is_timm(processor):
        scaled = v2.functional.to_dtype(pixels, torch.float32, scale=True)
        settings = processor.data_config
        return torch.as_tensor(v2.functional.normalize(scaled, list(settings["mean"]), list(settings["std"])))
    made = processor(
        images=list(pixels),
        do_resize=False,
        do_center_crop=False,
        do_pad=False,
        input_data_format="channels_first",
        return_tensors="pt",
    )
    return _float32(made["pixel_values"])


def _decoded(batch: Batch, processor: Any) -> list[PIL.Image.Image]:
    images, mode = [], image_mode(processor)
    ranges = batch.get(RANGE_COLUMN) or [None] * len(batch["image"])
    for row, value in enumerate(batch["image"]):
        try:
            images.append(decode_image(value, mode, ranges[row]))
        except DataError as error:
            name = batch["name"][row] if "name" in batch else f"in row {row} of the batch"
            raise DataError(
                f"The image {name} cannot be read any more: {error}. It could when the data were loaded; restore it."
            ) from error
    return images


def _with_labels(made: dict[str, Any], batch: Batch) -> dict[str, Any]:
    return made | {"labels": [int(label) for label in batch["label"]]} if "label" in batch else made


def _float32(values: Any) -> torch.Tensor:
    tensor = torch.as_tensor(values)
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def _fixed_size(settings: Preprocessing, processor: Any) -> tuple[int, int]:
    if settings.height is None or settings.width is None:
        raise ArgumentError(
            f"{type(processor).__name__} makes no images of one size, which this augmentation needs. Set a size with "
            "--image_size N, or use --augmentation none."
        )
    return settings.height, settings.width
