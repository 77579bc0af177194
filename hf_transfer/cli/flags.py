"""The flags of each command, as plain data: `help` prints them, and `options` parses them.

Nothing here imports more than the standard library, so that help answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_transfer.plans import recipes

DESCRIPTIONS: Mapping[str, str] = {
    "train": "Fine-tune an image classifier, evaluate it, and write checkpoint, card, figures and report.",
    "diagnose": "Measure which kind of transfer a data set needs, and recommend a recipe with reasons.",
    "inspect": "Show the layer groups of a model, and what a recipe would train at which learning rate.",
    "evaluate": "Compute all metrics and figures of a trained model on a data set.",
    "publish": "Check, stage, upload and verify a finished run.",
    "demo": "Train an ImageNet model on images of the package, offline unless the result is pushed.",
    "doctor": "Examine the environment: versions, devices, threads, Hub login and name collisions.",
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
MACHINE_DEFAULTS: Mapping[str, str] = {
    "dataloader_pin_memory": "true with a GPU, else false",
    "disable_tqdm": "false on a terminal, else true",
}
"""Defaults of `train` that depend on the machine, in words."""
DEFAULT_RECIPE = "lp_ft"
REFUSED = frozenset({"hub_token"})
"""Flags of Trainer that no command accepts and no help lists."""
NO_TOKEN = (
    "A token is not taken as an argument, where others could read it. Log in by `hf auth login`, or set HF_TOKEN in "
    "the environment."
)


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
        default=None,
        metadata={"help": "Branch, tag or commit of the model's Hub repository. Default: the main branch."},
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Side of the model's input in pixels; position embeddings are interpolated. Default: that of "
            "its processor."
        },
    )
    num_channels: int | None = field(
        default=None,
        metadata={
            "help": "Channels of the images: 1 (grey), 3 (RGB) or 4 (RGBA); the first convolution is adapted. "
            "Default: the model's.",
            "choices": [1, 3, 4],
        },
    )
    reset_head: bool = field(
        default=False,
        metadata={"help": "Start with a new head even for labels that the checkpoint's head knows."},
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
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a Hub data set. Default: the data set's own default."}
    )
    dataset_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of the data set's Hub repository. Default: the main branch."},
    )
    labels: str | None = field(
        default=None,
        metadata={
            "help": "Where the labels of a folder are: in the names of its folders, or in a table there. Default: "
            "detected; an error asks if both could be.",
            "choices": ["folders", "table"],
        },
    )
    image_column: str | None = field(default=None, metadata={"help": "Column with the images. Default: detected."})
    label_column: str | None = field(default=None, metadata={"help": "Column with the labels. Default: detected."})
    similar_labels: str | None = field(
        default=None,
        metadata={
            "help": "Labels that look alike, such as Cat and cat: merge makes one class of them, keep leaves them "
            "apart. Default: an error that names them.",
            "choices": ["merge", "keep"],
        },
    )
    split_seed: int = field(
        default=42, metadata={"help": "Seed of the stratified split that is made when the data have no splits."}
    )
    skip_bad_images: bool = field(
        default=False,
        metadata={
            "help": "Continue even if more than 1 %% of a split's images cannot be read; skipped images are listed."
        },
    )
    max_image_pixels: int | None = field(
        default=None,
        metadata={"help": "Refuse images of more pixels than this. Default: Pillow's limit, 178,956,970."},
    )
    metrics: list[str] | None = field(
        default=None,
        metadata={"help": "Additional metrics of the evaluate library, by id or local folder. Default: none."},
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
    """How an existing output folder is treated."""

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
            "balanced the one with the lowest log loss within one, best the best one.",
            "choices": ["fast", "balanced", "best"],
        },
    )
    budget: float | None = field(
        default=None,
        metadata={
            "help": "With the recipe auto: seconds for trial runs on held-out training images; 0 tries solved heads "
            "alone. Default: what is chosen is verified in training, and nothing is tried in diagnose."
        },
    )
    metric: str | None = field(
        default=None,
        metadata={
            "help": "With the recipe auto: what decides on held-out training images. Default: accuracy, or "
            "balanced_accuracy where the largest class has three times the images of the smallest.",
            "choices": ["accuracy", "balanced_accuracy", "macro_f1", "log_loss"],
        },
    )
    calibrate: str = field(
        default="auto",
        metadata={
            "help": "With the recipe auto: fold the temperature that held-out images ask for into the head (auto), or "
            "leave the scores as they are (off).",
            "choices": ["auto", "off"],
        },
    )


@dataclass
class DiagnoseOptions:
    """What is measured, and where the diagnosis goes."""

    json: str | None = field(
        default=None, metadata={"help": "JSON file for the diagnosis. Default: nothing is written."}
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for diagnosis.json and its figure. Default: nothing is written."},
    )
    sample: int | None = field(
        default=None,
        metadata={"help": "Approximate number of training images that are measured. Default: 2,000 or more."},
    )
    allow_probe_file: bool = field(
        default=False,
        metadata={"help": "Also consider classifiers on features that no ordinary checkpoint can express."},
    )
    seed: int = field(default=42, metadata={"help": "Seed for all random draws, as in train."})


@dataclass
class InspectOptions:
    """Which model, and which plan."""

    model_name_or_path: str = field(
        metadata={
            "help": "Hub id or local folder, of which only the configuration is read; or an architecture, such as "
            "timm:resnet18 or transformers:vit. Also the first word."
        }
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the Hub repository. Default: the main branch."}
    )
    recipe: str | None = field(
        default=None,
        metadata={
            "help": f"Show what this recipe would train: {', '.join(recipes.names())}. Default: the groups alone."
        },
    )
    recipe_options: str | None = field(
        default=None, metadata={"help": "Options of the recipe as JSON. Default: its own."}
    )
    plan: str | None = field(
        default=None, metadata={"help": "JSON file with a transfer plan, instead of a recipe. Default: none."}
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of pretrained layers. Default: that of the recipe."}
    )
    granularity: str = field(
        default="block", metadata={"help": "Size of the layer groups.", "choices": ["block", "stage"]}
    )
    json: bool = field(default=False, metadata={"help": "Print JSON."})


@dataclass
class EvaluateOptions:
    """Which model, which split, and where the results go."""

    model_name_or_path: str = field(
        metadata={"help": "Hub id or local folder of a trained classifier; also the first word."}
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the Hub repository. Default: the main branch."}
    )
    split: str | None = field(
        default=None,
        metadata={
            "help": "Split to evaluate: train, validation or test. Default: the first of validation, test, train."
        },
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
        metadata={"help": "Open a pull request. Default: only if the repository is not empty."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Check and stage everything, upload nothing."})
    no_verify: bool = field(
        default=False, metadata={"help": "Skip loading the published model back and comparing it."}
    )
    license: str | None = field(
        default=None, metadata={"help": "License identifier of the Hub, such as mit. Default: the base model's."}
    )
    limitations: str | None = field(
        default=None,
        metadata={"help": "Text of the card's section Limitations: Markdown, or a file with it. Default: none."},
    )
    include_examples: bool = field(
        default=False,
        metadata={"help": "Also publish files that show images or file names: worst mistakes, predictions, report."},
    )
    include_checkpoint: bool = field(
        default=False,
        metadata={
            "help": "Also publish the last checkpoint as safetensors and JSON, so that others can resume from it."
        },
    )
    widget_images: list[str] | None = field(
        default=None,
        metadata={
            "help": "Image files for the examples on the model page; everybody can see them. Default: none.",
            "nargs": "+",
        },
    )
    benchmark_task: str | None = field(
        default=None,
        metadata={"help": "Task in a benchmark data set's eval.yaml to report the accuracy to. Default: none."},
    )


@dataclass
class DemoOptions:
    """Where the results go."""

    output_dir: str = field(default="hf-transfer-demo", metadata={"help": "Folder for the results."})
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Remove the files of an earlier run first; a finished demo is always replaced."},
    )
    push_to_hub: bool = field(
        default=False,
        metadata={"help": "Publish the result to a private repository; needs a Hub login and a network."},
    )
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Hub repository, owner/name. Default: the name of the output folder."}
    )
