"""The registry of model wrappers: from a model to its layer groups.

A wrapper is a read-only view. It never changes the model, its class, its `state_dict` keys or its outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points

from torch import nn

from hf_transfer.architectures import flat, inferred, special, staged, timm_models  # noqa: F401 (registers them)
from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.norms import norm_parameter_names
from hf_transfer.architectures.registry import INFERRED, TIMM, WRAPPERS, WrapperClass, register
from hf_transfer.architectures.selectors import Selector, select_groups
from hf_transfer.architectures.wrapper import Granularity, ModelWrapper
from hf_transfer.errors import ArgumentError, UnknownArchitectureError
from hf_transfer.utils.foreign import configured, timm_inner, timm_settings

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "hf_transfer.wrappers"


def register_wrapper(*model_types: str, replace: bool = False) -> Callable[[WrapperClass], WrapperClass]:
    """Class decorator that registers a `ModelWrapper` for one or more model types.

    A distribution can also name its wrapper classes in the entry-point group `hf_transfer.wrappers`, with the model
    type as the entry's name.

    Args:
        model_types: `config.model_type` of a transformers model, or the class name of any other module.
        replace: Allow an already registered type to be replaced; refused otherwise, so that two packages cannot
            silently fight over one architecture.

    Raises:
        ArgumentError: No type given, another class is registered for it, or the class is not a `ModelWrapper`.
    """
    return register(*model_types, replace=replace)


def list_wrappers() -> list[str]:
    """Return the registered model types, sorted; "timm" and "inferred" stand for the two generic wrappers."""
    _load_plugins()
    return sorted(WRAPPERS)


def wrap(model: nn.Module, granularity: Granularity = "block", strict: bool = False) -> ModelWrapper:
    """Find the layer groups of a model.

    Args:
        model: A transformers or timm image classifier, or any `nn.Module`.
        granularity: "block" for one group per block, "stage" for one per stage where the architecture has stages.
        strict: Refuse a model whose architecture is not registered, instead of inferring its groups with a warning.

    Raises:
        ArgumentError: `model` is not a module, or `granularity` is unknown.
        UnknownArchitectureError: The architecture is unknown and `strict` is set.
        LayerGroupError: The wrapper's groups do not partition the parameters.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"wrap takes a torch.nn.Module, found {type(model).__name__}: load the model first.")
    _load_plugins()
    key = registry_key(model)
    if key == INFERRED and strict:
        raise UnknownArchitectureError(
            f"No wrapper is registered for {type(model).__name__}. Register one with @hf_transfer.register_wrapper, "
            "or leave strict=False to have its layer groups inferred."
        )
    return WRAPPERS[key](model, granularity)


def select(model: nn.Module, selector: Selector, granularity: Granularity = "block") -> tuple[LayerGroup, ...]:
    """Return the layer groups of a model that a selector trains; see `architectures.selectors.select_groups`."""
    return select_groups(wrap(model, granularity).layer_groups, selector, norm_parameter_names(model))


def registry_key(model: nn.Module) -> str:
    """The registered type that fits a model: its transformers model type, its class name, "timm" or "inferred"."""
    _load_plugins()
    model_type = configured(model, "model_type")
    keys = (key for key in (model_type, type(model).__name__) if isinstance(key, str) and key in WRAPPERS)
    inner = timm_inner(model)
    of_timm = any(cls.__module__.startswith("timm.") for cls in type(inner).__mro__)
    key = next(keys, TIMM if of_timm or callable(getattr(inner, "group_matcher", None)) else INFERRED)
    return key if WRAPPERS[key].fits(model) else INFERRED


def architecture_name(model: nn.Module) -> str:
    """Name of a model's architecture: "timm:NAME", "transformers:MODEL_TYPE" or the class name."""
    if isinstance(timm_name := configured(model, "architecture"), str):
        return f"timm:{timm_name}"
    if isinstance(model_type := configured(model, "model_type"), str):
        return f"transformers:{model_type}"
    timm_name = timm_settings(model).get("architecture")
    return f"timm:{timm_name}" if isinstance(timm_name, str) else type(model).__name__


@cache
def _load_plugins() -> None:
    """Register the wrappers of other distributions, once."""
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            register(entry.name)(entry.load())
        except Exception as error:  # a broken third-party plugin must not take every model down
            logger.warning("The wrapper %r of %s cannot be used: %s", entry.name, entry.value, error)
