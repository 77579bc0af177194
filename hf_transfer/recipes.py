"""Recipes: the usual ways of transfer learning, each a function that returns a `TransferPlan`.

Lengths and learning rates that are None come from the training arguments, so that `--num_train_epochs` and
`--learning_rate` keep their meaning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from hf_transfer.errors import ArgumentError, PlanError
from hf_transfer.layers import Selector
from hf_transfer.plan import NormMode, Phase, TransferPlan


def linear_probe(epochs: float | None = None, learning_rate: float | None = None) -> TransferPlan:
    """Train the head alone, on the features of the frozen pretrained network.

    For small data that are similar to those of the pretraining.
    """
    phase = Phase("linear probe", "head", epochs=epochs, learning_rate=learning_rate)
    return TransferPlan((phase,), recipe="linear_probe")


def svm() -> TransferPlan:
    """A linear support vector machine on the features of the frozen pretrained network.

    For very small data, or such that are unlike those of the pretraining. It is solved, not trained in steps:
    `LinearProbeTrainer` does so.

    Source: https://cs231n.github.io/transfer-learning/
    """
    return TransferPlan((Phase("svm", "head"),), recipe="svm")


def last_blocks(
    k: int = 2,
    epochs: float | None = None,
    learning_rate: float | None = None,
    head_lr_ratio: float = 10.0,
    layer_decay: float = 1.0,
    norm: NormMode = "eval",
) -> TransferPlan:
    """Train the last `k` blocks and all behind them; the earlier ones stay frozen.

    Args:
        k: Number of blocks; 0 trains neck and head.
        epochs: None takes `num_train_epochs` of the training arguments.
        learning_rate: Of pretrained layers; None takes that of the training arguments.
        head_lr_ratio: The head's rate over `learning_rate`. 10, since the head is new.
        layer_decay: See `Phase`.
        norm: See `Phase`.
    """
    return TransferPlan(
        (
            Phase(
                f"last {k} blocks", f"blocks:{k}", epochs, None, learning_rate, head_lr_ratio, layer_decay, norm=norm
            ),
        ),
        recipe="last_blocks",
    )


def fine_tune(
    epochs: float | None = None,
    learning_rate: float | None = None,
    head_lr_ratio: float = 10.0,
    layer_decay: float = 1.0,
    norm: NormMode = "eval",
) -> TransferPlan:
    """Train all layers from the pretrained weights, the new head at a higher rate. Arguments as in `last_blocks`."""
    return TransferPlan(
        (Phase("fine-tune", "all", epochs, None, learning_rate, head_lr_ratio, layer_decay, norm=norm),),
        recipe="fine_tune",
    )


def lp_ft(
    probe_epochs: float = 3.0,
    epochs: float | None = None,
    learning_rate: float | None = None,
    probe_lr_ratio: float = 20.0,
    head_lr_ratio: float = 2.0,
    layer_decay: float = 1.0,
    train: Selector = "all",
    norm: NormMode = "eval",
) -> TransferPlan:
    """Linear probe, then fine-tuning: a head that fits first does not distort the pretrained features.

    Args:
        probe_epochs: Length of the first phase, in which only the head is trained.
        epochs: Length of the second phase; None takes `num_train_epochs` of the training arguments.
        learning_rate: Of pretrained layers in the second phase; None takes that of the training arguments.
        probe_lr_ratio: The head's rate in the first phase over `learning_rate`.
        head_lr_ratio: The head's rate in the second phase over `learning_rate`; low, since the head fits already.
        layer_decay: See `Phase`.
        train: What the second phase trains.
        norm: See `Phase`.

    Source: https://arxiv.org/abs/2202.10054
    """
    probe = Phase("linear probe", "head", probe_epochs, None, learning_rate, probe_lr_ratio)
    tune = Phase("fine-tune", train, epochs, None, learning_rate, head_lr_ratio, layer_decay, norm=norm)
    return TransferPlan((probe, tune), recipe="lp_ft")


def bias_only(epochs: float | None = None, learning_rate: float | None = None) -> TransferPlan:
    """Train the biases and the head.

    Source: https://arxiv.org/abs/2106.10199 (BitFit)
    """
    phase = Phase("biases", "bias", epochs=epochs, learning_rate=learning_rate)
    return TransferPlan((phase,), recipe="bias_only")


def norm_only(
    epochs: float | None = None, learning_rate: float | None = None, norm: NormMode = "eval"
) -> TransferPlan:
    """Train scale and shift of the normalisation layers, and the head.

    Source: https://arxiv.org/abs/2003.00152
    """
    phase = Phase("norms", "norm", epochs=epochs, learning_rate=learning_rate, norm=norm)
    return TransferPlan((phase,), recipe="norm_only")


def from_scratch(epochs: float | None = None, learning_rate: float | None = None) -> TransferPlan:
    """Draw new weights and train everything: the control that shows what pretraining is worth."""
    phase = Phase("from scratch", "all", epochs=epochs, learning_rate=learning_rate, norm="train")
    return TransferPlan((phase,), recipe="from_scratch", init="random")


_RECIPES: dict[str, Callable[..., TransferPlan]] = {
    "bias_only": bias_only,
    "fine_tune": fine_tune,
    "from_scratch": from_scratch,
    "last_blocks": last_blocks,
    "linear_probe": linear_probe,
    "lp_ft": lp_ft,
    "norm_only": norm_only,
    "svm": svm,
}
# Of pretrained layers (of the head in linear_probe), with AdamW: between what suits transformers (5e-5) and
# convolutional networks (1e-3).
_DEFAULT_LEARNING_RATE = 2e-4
_DEFAULT_LEARNING_RATES = {"linear_probe": 5e-3, "bias_only": 2e-3, "norm_only": 2e-3, "from_scratch": 1e-3}


def names() -> tuple[str, ...]:
    """The names that `get` knows."""
    return tuple(sorted(_RECIPES))


def get(name: str, /, **options: Any) -> TransferPlan:
    """Make a plan by its recipe's name, for the command line.

    Args:
        name: One of `names()`.
        options: Arguments of the recipe function.

    Raises:
        ArgumentError: The name or an option is unknown, or an option's value is of no use; the message lists what
            exists.
    """
    if name not in _RECIPES:
        raise ArgumentError(f"There is no recipe {name!r}. The recipes are: {', '.join(names())}.")
    known = inspect.signature(_RECIPES[name]).parameters
    defaults = ", ".join(f"{option}={parameter.default!r}" for option, parameter in known.items())
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ArgumentError(f"The recipe {name} has no option {', '.join(map(repr, unknown))}. It has: {defaults}.")
    try:
        return _RECIPES[name](**options)
    except (PlanError, TypeError) as error:
        reason = str(error).rstrip(".")
        raise ArgumentError(f"The options of recipe {name} do not fit: {reason}. It has: {defaults}.") from error


def default_learning_rate(name: str) -> float:
    """The learning rate that the command line takes for a recipe when none is given."""
    return _DEFAULT_LEARNING_RATES.get(name, _DEFAULT_LEARNING_RATE)
