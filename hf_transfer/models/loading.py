"""Loading of pretrained image classifiers with a head for the labels at hand."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging as transformers_logging

from hf_transfer.architectures.lookup import registry_key, wrap
from hf_transfer.architectures.registry import INFERRED
from hf_transfer.errors import ModelError
from hf_transfer.models.architecture_names import bare_config, bare_processor, is_bare_name
from hf_transfer.models.base_settings import (
    check_settings,
    overridden_text,
    settle,
    settle_processor,
)
from hf_transfer.models.channels import change_channels
from hf_transfer.models.head_rows import match_rows, name_labels, with_labels
from hf_transfer.models.heads import check_loaded, draw_new_head
from hf_transfer.models.image_size import resize_input
from hf_transfer.models.origins import (
    BaseModel,
    folder_origin,
    hub_origin,
    random_origin,
    remember_origin,
    resolve_revision,
)
from hf_transfer.models.timm_interop import complete_timm_config
from hf_transfer.utils.foreign import names_in

logger = logging.getLogger(__name__)

_UNLOADABLE = (
    *(ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, AssertionError),
    StrictDataclassError,  # of configurations whose fields contradict each other
)
_SHAPES = re.compile(r"shape|size|channels|dimension", re.IGNORECASE)


@dataclass(frozen=True)
class LoadedModel:
    """A model, its image processor and its origin."""

    model: nn.Module
    processor: Any
    base: BaseModel
    new_head: bool


def load_for_training(
    name: str,
    label_names: Sequence[str],
    *,
    revision: str | None = None,
    reset_head: bool = False,
    seed: int = 42,
    image_size: int | None = None,
    num_channels: int | None = None,
) -> LoadedModel:
    """Load a pretrained classifier, fitted to the labels and images at hand.

    The rows of the head follow the names of its labels (`models.head_rows`); those of labels that the checkpoint does
    not know are new. What its configuration says of its own task and runtime is overridden (`models.base_settings`).
    Everything else is the checkpoint's, bit for bit, in float32. Saved, the result is an ordinary checkpoint.

    Args:
        name: Hub id, local folder, or a bare name such as `timm:resnet18` or `transformers:vit`, which gives random
            weights and a warning.
        label_names: In the order of the class indices.
        revision: Branch, tag or commit of a Hub repository.
        reset_head: Draw a new head even for labels that the checkpoint knows.
        seed: Seed for the new weights; the global random state is left as it was.
        image_size: Side of the images in pixels; None takes what the processor says.
        num_channels: 1 (grey), 3 or 4 (with opacity); None keeps the model's.

    Raises:
        ModelError: The checkpoint is not found, is not an image classifier, lacks weights other than the head's, or
            cannot take such images.
    """
    from hf_transfer.data import with_image_size, with_num_channels  # imports datasets, which structures do without

    revision = _resolved(name, revision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_bare_name(name):
            made = _make_bare(name, label_names)
        else:
            made = _load_with_labels(name, revision, label_names, reset_head, seed)
    model, processor = made.model, made.processor
    if num_channels is not None:
        model, processor = change_channels(model, num_channels), with_num_channels(processor, num_channels)
    if image_size is not None:
        model, processor = resize_input(model, image_size), with_image_size(processor, image_size)
    complete_timm_config(model, processor)
    origin = replace(_noted_origin(name, revision, model), overridden=dict(made.overridden) or None, head=made.head)
    remember_origin(model, origin)
    return LoadedModel(model, processor, origin, made.new_head)


@dataclass(frozen=True)
class _Made:
    """A model for the labels at hand, its processor, and what became of the checkpoint's head and settings."""

    model: nn.Module
    processor: Any
    new_head: bool
    head: str | None = None
    overridden: Mapping[str, Any] = field(default_factory=dict)


def _make_bare(name: str, label_names: Sequence[str]) -> _Made:
    """A model of random weights for the name of an architecture."""
    logger.warning("%s names an architecture: there are no pretrained weights, all of them are random.", name)
    config = _load_config(name, None, len(label_names))
    name_labels(config, label_names)
    settle(config)
    return _Made(_build(name, config), bare_processor(config), True)


