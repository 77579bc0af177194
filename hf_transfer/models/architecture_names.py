"""Bare architecture names, `timm:resnet18` or `transformers:vit`: a structure without any checkpoint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from hf_transfer.errors import ArgumentError, ModelError

# What of timm's settings describes the architecture and its images, and not the weights that are not loaded.
_KEPT_SETTINGS = (
    *("input_size", "fixed_input_size", "pool_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"),
    *("first_conv", "classifier"),
)
_SOURCES = ("timm", "transformers")
_TIMM_CLASSES = 1000


def is_bare_name(name: str) -> bool:
    """Whether a name is `timm:NAME` or `transformers:MODEL_TYPE`."""
    return name.partition(":")[0] in _SOURCES and ":" in name


def bare_config(name: str, num_labels: int | None = None) -> Any:
    """The configuration of an architecture, with its library's defaults.

    Args:
        name: `timm:NAME`, with or without the tag of a checkpoint, or `transformers:MODEL_TYPE`.
        num_labels: None takes the library's default.

    Raises:
        ModelError: There is no such architecture, or it is no image classifier; names similar ones.
    """
    source, _, architecture = name.partition(":")
    labels = {} if num_labels is None else {"num_labels": num_labels}
    if source == "timm":
        return _timm_config(architecture, labels)
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    if architecture not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        raise _unknown(name, "an image classifier of transformers", MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
    config = AutoConfig.for_model(architecture, **labels)
    classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[architecture]
    # Where a type has several classes (DeiT, LeViT, Perceiver), AutoModel asks the configuration which, or fails.
    config.architectures = [classes if isinstance(classes, str) else classes[0]]
    return config


def bare_processor(config: Any) -> Any:
    """The image processor that fits a configuration, with its class's defaults and the configuration's image size.

    Raises:
        ModelError: The architecture takes no images, or its processor makes none of its size.
    """
    from transformers import TimmWrapperConfig, TimmWrapperImageProcessor
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    from hf_transfer.data import with_image_size

    if isinstance(config, TimmWrapperConfig):
        return TimmWrapperImageProcessor(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture)
    try:
        known = IMAGE_PROCESSOR_MAPPING[type(config)]
    except KeyError as error:
        raise ModelError(
            f"There is no image processor for {config.model_type}; train a checkpoint that has one."
        ) from error
    make: Any = (known.get("torchvision") or known.get("pil")) if isinstance(known, dict) else known
    processor = make()
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    side = size if isinstance(size, int) or size is None else size[0]
    try:
        return processor if side is None else with_image_size(processor, side)
    except ArgumentError as error:
        raise ModelError(str(error)) from error


class TimmStructure(nn.Module):
    """A timm model under the names that transformers' TimmWrapper gives it; without weights, and without transformers.

    Enough to look at: importing TimmWrapper takes as long as importing timm.

    Args:
        name: `timm:NAME`.

    Raises:
        ModelError: There is no such model; names similar ones.
    """

    def __init__(self, name: str) -> None:
        import timm

        super().__init__()
        architecture, settings = _timm_settings(name.partition(":")[2])
        with torch.device("meta"):
            self.timm_model = timm.create_model(architecture, num_classes=settings.num_classes or _TIMM_CLASSES)
        self.config = SimpleNamespace(model_type="timm_wrapper", architecture=architecture)


def _timm_settings(architecture: str) -> tuple[str, Any]:
    """The name of a timm model without its tag, and its default settings."""
    import timm

    name = timm.models.split_model_name_tag(architecture)[0]
    settings = timm.get_pretrained_cfg(architecture) if timm.is_model(name) else None
    if settings is None:
        raise _unknown(f"timm:{architecture}", "a model of timm", timm.list_models())
    return name, settings


def _timm_config(architecture: str, labels: dict[str, int]) -> Any:
    from transformers import TimmWrapperConfig

    name, settings = _timm_settings(architecture)
    kept = {key: value for key, value in settings.to_dict().items() if key in _KEPT_SETTINGS and value is not None}
    stated = {
        "architecture": name,
        "model_args": {},
        "pretrained_cfg": kept,
        "num_classes": settings.num_classes or _TIMM_CLASSES,
    }
    return TimmWrapperConfig.from_dict(stated, num_labels=labels.get("num_labels") or stated["num_classes"])


def _unknown(name: str, what: str, known: Iterable[str]) -> ModelError:
    source, _, wanted = name.partition(":")
    similar = difflib.get_close_matches(wanted, list(known), n=3, cutoff=0.5)
    hint = f" Similar: {', '.join(f'{source}:{each}' for each in similar)}." if similar else ""
    return ModelError(f"{wanted!r} is not {what}.{hint} Give a name of {source}, a Hub id or a folder.")
