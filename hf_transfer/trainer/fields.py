"""The fields that transfer learning adds to transformers' `TrainingArguments`, as plain data.

Nothing here imports torch or transformers, so that the command line can describe them at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_transfer.errors import ArgumentError
from hf_transfer.plans import recipes

AUTO = "auto"
"""The recipe that `hf_transfer.diagnosis` chooses, and the learning rate that a range test measures."""


def rate_or_auto(given: Any) -> Any:
    """A learning rate as a number, or "auto"; what the command line parses `--learning_rate` with.

    Raises:
        ArgumentError: It is neither.
    """
    if given == AUTO or not isinstance(given, str):
        return given
    try:
        return float(given)
    except ValueError as error:
        raise ArgumentError(f"learning_rate must be a number or auto, found {given!r}.") from error


if TYPE_CHECKING:
    RateOrAuto = float
else:
    RateOrAuto = rate_or_auto  # HfArgumentParser takes a field's annotation as its parser


@dataclass
class TransferFields:
    """Our own training arguments; `TransferArguments` adds those of transformers."""

    learning_rate: RateOrAuto = field(
        default=5e-5,
        metadata={
            "help": "Peak learning rate of pretrained layers; or auto: a range test measures it when a phase begins.",
        },
    )
    recipe: str | None = field(
        default=None,
        metadata={
            "help": f"How to train: {', '.join(recipes.names())}; or auto: a diagnosis of the data chooses the recipe."
        },
    )
    recipe_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": 'Options of the recipe as JSON, such as \'{"k": 2, "layer_decay": 0.75}\'. Default: its own.'
        },
    )
    plan: str | None = field(
        default=None, metadata={"help": "JSON file with a transfer plan, instead of a recipe. Default: none."}
    )
    norm: str | None = field(
        default=None,
        metadata={
            "help": "Batch normalisation in trained layers: eval (keep the pretrained statistics) or train (adapt "
            "them). Default: that of the recipe.",
            "choices": ["eval", "train"],
        },
    )
    memory_format: str = field(
        default="auto",
        metadata={
            "help": "Memory layout of the model: channels_last, default, or auto, which takes channels_last for "
            "networks with batch normalisation (faster on a CPU: benchmarks/RESULTS.md) and default for all others.",
            "choices": ["auto", "channels_last", "default"],
        },
    )

    allow_plan_change: bool = field(
        default=False,
        metadata={
            "help": "Resume from a checkpoint of another plan, other data, another optimizer or seed: finished phases "
            "that both plans share are kept, and the next one starts from the checkpoint's weights."
        },
    )

    cache_features: str = field(
        default="auto",
        metadata={
            "help": "Compute the frozen part of the network once and keep it on disk: auto (where it pays), on "
            "(wherever it is exact), off.",
            "choices": ["auto", "on", "off"],
        },
    )
    cache_gb: float = field(
        default=20.0,
        metadata={
            "help": "Largest size of the feature cache on disk in GB; the least recently used features are evicted. "
            "Its folder is HF_TRANSFER_CACHE, else hf_transfer/features in HF_HOME."
        },
    )
    cache_views: int = field(
        default=0,
        metadata={
            "help": "With random augmentation: number of stored views of each image, which are used in turn; 0 "
            "draws a new view each time and stores nothing."
        },
    )

    stop_on_non_finite_loss: bool = field(
        default=True,
        metadata={
            "help": "Stop before the weights are damaged when the loss becomes NaN or infinite; false continues, as "
            "Trainer does."
        },
    )

    solver: str | None = field(
        default=None,
        metadata={
            "help": "How the recipes linear_probe and svm fit the head: logistic, svm, ridge or sgd solve it on "
            "features that are computed once; none trains it by gradient steps. Default: logistic, or svm for the "
            "recipe svm.",
            "choices": ["logistic", "svm", "ridge", "sgd", "none"],
        },
    )
    layer: str | None = field(
        default=None,
        metadata={
            "help": "Layer that the head reads: last, or the name of a layer group, after which the model ends; for "
            "a solved head also auto, or all, which needs --allow_probe_file. Default: last."
        },
    )
    allow_probe_file: bool = field(
        default=False,
        metadata={
            "help": "Store a solved head that no ordinary checkpoint can express in a probe file, which only "
            "hf_transfer.load_probe can load."
        },
    )
    class_weights: str | None = field(
        default=None,
        metadata={
            "help": "Class weights of a solved head: balanced, or JSON from class index to weight, such as "
            "'{\"0\": 2.5}'. Default: all equal."
        },
    )
