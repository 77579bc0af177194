"""The fields that transfer learning adds to transformers' `TrainingArguments`, as plain data.

Nothing here imports torch or transformers, so that the command line can describe them at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_transfer.errors import ArgumentError

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
            "help": "Peak learning rate of pretrained layers; or auto: measured by a range test when a phase begins.",
        },
    )
    recipe: str | None = field(
        default=None,
        metadata={
            "help": "How to train, by name, or auto: a diagnosis of the data chooses. "
            "`hf-transfer train --help` lists the recipes."
        },
    )
    recipe_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Options of the recipe as JSON, such as \'{"k": 2, "layer_decay": 0.75}\'.'}
    )
    plan: str | None = field(default=None, metadata={"help": "JSON file with a transfer plan, instead of a recipe."})
    norm: str | None = field(
        default=None,
        metadata={
            "help": "Batch normalisation in trained layers: eval (keep the pretrained statistics) or train (adapt "
            "them). Default: what the recipe says.",
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
            "that both plans share are kept, the next one is started fresh from the checkpoint's weights."
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
            "help": "Most that the feature cache may take on disk, in GB; what was not used for longest is evicted. "
            "Its folder is HF_TRANSFER_CACHE, else hf_transfer/features in HF_HOME."
        },
    )
    cache_views: int = field(
        default=0,
        metadata={
            "help": "With random augmentation: number of views of each image that are stored and used in turn. 0 "
            "draws a new one each time and stores nothing."
        },
    )

    stop_on_non_finite_loss: bool = field(
        default=True,
        metadata={
            "help": "Stop the run, before the weights are hurt, when the loss becomes NaN or infinite. False trains "
            "on all the same, as Trainer does."
        },
    )

    solver: str | None = field(
        default=None,
        metadata={
            "help": "How the recipes linear_probe and svm find the head: logistic (the default), svm, ridge or sgd "
            "solve it on features that are computed once; none trains it by gradient steps.",
            "choices": ["logistic", "svm", "ridge", "sgd", "none"],
        },
    )
    layer: str | None = field(
        default=None,
        metadata={
            "help": "What a solved head reads: last (the default), auto, or the name of a layer group; all "
            "needs --allow_probe_file."
        },
    )
    allow_probe_file: bool = field(
        default=False,
        metadata={
            "help": "Where no ordinary checkpoint can hold a solved head, keep it in a probe file that hf_transfer "
            "alone can load (hf_transfer.load_probe)."
        },
    )
    class_weights: str | None = field(
        default=None,
        metadata={
            "help": "Weights of the classes for a solved head: balanced, or JSON from class index to weight, such as "
            "'{\"0\": 2.5}'."
        },
    )
