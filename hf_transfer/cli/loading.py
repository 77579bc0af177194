"""Load the images and the model that the flags name."""

from __future__ import annotations

from collections.abc import Sequence

from hf_transfer.cli.flags import DataOptions, ModelOptions
from hf_transfer.data import ImageData, load
from hf_transfer.models.loading import LoadedModel, check_trainable, load_for_training


def load_images(
    options: DataOptions,
    label_names: Sequence[str] | None = None,
    require_train: bool = True,
    pixel_range: tuple[float, float] | None = None,
) -> ImageData:
    """Load the data set that the flags name; arguments and errors as in `hf_transfer.data.load`."""
    return load(
        options.dataset,
        labels=options.labels,
        image_column=options.image_column,
        label_column=options.label_column,
        split_seed=options.split_seed,
        skip_bad_images=options.skip_bad_images,
        revision=options.dataset_revision,
        config_name=options.dataset_config,
        label_names=label_names,
        require_train=require_train,
        similar_labels=options.similar_labels,
        pixel_range=pixel_range,
        max_image_pixels=options.max_image_pixels,
    )


def check_model(options: ModelOptions) -> None:
    """Refuse a model that cannot be trained on images, from its configuration; errors as in `check_trainable`."""
    own_size = options.image_size is None and options.num_channels is None
    check_trainable(options.model_name_or_path, options.model_revision, own_size=own_size)


def load_model(options: ModelOptions, label_names: Sequence[str], seed: int) -> LoadedModel:
    """Load the model that the flags name, for training; errors as in `models.loading.load_for_training`."""
    return load_for_training(
        options.model_name_or_path,
        label_names,
        revision=options.model_revision,
        reset_head=options.reset_head,
        seed=seed,
        image_size=options.image_size,
        num_channels=options.num_channels,
    )
