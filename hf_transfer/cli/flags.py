"""The flags of each command, as plain data: `help` prints them, and `options` parses them.

Nothing here imports more than the standard library, so that help answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_transfer.plans import recipes

DESCRIPTIONS: Mapping[str, str] = {
    "train": "Fine-tune an image classifier by a recipe or plan. The recipes are: "
    + ", ".join(recipes.names())
    + "; auto diagnoses which one the data need.",
    "diagnose": "Measure which kind of transfer a data set needs, and say which recipe to use and why.",
    "inspect": "Show the layer groups of a model, and what a recipe would train at which learning rate.",
    "evaluate": "Compute all metrics and figures of a trained model on a data set.",
    "publish": "Check, stage, upload and verify a finished run: hf-transfer publish FOLDER REPO_ID.",
    "demo": "Run the main job on an ImageNet model and images of the package, offline unless it is pushed.",
    "doctor": "Examine the environment.",
}
TRAIN_DEFAULTS: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "logging_steps": 10,
    "report_to": "none",
    "remove_unused_columns": False,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "weight_decay": 0.05,
}
"""Defaults of `train` where they differ from those of `TransferArguments`."""
DEFAULT_RECIPE = "lp_ft"
REFUSED = frozenset({"hub_token"})
"""Flags of Trainer that no command takes, and that no help lists."""


@dataclass
class ModelOptions:
    """Which model."""

    model_name_or_path: str = field(
        metadata={
            "help": "Hub id or local folder of a transformers or timm classifier; or an architecture with random "
            "weights, such as timm:resnet18 or transformers:vit."
        }
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the model's Hub repository."}
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Side of the model's input in pixels; position embeddings are interpolated. Default: what its "
            "processor says."
        },
    )
    num_channels: int | None = field(
        default=None,
        metadata={
            "help": "Channels of the images: 1 (grey), 3 (RGB) or 4 (RGBA); the first convolution is made from the "
            "pretrained one. Default: the model's.",
            "choices": [1, 3, 4],
        },
    )
    reset_head: bool = field(
        default=False,
        metadata={"help": "Draw a new head even if the checkpoint's has the same number of labels."},
    )


@dataclass
class DataOptions:
    """Which images and labels."""

    dataset: str = field(
        metadata={
            "help": "Hub id, image folder (class/file.jpg, or train/class/...), CSV, JSON Lines or Parquet file with "
            "image and label columns, or a folder written by save_to_disk."
        }
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the data set's Hub repository."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Column with the images. Default: found."})
    label_column: str | None = field(default=None, metadata={"help": "Column with the labels. Default: found."})
    split_seed: int = field(
        default=42, metadata={"help": "Seed of the stratified split that is made when the data have none."}
    )
    skip_bad_images: bool = field(
        default=False,
        metadata={"help": "Continue even if more than 1 %% of the images of a split cannot be read; all are listed."},
    )
    metrics: list[str] | None = field(
        default=None,
        metadata={"help": "More metrics of the evaluate library, by id or local folder, in addition to ours."},
    )


@dataclass
class TrainDataOptions(DataOptions):
    """Which images and labels, and how they are augmented for training."""

    augmentation: str = field(
        default="light",
        metadata={
            "help": "none; light: flip and small shift; standard: random resized crop and flip.",
            "choices": ["none", "light", "standard"],
        },
    )


@dataclass
class OutputOptions:
    """What happens to an existing output folder."""

    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Remove the files of an earlier run from the output folder first."}
    )


@dataclass
class DiagnosisOptions:
    """How a diagnosis chooses."""

    prefer: str = field(
        default="balanced",
        metadata={
            "help": "With the recipe auto: fast takes the cheapest candidate within two standard errors of the best, "
            "balanced within one, best the best.",
            "choices": ["fast", "balanced", "best"],
        },
    )
    budget: float | None = field(
        default=None,
        metadata={
            "help": "With the recipe auto: seconds that trials on held-out training images may take where the "
            "measurements do not settle the choice. Default: no trials."
        },
    )


@dataclass
class DiagnoseOptions:
    """What to measure on, and where to write."""

    json: str | None = field(default=None, metadata={"help": "JSON file to write the diagnosis to."})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for diagnosis.json and its figure. Default: nothing is written."},
    )
    sample: int | None = field(
        default=None, metadata={"help": "About how many training images are measured. Default: 2,000 or more."}
    )
    allow_probe_file: bool = field(
        default=False,
        metadata={"help": "Also choose a classifier on features that no ordinary checkpoint can express."},
    )
    seed: int = field(default=42, metadata={"help": "Seed for all random draws; the default is that of train."})


@dataclass
class InspectOptions:
    """Which model, and under which plan."""

    model_name_or_path: str = field(
        metadata={
            "help": "Hub id or local folder, whose configuration alone is read; or an architecture, such as "
            "timm:resnet18 or transformers:vit."
        }
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    recipe: str | None = field(default=None, metadata={"help": "Recipe, one of: " + ", ".join(recipes.names())})
    recipe_options: str | None = field(default=None, metadata={"help": "Options of the recipe as JSON."})
    plan: str | None = field(default=None, metadata={"help": "JSON file with a plan, instead of a recipe."})
    learning_rate: float | None = field(default=None, metadata={"help": "Default: that of the recipe in `train`."})
    granularity: str = field(default="block", metadata={"help": "block or stage.", "choices": ["block", "stage"]})
    json: bool = field(default=False, metadata={"help": "Print JSON."})


@dataclass
class EvaluateOptions:
    """Which model, which split, and where to."""

    model_name_or_path: str = field(metadata={"help": "Hub id or local folder of a trained classifier."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    split: str | None = field(
        default=None, metadata={"help": "train, validation or test. Default: validation, else test, else train."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for metrics, predictions and figures. Default: nothing is written."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images in one forward pass."})


@dataclass
class PublishOptions:
    """What to publish, where, and how."""

    folder: str = field(metadata={"help": "The --output_dir of a finished run; also the first word."})
    repo_id: str = field(metadata={"help": "owner/name, or name for the logged-in user's; also the second word."})
    public: bool = field(default=False, metadata={"help": "Make a public repository. Default: private."})
    create_pr: bool | None = field(
        default=None,
        metadata={"help": "By pull request. Default: only into a repository that holds something already."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Check and stage everything, send nothing."})
    no_verify: bool = field(default=False, metadata={"help": "Do not load the published model back to compare it."})
    license: str | None = field(
        default=None, metadata={"help": "The Hub's identifier, such as mit. Default: the base model's."}
    )
    limitations: str | None = field(
        default=None, metadata={"help": "Markdown, or a file that holds it, for the card's section of that name."}
    )
    include_examples: bool = field(
        default=False,
        metadata={"help": "Also publish what shows images or file names: worst mistakes, predictions, report."},
    )
    include_checkpoint: bool = field(
        default=False,
        metadata={"help": "Also publish the last checkpoint, as safetensors and JSON, for others to resume from."},
    )
    widget_images: list[str] | None = field(
        default=None,
        metadata={"help": "Image files that everybody may see, as examples on the model page.", "nargs": "+"},
    )
    benchmark_task: str | None = field(
        default=None,
        metadata={"help": "Task in the eval.yaml of a data set that is a benchmark: report the accuracy to it."},
    )


@dataclass
class DemoOptions:
    """Where to."""

    output_dir: str = field(default="hf-transfer-demo", metadata={"help": "Folder for the results."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Remove the files of an earlier run; a finished demo is always replaced."}
    )
    push_to_hub: bool = field(
        default=False, metadata={"help": "Publish the result, to a private repository; needs a login and a network."}
    )
    hub_model_id: str | None = field(
        default=None, metadata={"help": "owner/name. Default: the name of the output folder."}
    )
