"""The table of model wrappers by model type; `lookup` fills it and finds the one that fits a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hf_transfer.architectures.wrapper import ModelWrapper
from hf_transfer.errors import ArgumentError

TIMM = "timm"
TIMM_WRAPPER = "timm_wrapper"
INFERRED = "inferred"
WrapperClass = TypeVar("WrapperClass", bound=type[ModelWrapper])
WRAPPERS: dict[str, type[ModelWrapper]] = {}


def register(*model_types: str, replace: bool = False) -> Callable[[WrapperClass], WrapperClass]:
    """Class decorator behind `lookup.register_wrapper`, which see; the built-in wrappers use this one."""
    if not model_types or not all(isinstance(name, str) and name for name in model_types):
        raise ArgumentError('register_wrapper needs the model type, as in @register_wrapper("my_model_type").')

    def decorate(wrapper: WrapperClass) -> WrapperClass:
        if not (isinstance(wrapper, type) and issubclass(wrapper, ModelWrapper)):
            raise ArgumentError(f"register_wrapper decorates a subclass of ModelWrapper, found {wrapper!r}.")
        doubled = [name for name in model_types if WRAPPERS.get(name, wrapper) is not wrapper]
        if doubled and not replace:
            raise ArgumentError(f"Already registered: {', '.join(doubled)}. Pass replace=True to replace.")
        WRAPPERS.update(dict.fromkeys(model_types, wrapper))
        return wrapper

    return decorate
