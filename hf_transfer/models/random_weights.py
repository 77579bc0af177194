"""New random weights for a whole model: the control without pretraining."""

from __future__ import annotations

import copy

import torch
from torch import nn

from hf_transfer.errors import ModelError
from hf_transfer.utils.foreign import config_of


def draw_random_weights(model: nn.Module, seed: int) -> None:
    """Replace all weights and statistics by those of a freshly made model of the same configuration.

    Args:
        model: Changed in place.
        seed: Seed for the draw; the global random state is left as it was.

    Raises:
        ModelError: No fresh model can be made, because a module has weights but no way to draw them again.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = _fresh_model(model)
    model.load_state_dict(fresh.state_dict())


def _fresh_model(model: nn.Module) -> nn.Module:
    config = config_of(model)
    if config is not None and hasattr(model, "_from_config"):
        made: nn.Module = type(model)(copy.deepcopy(config))
        return made
    fresh = copy.deepcopy(model).cpu()
    for name, module in fresh.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        elif list(module.parameters(recurse=False)):
            raise ModelError(
                f"Weights cannot be drawn again: {type(module).__name__} at {name or 'the root'!r} has parameters but "
                "no reset_parameters(). Make a fresh model and train it with the recipe fine_tune."
            )
    return fresh
