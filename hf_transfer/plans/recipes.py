"""Recipes: the usual ways of transfer learning, each a function that returns a `TransferPlan`.

Lengths and learning rates that are None come from the training arguments, so that `--num_train_epochs` and
`--learning_rate` keep their meaning.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

from hf_transfer.architectures.selectors import Selector
from hf_transfer.errors import ArgumentError, PlanError
from hf_transfer.plans.plan import HeadSolver, NormMode, Phase, TransferPlan
from hf_transfer.utils.suggestions import did_you_mean

# BiT's rule, by number of images: end of the warm-up, steps at which the rate falls to a tenth, last step.
_BIT_STEPS = (
    (20_000, (100, 200, 300, 400, 500)),
    (500_000, (500, 3000, 6000, 9000, 10_000)),
    (math.inf, (500, 6000, 12_000, 18_000, 20_000)),
)

# Of a head at twenty times the rate of fine-tuning: near its optimum, at the cost of three forward passes.
_PROBE_EPOCHS = 3.0


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
        learning_rate: Learning rate of pretrained layers; None takes that of the training arguments.
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
    probe_epochs: float | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    probe_lr_ratio: float = 20.0,
    head_lr_ratio: float = 2.0,
    layer_decay: float = 1.0,
    train: Selector = "all",
    norm: NormMode = "eval",
    probe_solver: HeadSolver = "logistic",
    average_from: float | None = None,
) -> TransferPlan:
    """Linear probe, then fine-tuning: a head that fits first does not distort the pretrained features.

    Args:
        probe_epochs: Epochs of the first phase, in which only the head is trained. None solves the head instead, on
            features that are computed once; where that cannot be done, it is trained for 3 epochs.
        epochs: Length of the second phase; None takes `num_train_epochs` of the training arguments.
        learning_rate: Learning rate of pretrained layers in the second phase; None takes that of the training
            arguments.
        probe_lr_ratio: The head's rate over `learning_rate` where the first phase is trained.
        head_lr_ratio: The head's rate in the second phase over `learning_rate`; low, since the head fits already.
        layer_decay: See `Phase`.
        train: What the second phase trains.
        norm: See `Phase`.
        probe_solver: How the head is solved; see `Phase`.
        average_from: `average_from` of the second phase; see `Phase`.

    Source: https://arxiv.org/abs/2202.10054
    """
    solver, length = (probe_solver, _PROBE_EPOCHS) if probe_epochs is None else (None, probe_epochs)
    probe = Phase("linear probe", "head", length, None, learning_rate, probe_lr_ratio, head_solver=solver)
    tune = Phase(
        "fine-tune",
        train,
        epochs,
        None,
        learning_rate,
        head_lr_ratio,
        layer_decay,
        norm=norm,
        average_from=average_from,
    )
    return TransferPlan((probe, tune), recipe="lp_ft")


def gradual_unfreeze(
    steps: int = 3,
    blocks_per_step: int = 1,
    epochs_per_phase: float = 1.0,
    epochs: float | None = None,
    learning_rate: float | None = None,
    head_lr_ratio: float = 1.0,
    layer_decay: float = 1 / 2.6,
    norm: NormMode = "eval",
) -> TransferPlan:
    """Train the head, then one more block (or a few) in each phase, and at last all layers.

    The same for every model, whatever its depth: the number of phases is chosen, not read off the model. With `steps`
    one less than the number of blocks it is ULMFiT's schedule to the letter.

    Args:
        steps: Phases between the head alone and all layers.
        blocks_per_step: Blocks that each of them adds.
        epochs_per_phase: Length of each phase but the last.
        epochs: Length of the last phase; None takes `num_train_epochs` of the training arguments.
        learning_rate: Learning rate of layers behind the blocks; None takes that of the training arguments.
        head_lr_ratio: The head's rate over `learning_rate`.
        layer_decay: See `Phase`. 1/2.6 is ULMFiT's, for a network of four layers; in one of twelve it leaves the first
            block a hundred-thousandth of the rate, and 0.75 suits better.
        norm: See `Phase`.

    Raises:
        PlanError: `steps` or `blocks_per_step` is no positive whole number.

    Source: https://arxiv.org/abs/1801.06146 (ULMFiT)
    """
    for name, value in (("steps", steps), ("blocks_per_step", blocks_per_step)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanError(f"gradual_unfreeze: {name} is a positive whole number, found {value!r}.")
    rates = (learning_rate, head_lr_ratio, layer_decay)
    head = Phase("head", "head", epochs_per_phase, None, *rates)
    counts = [blocks_per_step * (step + 1) for step in range(steps)]
    middle = (
        Phase(f"last {count} block{'s'[: count > 1]}", f"blocks:{count}", epochs_per_phase, None, *rates, norm=norm)
        for count in counts
    )
    return TransferPlan(
        (head, *middle, Phase("all layers", "all", epochs, None, *rates, norm=norm)), recipe="gradual_unfreeze"
    )


def surgical(
    part: Literal["first", "middle", "last"] = "first",
    epochs: float | None = None,
    learning_rate: float | None = None,
    head_lr_ratio: float = 1.0,
    norm: NormMode = "eval",
) -> TransferPlan:
    """Train one third of the blocks and the head: which one suits depends on how the data differ from the pretraining.

    Args:
        part: "first" for other pixels (noise, another sensor), with the stem; "middle" for other features; "last" for
            other labels, with the neck.
        epochs: None takes `num_train_epochs` of the training arguments.
        learning_rate: None takes that of the training arguments.
        head_lr_ratio: The head's rate over `learning_rate`.
        norm: See `Phase`.

    Source: https://arxiv.org/abs/2210.11466
    """
    phase = Phase(f"{part} third", f"part:{part}", epochs, None, learning_rate, head_lr_ratio, norm=norm)
    return TransferPlan((phase,), recipe="surgical")


def bit_hyperrule(n_images: int, image_size: int) -> TransferPlan:
    """Fine-tune all layers by BiT's rule: length from the number of images, the rate in four steps.

    The rule is for SGD with momentum 0.9 (`--optim sgd --optim_args momentum=0.9`) and 512 images per step; the
    rate of 0.003 belongs to that. It also asks for images of `bit_resolution(image_size)` and, from 20,000 images on,
    for mixup.

    Args:
        n_images: Training images: below 20,000 give 500 steps, below 500,000 10,000, more give 20,000.
        image_size: Side of the images as they are stored, in pixels.

    Raises:
        PlanError: A number is not positive.

    Source: https://arxiv.org/abs/1912.11370
    """
    for name, value in (("n_images", n_images), ("image_size", image_size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanError(f"bit_hyperrule: {name} is a positive whole number, found {value!r}.")
    warmup, *borders = next(steps for limit, steps in _BIT_STEPS if n_images < limit)
    phases = []
    for index, (start, end) in enumerate(zip((0, *borders), borders, strict=False)):
        rate, own_warmup = 3e-3 * 0.1**index, 0 if index else warmup
        name = f"rate {rate:.0e} at {bit_resolution(image_size)[1]} px"
        phases.append(
            Phase(
                name,
                "all",
                max_steps=end - start,
                learning_rate=rate,
                warmup=own_warmup,
                lr_scheduler_type="constant_with_warmup",
                norm="train",
            )
        )
    return TransferPlan(tuple(phases), recipe="bit_hyperrule")


def bit_resolution(image_size: int) -> tuple[int, int]:
    """Resize and crop of BiT's rule, in pixels: small images are shown at 128, larger ones at 480.

    Source: https://arxiv.org/abs/1912.11370
    """
    return (160, 128) if image_size * image_size < 96 * 96 else (512, 480)


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
    "bit_hyperrule": bit_hyperrule,
    "fine_tune": fine_tune,
    "from_scratch": from_scratch,
    "gradual_unfreeze": gradual_unfreeze,
    "last_blocks": last_blocks,
    "linear_probe": linear_probe,
    "lp_ft": lp_ft,
    "norm_only": norm_only,
    "surgical": surgical,
    "svm": svm,
}
# Of pretrained layers (of the head in linear_probe), with AdamW: between what suits transformers (5e-5) and
# convolutional networks (1e-3).
_DEFAULT_LEARNING_RATE = 2e-4
_DEFAULT_LEARNING_RATES = {
    "linear_probe": 5e-3,
    "svm": 5e-3,
    "bias_only": 2e-3,
    "norm_only": 2e-3,
    "from_scratch": 1e-3,
}


def names() -> tuple[str, ...]:
    """The names that `get` knows."""
    return tuple(sorted(_RECIPES))


def get(name: str, /, **options: Any) -> TransferPlan:
    """Make a plan by its recipe's name, for the command line.

    Args:
        name: One of `names()`.
        options: Arguments of the recipe function.

    Raises:
        ArgumentError: The name or an option is unknown, or an option's value is invalid; the message lists what
            exists.
    """
    if name not in _RECIPES:
        raise ArgumentError(
            f"There is no recipe {name!r}. The recipes are: {', '.join(names())}." + did_you_mean(name, names())
        )
    known = inspect.signature(_RECIPES[name]).parameters
    required = inspect.Parameter.empty
    defaults = ", ".join(f"{n}={'(required)' if p.default is required else repr(p.default)}" for n, p in known.items())
    unknown = sorted(set(options) - set(known))
    if unknown:
        guesses = "".join(did_you_mean(option, known) for option in unknown)
        raise ArgumentError(
            f"The recipe {name} has no option {', '.join(map(repr, unknown))}. It has: {defaults or 'none'}.{guesses}"
        )
    try:
        return _RECIPES[name](**options)
    except (PlanError, TypeError) as error:
        reason = str(error).rstrip(".")
        raise ArgumentError(f"The options of recipe {name} do not fit: {reason}. It has: {defaults}.") from error


def default_learning_rate(name: str) -> float:
    """The learning rate that the command line takes for a recipe when none is given."""
    return _DEFAULT_LEARNING_RATES.get(name, _DEFAULT_LEARNING_RATE)
