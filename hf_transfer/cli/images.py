"""Loading of the images that the flags name."""

from __future__ import annotations

from collections.abc import Sequence

from hf_transfer.cli.options import DataOptions
from hf_transfer.data import ImageData, load


def load_images(
    options: DataOptions, label_names: Sequence[str] | None = None, require_train: bool = True
) -> ImageData:
    """Load the data set of the flags; arguments and errors as in `hf_transfer.data.load`."""
    return load(
        options.dataset,
        image_column=options.image_column,
        label_column=options.label_column,
        split_seed=options.split_seed,
        skip_bad_images=options.skip_bad_images,
        revision=options.dataset_revision,
        config_name=options.dataset_config,
        label_names=label_names,
        require_train=require_train,
    )
