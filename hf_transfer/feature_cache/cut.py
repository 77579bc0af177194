"""Cut a model at the freeze boundary: compute what the first trained module gets once, then run only what follows.

No architecture is known here. One pass on the meta device tells in which order modules run. The cut module's inputs
are captured and the pass is stopped there. Later, the modules that finish before the cut return empty tensors of the
right shapes instead of working, and the cut module gets the captured inputs in place of its own. Whether that is the
same function as the whole model is not deduced but measured: see `hf_transfer.feature_cache.check`.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.errors import CutError
from hf_transfer.feature_cache.trace import Leaf, NoBoundary, Trace, leaves_of, pairs
from hf_transfer.utils.modules import device_of

_STUB = "_hf_transfer_stub"


@dataclass(frozen=True)
class Boundary:
    """A place where a model can be cut, if the check agrees.

    Attributes:
        path: The cut module.
        leaves: Leaves of its arguments.
        structure: How they belong together.
        stubs: The largest modules that end before the cut, each with the leaves and structure of each run's result.
        before: Other modules that begin before the cut and are not around it; they keep running.
    """

    path: str
    leaves: tuple[Leaf, ...]
    structure: TreeSpec
    stubs: Mapping[str, tuple[tuple[tuple[Leaf, ...], TreeSpec], ...]]
    before: tuple[str, ...]


@dataclass(frozen=True)
class Captured:
    """What the cut module gets.

    Attributes:
        rows: Tensors with one row for each image; parts of an image that were folded into the batch are unfolded.
        constants: Tensors that are the same for all images.
    """

    rows: tuple[torch.Tensor, ...]
    constants: tuple[torch.Tensor, ...]


def boundaries(
    first: Trace,
    second: Trace,
    groups: Sequence[LayerGroup],
    trained: Sequence[int],
    passive: Collection[str] = (),
) -> Iterator[Boundary]:
    """Places to cut, the latest first: in front of the first trained group, of what is around it, of groups before it.

    Args:
        first: Trace with two images.
        second: Trace with three.
        groups: All layer groups.
        trained: Indices of those that train.
        passive: Modules that do the same whether they train or not, such as pooling: those that a group begins with
            are computed before the cut, since maps are larger than what is pooled of them.

    Raises:
        CutError: There is nothing before the first trained group, or nothing in it was run.
    """
    begins = first.first_in()
    start: dict[int, int] = {}
    for group in groups:
        ran = {begins[m]: m not in passive for path in group.module_names for m in _run_modules(path, begins)}
        if ran:
            start[group.index] = min((at for at, active in ran.items() if active), default=min(ran))
    order = sorted(start, key=lambda index: start[index])
    if missing := [g.name for g in groups if g.index in trained and g.index not in start]:
        raise CutError(f"modules of {', '.join(missing)} do not run, or share a module with other groups")
    earliest = min(order.index(index) for index in trained)
    if not earliest:
        raise CutError("nothing in front of the first trained layer is frozen")
    by_position = {position: name for name, position in begins.items()}
    # A group may begin inside a block whose skip path starts with the block: what is around it is tried, too.
    starts = [by_position[start[order[place]]] for place in range(1, earliest + 1)]
    places = {name for begin in starts for name in (begin, *above(begin)) if name in begins}
    for path in sorted(places, key=lambda name: begins[name], reverse=True):
        with contextlib.suppress(NoBoundary):
            yield boundary(first, second, path)


def _run_modules(path: str, begins: Mapping[str, int]) -> list[str]:
    """The module itself, or, where it is a mere list of others, those in it that run."""
    return [path] if path in begins else [name for name in begins if name.startswith(f"{path}.")]


def passive_modules(model: nn.Module) -> set[str]:
    """Paths of the modules without parameters and buffers that do the same in training and in eval mode."""
    return {
        name
        for name, module in model.named_modules()
        if not any(True for _ in (*module.parameters(), *module.buffers()))
        and not any("drop" in type(inner).__name__.lower() for inner in module.modules())
    }


def boundary(first: Trace, second: Trace, path: str) -> Boundary:
    """The boundary in front of one module."""
    begins, ends = first.first_in(), first.last_out()
    at = begins[path]
    early = {name for name, position in ends.items() if position < at}
    maximal = [name for name in early if not any(outer in early for outer in above(name))]
    before = [n for n, position in begins.items() if position < at and n not in early and n not in above(path)]
    stubs = {name: tuple(pairs(first.outputs[name], second.outputs[name])) for name in maximal}
    leaves, structure = leaves_of(first.inputs[path], second.inputs[path])
    if not maximal or not any(leaf.is_rows for leaf in leaves):
        raise NoBoundary(f"nothing ends in front of {path}, or it gets nothing for each image")
    return Boundary(path, leaves, structure, stubs, tuple(before))


class Cut:
    """A model that is cut at a boundary.

    Args:
        model: Not wrapped for several processes.
        boundary: Where.
        materialise: Let stubs return real memory, for models that write into it.

    Attributes:
        seconds: Seconds of the part before the cut and of the whole model, for one image, as the check measured them.
    """

    def __init__(self, model: nn.Module, boundary: Boundary, materialise: bool = False) -> None:
        self.model = model
        self.boundary = boundary
        self.materialise = materialise
        self._modules = dict(model.named_modules())
        self._handles: list[Any] = []
        self.seconds = (0.0, 0.0)
        self._fed: tuple[Any, Any] | None = None
        self._images = 0
        self._runs: dict[str, int] = {}

    def capture(self, images: torch.Tensor) -> Captured:
        """Run the model up to the cut.

        Args:
            images: `(batch, channels, height, width)`, on the model's device.

        Raises:
            CutError: The cut module is not reached, or gets other things than in the trace.
        """
        box: list[Any] = []

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            box.append((args, kwargs))
            raise _Stop

        handle = self._modules[self.boundary.path].register_forward_pre_hook(hook, with_kwargs=True)
        try:
            with contextlib.suppress(_Stop):
                self.model(images)
        finally:
            handle.remove()
        if not box:
            raise CutError(f"{self.boundary.path} is not reached")
        values, structure = tree_flatten(box[0])
        leaves = self.boundary.leaves
        if structure != self.boundary.structure or not all(map(_fits, leaves, values, [len(images)] * len(leaves))):
            raise CutError(f"{self.boundary.path} gets other arguments than in the trace")
        tensors = [(leaf, value) for leaf, value in zip(leaves, values, strict=True) if leaf.shape is not None]
        rows = [v if leaf.factor == 1 else v.unflatten(0, (-1, leaf.factor)) for leaf, v in tensors if leaf.is_rows]
        return Captured(tuple(rows), tuple(v for leaf, v in tensors if not leaf.is_rows))

    @contextlib.contextmanager
    def installed(self, unpack: Callable[[torch.Tensor], Captured | None], image: torch.Tensor) -> Iterator[None]:
        """Let the model take packed rows in place of images while the context lasts; images still go the whole way.

        Args:
            unpack: Gives the captured rows of a packed batch; None for a batch of images.
            image: A tensor of the shape and type of one image; what containers read of it is never used.
        """
        self.install(unpack, image)
        try:
            yield
        finally:
            self.remove()

    def install(self, unpack: Callable[[torch.Tensor], Captured | None], image: torch.Tensor) -> None:
        """See `installed`."""
        for name in self.boundary.stubs:
            module = self._modules[name]
            module.__dict__[_STUB] = (self, name, vars(module).get("forward"))
            module.forward = types.MethodType(_stub_forward, module)

        def feed(module: nn.Module, args: Any, kwargs: Any) -> Any:
            for key, value in (*enumerate(args), *kwargs.items()):
                captured = unpack(value) if isinstance(value, torch.Tensor) else None
                if captured is None:
                    continue
                self._images = len(captured.rows[0])
                self._fed = self._arguments(captured)
                self._runs.clear()
                blank = torch.zeros((), dtype=image.dtype, device=value.device).expand(self._images, *image.shape)
                if isinstance(key, str):
                    return args, kwargs | {key: blank}
                return (*args[:key], blank, *args[key + 1 :]), kwargs
            return None

        def forget(module: nn.Module, args: Any, output: Any) -> None:
            self._fed = None

        cut_module = self._modules[self.boundary.path]
        self._handles = [
            self.model.register_forward_pre_hook(feed, with_kwargs=True),
            self.model.register_forward_hook(forget, always_call=True),
            cut_module.register_forward_pre_hook(lambda *_: self._fed, prepend=True, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Give the model back as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._fed = None
        for name in self.boundary.stubs:
            module = self._modules[name]
            _, _, own = module.__dict__.pop(_STUB, (None, None, None))
            module.__dict__.pop("forward", None)
            if own is not None:
                module.forward = own

    def _arguments(self, captured: Captured) -> Any:
        """The cut module's arguments."""
        rows, constants = iter(captured.rows), iter(captured.constants)
        values = []
        for leaf in self.boundary.leaves:
            if leaf.shape is None:
                values.append(leaf.value * self._images if leaf.grows else leaf.value)
            elif leaf.is_rows:
                row = next(rows)
                values.append(row if leaf.factor == 1 else row.flatten(0, 1))
            else:
                values.append(next(constants))
        return tree_unflatten(values, self.boundary.structure)

    def stub_output(self, name: str) -> Any:
        """What a module before the cut returns while packed rows are fed; None while images are."""
        if self._fed is None:
            return None
        runs = self.boundary.stubs[name]
        number = self._runs[name] = self._runs.get(name, -1) + 1
        leaves, structure = runs[min(number, len(runs) - 1)]
        device = device_of(self.model)
        return tree_unflatten([self._blank(leaf, device) for leaf in leaves], structure)

    def _blank(self, leaf: Leaf, device: torch.device) -> Any:
        if leaf.shape is None:
            return leaf.value * self._images if leaf.grows else leaf.value
        if self.materialise:
            return torch.zeros(leaf.sized(self._images), dtype=leaf.dtype, device=device)
        return torch.zeros((), dtype=leaf.dtype, device=device).expand(leaf.sized(self._images))


class _Stop(Exception):
    """Ends a forward pass at the cut."""


def _stub_forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Stand-in for the `forward` of a module before the cut; a method: deep copies have their own."""
    cut, name, own = vars(module)[_STUB]
    output = cut.stub_output(name)
    if output is not None:
        return output
    return own(*args, **kwargs) if own is not None else type(module).forward(module, *args, **kwargs)


def _fits(leaf: Leaf, value: Any, images: int) -> bool:
    if leaf.shape is None:
        return not isinstance(value, torch.Tensor)
    return isinstance(value, torch.Tensor) and tuple(value.shape) == leaf.sized(images)


def above(name: str) -> list[str]:
    """Paths of the modules around a module, the model itself excepted."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]