def _load_with_labels(
    name: str, revision: str | None, label_names: Sequence[str], reset_head: bool, seed: int
) -> _Made:
    """Load a checkpoint, and keep the rows of its head that belong to labels at hand."""
    config = _load_config(name, revision)
    check_settings(config, name)
    rows = match_rows(names_in(config), label_names, reset_head)
    overridden = settle(config)
    if rows.in_place:
        name_labels(config, label_names)
    model, info = _load_model(name, revision, config, dtype=torch.float32)
    new_head = check_loaded(model, name, info)
    if not rows.in_place:
        model = with_labels(model, label_names, {} if new_head else rows.kept, seed)
    elif new_head or not rows.kept:
        draw_new_head(model, seed)
    processor = load_processor(name, revision)
    overridden |= settle_processor(processor)
    if overridden:
        logger.warning("%s", overridden_text(name, overridden))
    if rows.is_news and not new_head:
        logger.warning("The head of %r: %s", name, rows.text)
    new_head = new_head or not rows.kept
    return _Made(model, processor, new_head, None if new_head else rows.text, overridden)


def check_trainable(name: str, revision: str | None = None, *, own_size: bool = True) -> None:
    """Refuse what cannot be trained on images and labels, from its configuration alone, before any image is read.

    Args:
        name: As for `load_for_training`.
        revision: Branch, tag or commit of a Hub repository.
        own_size: Whether the model takes images as its processor makes them, in size and channels.

    Raises:
        TransferError: The model is not found, has quantised weights, has no image processor or one that does not fit,
            takes no classification head, or other inputs than one tensor of images.
    """
    config = _load_config(name, revision, 2)
    check_settings(config, name)
    settle(config)
    with torch.device("meta"):
        model = _build(name, config)
    if registry_key(model) != INFERRED:
        _ = wrap(model).head
    arguments = inspect.signature(model.forward).parameters
    takes = "pixel_values" in arguments and "spatial_shapes" not in arguments
    if not takes:
        given = [each for each in arguments if each in ("input_ids", "pixel_attention_mask", "spatial_shapes")]
        raise ModelError(
            f"{type(model).__name__} cannot be trained on images as they are: it takes {', '.join(given)}, and not a "
            "tensor of images alone (pixel_values). TransferTrainer trains it on a data set that gives these inputs; "
            "hf-transfer train needs another model."
        )
    if is_bare_name(name):
        bare_processor(config)
        return
    processor = load_processor(name, revision)
    if own_size:
        _check_fit(model, processor, name)


def _check_fit(model: nn.Module, processor: Any, name: str) -> None:
    """Run a model without weights on an image as its processor makes it.

    Only what says that the shapes differ counts: some models cannot run without weights for other reasons.
    """
    from hf_transfer.data.preprocessing import plain_input

    settle_processor(processor)
    try:
        pixels = plain_input(processor)
    except (ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"The image processor of {name!r} cannot make a model's input of an image: {_first_line(error)} Correct "
            "its preprocessor_config.json."
        ) from error
    if pixels is None:
        return
    try:
        with torch.no_grad():
            model.eval()(pixels.to("meta"))
    except (ValueError, RuntimeError, AssertionError) as error:
        if isinstance(error, RuntimeError) and not _SHAPES.search(str(error)):
            return
        shape = "×".join(map(str, pixels.shape[1:]))
        raise ModelError(
            f"The image processor of {name!r} makes images of {shape} (channels, height, width), which the model of "
            f"its config.json does not take: {_first_line(error)} Correct preprocessor_config.json, or give "
            "--image_size and --num_channels."
        ) from error


def load_trained(folder: str, revision: str | None = None) -> LoadedModel:
    """Load a classifier with the head that it has, to evaluate it.

    Raises:
        ModelError: The checkpoint is not found, is not an image classifier, or has no trained head.
    """
    if is_bare_name(folder):
        raise ModelError(f"{folder} names an architecture without trained weights; give a Hub id or a folder.")
    revision = _resolved(folder, revision)
    model, info = _load_model(folder, revision, _load_config(folder, revision))
    if check_loaded(model, folder, info):
        raise ModelError(
            f"{folder!r} has no trained classification head, or one for another number of labels than its config.json "
            "says. Train it first: hf-transfer train."
        )
    return LoadedModel(model, load_processor(folder, revision), _noted_origin(folder, revision, model), False)


