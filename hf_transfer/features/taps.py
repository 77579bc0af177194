"""Taps: pooled activations of a model's layer groups, and exactly what its head gets, in one forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.lookup import wrap
from hf_transfer.architectures.wrapper import ModelWrapper
from hf_transfer.errors import ArgumentError, ModelError
from hf_transfer.utils.foreign import timm_inner
from hf_transfer.utils.modules import is_inside

LAST = "last"
Layers = Literal["all", "last"] | Sequence[str]


class PassStopped(Exception):
    """Ends a forward pass early; raised and caught by hooks' owners alone."""


class TapReader:
    """Read pooled activations from a model; a context manager that sets hooks and takes them away.

    Args:
        model: Not wrapped for several processes. Its mode is left as it is.
        layers: "last" for what the head gets; "all" for that and each group before the head; or names of groups,
            "last" among them.

    Raises:
        ArgumentError: A name is not that of a group.
        LayerGroupError: "last" is wanted of a model without a head.

    Attributes:
        names: The layers, in the order of the forward pass, "last" at the end.
        wrapper: The wrapper of the model.
        folded: Whether the latest images had activations with parts of images folded into the batch.
    """

    def __init__(self, model: nn.Module, layers: Layers = LAST) -> None:
        self.model = model
        self.wrapper = wrapper = wrap(model)
        self._modules = dict(model.named_modules())
        self.names = _names(wrapper, layers)
        self._tapped: dict[str, str] = {}
        for group in wrapper.layer_groups:
            if group.name in self.names:
                self._tapped.update(dict.fromkeys(_modules_with_parameters(self._modules, group), group.name))
        self._entries = _head_entries(self._modules, wrapper.head) if LAST in self.names else {}
        self._channels_last = _has_channels_last(model)
        self._seen: dict[str, torch.Tensor] = {}
        self._head: dict[str, torch.Tensor] = {}
        self._handles: list[Any] = []
        self._events = 0
        self._needed: int | None = None
        self.folded = False

    def __enter__(self) -> TapReader:
        for path, group in self._tapped.items():
            self._handles.append(self._modules[path].register_forward_hook(self._output_hook(group)))
        for path, branch in self._entries.items():
            hook = self._head_hook(branch)
            self._handles.append(self._modules[path].register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def read(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the model as far as needed.

        Args:
            images: `(batch, channels, height, width)`, on the model's device.

        Returns:
            For each layer, in the order of the groups and "last" at the end, float32 `(batch, channels)`.

        Raises:
            ModelError: A layer gave no activations of these images.
        """
        self._seen.clear()
        self._head.clear()
        self._events = 0
        with contextlib.suppress(PassStopped):
            self.model(images)
        self._needed = self._events
        self.folded = any(len(tensor) != len(images) for tensor in self._seen.values())
        found = {}
        for name in self.names:
            if name == LAST:
                parts = [head_features(value, len(images)) for value in self._head.values()]
                value = torch.cat(parts, dim=1) if parts else None
            else:
                tapped = self._seen.get(name)
                value = None if tapped is None else pool(tapped, len(images), self._channels_last)
            if value is None:
                raise ModelError(
                    f"The layer {name!r} of {type(self.model).__name__} gave no activations in a forward pass. Choose "
                    f"other layers than {', '.join(self.names)}."
                )
            found[name] = value.float()
        return found

    def _output_hook(self, group: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                self._seen[group] = tensor
                self._count()

        return hook

    def _head_hook(self, branch: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if branch in self._head:
                return
            tensor = first_tensor((args, kwargs))
            if tensor is not None:
                self._head[branch] = tensor
                self._count()

        return hook

    def _count(self) -> None:
        """Count what was seen; stop the pass where an earlier one had all that is wanted."""
        self._events += 1
        if self._events == self._needed:
            raise PassStopped


def pool(activations: torch.Tensor, images: int, channels_last: bool = False) -> torch.Tensor:
    """Mean over all positions, the class token's among them.

    The mean and not the class token, which has gathered little before the last blocks, and which not every model has;
    the head's own choice is in the layer "last".

    Args:
        activations: `(batch, channels, height, width)`, `(batch, height, width, channels)`, `(batch, tokens,
            channels)` or `(batch, channels)`, where the batch may be a multiple of the number of images whose parts
            were folded into it.
        images: Number of images.
        channels_last: The last dimension of a map holds the channels; else it is taken to do so where only the two
            before it are equal.

    Returns:
        `(images, channels)`.
    """
    if activations.ndim < 2 or activations.shape[0] % images:
        raise ModelError(f"Activations of shape {tuple(activations.shape)} cannot be those of {images} images.")
    parts = activations.float().reshape(images, -1, *activations.shape[1:])
    if activations.ndim == 4:
        _, first, second, third = activations.shape
        if channels_last or (first == second != third):
            return parts.mean(dim=(1, 2, 3))
        return parts.mean(dim=(1, 3, 4))
    return parts.mean(dim=tuple(range(1, parts.ndim - 1)))


def head_features(value: torch.Tensor, images: int) -> torch.Tensor:
    """What a head gets, as `(images, channels)`: maps of one pixel are flattened, others pooled."""
    if value.ndim == 4 and value.shape[0] == images and value.shape[2:] == (1, 1):
        return value.flatten(1)
    return value if value.ndim == 2 and len(value) == images else pool(value, images)


def first_tensor(output: Any) -> torch.Tensor | None:
    """The first floating-point tensor in a module's inputs or outputs."""
    leaves = tree_leaves(output)
    return next((leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()), None)


def head_branches(wrapper: ModelWrapper) -> tuple[str, ...]:
    """Paths of the modules of the head that have parameters; more than one where a model has several classifiers."""
    return _modules_with_parameters(dict(wrapper.model.named_modules()), wrapper.head)


def _names(wrapper: ModelWrapper, layers: Layers) -> tuple[str, ...]:
    modules = dict(wrapper.model.named_modules())
    body = [
        g.name for g in wrapper.layer_groups if g.role not in ("tail", "head") and _modules_with_parameters(modules, g)
    ]
    known = (*body, *([LAST] if any(g.role == "head" for g in wrapper.layer_groups) else []))
    if layers == "all":
        return known
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if wanted == [LAST]:
        assert wrapper.head
        return (LAST,)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ArgumentError(f'Layers are "all", "last" or names of {", ".join(known)}; found {layers!r}.')
    return tuple(name for name in known if name in wanted)


def _modules_with_parameters(modules: Mapping[str, nn.Module], group: LayerGroup) -> tuple[str, ...]:
    return tuple(path for path in group.module_names if next(modules[path].parameters(), None) is not None)


def _head_entries(modules: Mapping[str, nn.Module], head: LayerGroup) -> dict[str, str]:
    """The modules that hold the head's parameters themselves, each with the branch of the head that it is in."""
    branches = _modules_with_parameters(modules, head)
    holders = dict.fromkeys(name.rpartition(".")[0] for name in head.parameter_names)
    return {path: next((b for b in branches if is_inside(path, (b,))), path) for path in holders}


def _has_channels_last(model: nn.Module) -> bool:
    inner: Any = timm_inner(model)
    return str(getattr(inner, "output_fmt", "")).endswith("NHWC")