def load_structure(name: str, revision: str | None = None, num_labels: int | None = None) -> nn.Module:
    """Build a model without its weights, on the meta device: enough to see its layer groups.

    Args:
        name: Hub id or local folder, whose configuration alone is read; or a bare name such as `timm:resnet18`.
        revision: Branch, tag or commit of a Hub repository.
        num_labels: For the head; None keeps the checkpoint's.

    Raises:
        ModelError: The configuration is not found or is not that of an image classifier.
    """
    config = _load_config(name, revision, num_labels)
    with torch.device("meta"):
        return _build(name, config)


def load_processor(name: str, revision: str | None = None) -> Any:
    """Load a checkpoint's image processor.

    Raises:
        ModelError: There is none.
    """
    with _quiet():
        return _load(AutoImageProcessor, name, revision)


def label_names_of(model: nn.Module) -> tuple[str, ...]:
    """A model's label names, in the order of the class indices."""
    return names_in(model.config)


def _load_config(name: str, revision: str | None, num_labels: int | None = None) -> Any:
    if is_bare_name(name):
        return bare_config(name, num_labels)
    config = _load(AutoConfig, name, revision, **({} if num_labels is None else {"num_labels": num_labels}))
    arguments = getattr(config, "model_args", None)
    if isinstance(arguments, dict):
        # timm writes the number of classes there, too, and TimmWrapper then gives it twice and fails.
        config.model_args = {key: value for key, value in arguments.items() if key != "num_classes"}
    return config


def _load_model(
    name: str, revision: str | None, config: Any, dtype: torch.dtype | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The classifier, and the account of missing and misfit weights that goes with it.

    transformers loads weights in the type that they are stored in, so that a checkpoint in half precision would be
    trained in half precision.
    """
    with _quiet():
        model, info = _load(
            AutoModelForImageClassification,
            name,
            revision,
            config=config,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            output_loading_info=True,
            **({} if dtype is None else {"dtype": dtype}),
        )
    return model, info


def _build(name: str, config: Any) -> nn.Module:
    try:
        with _quiet():
            model: nn.Module = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except _UNLOADABLE as error:
        raise _not_a_classifier(name, error) from error
    return model


def _load(loader: Any, name: str, revision: str | None, **options: Any) -> Any:
    try:
        return loader.from_pretrained(name, revision=revision or "main", trust_remote_code=False, **options)
    except (OSError, *_UNLOADABLE) as error:
        if isinstance(error, OSError) and not Path(name).is_dir():
            raise ModelError(
                f"No model {name!r} was found: it is neither a folder here nor can it be read from the Hub "
                f"({_first_line(error)}). Check the spelling, the connection (HF_HUB_OFFLINE), and your access to it."
            ) from error
        raise _not_a_classifier(name, error) from error


def _not_a_classifier(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"{name!r} cannot be loaded as an image classifier: expected a folder or Hub repository with the config.json "
        f"of a transformers or timm image model and safetensors weights; found: {_first_line(error)}"
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _resolved(name: str, revision: str | None) -> str | None:
    """The commit on the Hub that is loaded; of folders and bare names the revision as it was given."""
    return revision if is_bare_name(name) or Path(name).exists() else resolve_revision(name, revision)


def _noted_origin(name: str, revision: str | None, model: nn.Module) -> BaseModel:
    """Where the weights of a model that was loaded here came from; noted on the model as well."""
    if is_bare_name(name):
        origin = random_origin(name, model)
    else:
        origin = folder_origin(name, model) if Path(name).is_dir() else hub_origin(name, revision, model)
    remember_origin(model, origin)
    return origin


class _quiet:
    """Keep transformers from listing every weight of the replaced head; the plan's table says what is new."""

    def __enter__(self) -> None:
        self._before = transformers_logging.get_verbosity()
        self._bar = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *details: object) -> None:
        transformers_logging.set_verbosity(self._before)
        if self._bar:
            transformers_logging.enable_progress_bar()
