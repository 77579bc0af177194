"""Layer groups of unknown models, inferred by a dry run.

One forward pass with hooks shows in which order the parts of the model run. Lists of modules are the blocks; the
layers with as many outputs as there are labels, or the last layer that runs, are the head.
"""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hf_transfer.architectures.classifier import classifier_paths, inferred_classifier_paths
from hf_transfer.architectures.layer_groups import Role
from hf_transfer.architectures.norms import norm_modules
from hf_transfer.architectures.registry import INFERRED, register
from hf_transfer.architectures.wrapper import GroupDraft, ModelWrapper
from hf_transfer.utils.foreign import configured, timm_inner, timm_settings
from hf_transfer.utils.modules import is_inside

logger = logging.getLogger(__name__)

_COMMON_IMAGE_SIZES = (224, 32, 64, 28)
# A model is wrapped many times in a run, but its table is shown once.
_SHOWN: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@register(INFERRED)
class InferredWrapper(ModelWrapper):
    """Layer groups guessed from the module tree and the order of execution; warns with the table, once per model."""

    source = "inferred"

    def draft_groups(self) -> list[GroupDraft]:
        units = list(_units(self.model, self.granularity))
        order = _execution_order(self.model)
        if order is not None:
            units.sort(key=lambda unit: min((rank for m, rank in order.items() if is_inside(m, (unit,))), default=-1))
        drafts = _merge_norms(self.model, _drafts(self.model, units, _head_paths(self.model, units)))
        self._warn(drafts, ran=order is not None)
        return drafts

    def _warn(self, drafts: list[GroupDraft], ran: bool) -> None:
        if self.model in _SHOWN:
            return
        _SHOWN.add(self.model)
        name = type(self.model).__name__
        if not ran:
            logger.warning(
                "%s could not be run on a blank image; its layers are taken in the order of their definition.", name
            )
        rows = "\n".join(
            f"  {i:3d} {d.role:6s} {d.name}" for i, d in enumerate(d for d in drafts if d.parameter_names)
        )
        logger.warning(
            "No wrapper is registered for %s; its layer groups were inferred. Check them, or register a wrapper:\n%s",
            name,
            rows,
        )


def _units(model: nn.Module, granularity: str, name: str = "") -> Iterator[str]:
    """Descend to the children of module lists; a list of composite modules inside a list is a stage."""
    for child_name, child in model.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if next(child.parameters(), None) is None:
            continue
        inside_list = isinstance(model, nn.ModuleList | nn.Sequential)
        if _has_block_list(child) and not (inside_list and granularity == "stage"):
            yield from _units(child, granularity, path)
        else:
            yield path


def _has_block_list(module: nn.Module) -> bool:
    """Whether the module is, or holds, a list of blocks: several composite modules, or a plain sequence of layers."""
    if isinstance(module, nn.ModuleList | nn.Sequential):
        trained = [child for child in module if next(child.parameters(), None) is not None]
        composite = [child for child in trained if next(child.children(), None) is not None]
        same_class = {type(child) for child in composite}
        if len(trained) > 1 and (len(same_class) == 1 or isinstance(module, nn.Sequential) and len(trained) > 3):
            return True
    return any(_has_block_list(child) for child in module.children())


def _execution_order(model: nn.Module) -> dict[str, int] | None:
    """Rank of each module's first run in a forward pass on a blank image, or None where no pass succeeds.

    The pass runs on a copy that shares the parameters: hooks, modes, buffers and caches of the model stay untouched.
    """
    try:
        twin = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()}).eval()
    except Exception as error:  # a module may hold what cannot be copied, such as an open file
        logger.debug("No dry run of %s, it cannot be copied: %s", type(model).__name__, error)
        return None
    order: dict[str, int] = {}

    def note(name: str) -> None:
        order.setdefault(name, len(order))

    for name, module in twin.named_modules():
        module.register_forward_pre_hook(lambda _module, _args, name=name: note(name))
    for inputs in _blank_inputs(twin):
        order.clear()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                twin(inputs)
        except Exception as error:  # any failure of a foreign forward pass only means: try the next size
            logger.debug("No dry run of %s with input %s: %s", type(model).__name__, tuple(inputs.shape), error)
        else:
            return order if len(order) > 1 else None
    return None


def _blank_inputs(model: nn.Module) -> Iterator[torch.Tensor]:
    """One blank image of each shape that the model may take: its own first, then common ones."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return
    settings: Any = timm_settings(timm_inner(model))
    timm_channels, *timm_size = settings.get("input_size") or (None,)
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    first_channels = convolution.in_channels if convolution is not None else None
    sizes: tuple[Any, ...] = (configured(model, "image_size"), timm_size, *_COMMON_IMAGE_SIZES)
    for channels in dict.fromkeys((configured(model, "num_channels"), timm_channels, first_channels, 3, 1)):
        for size in sizes:
            height_width = (size, size) if isinstance(size, int) else size
            if isinstance(channels, int) and isinstance(height_width, list | tuple) and len(height_width) == 2:
                yield torch.zeros(1, channels, *height_width, device=parameter.device, dtype=parameter.dtype)


def _head_paths(model: nn.Module, units: list[str]) -> tuple[str, ...]:
    """The classifier that timm declares, or else the one that the last layers suggest."""
    inner: Any = timm_inner(model)
    declared = tuple(path if inner is model else f"timm_model.{path}" for path in classifier_paths(inner))
    holds_parameters = any(is_inside(name, declared) for name, _ in model.named_parameters())
    return declared if holds_parameters else inferred_classifier_paths(model, units)


def _drafts(model: nn.Module, units: list[str], head_paths: tuple[str, ...]) -> list[GroupDraft]:
    """One group per unit, the roles by position: before, between and behind the blocks, which are numbered units."""
    names = [name for name, _ in model.named_parameters()]
    ends: dict[Role, GroupDraft] = {role: GroupDraft(role, role) for role in ("stem", "neck", "head")}
    ends["head"].parameter_names.extend(name for name in names if is_inside(name, head_paths))
    body = [name for name in names if not is_inside(name, head_paths)]
    units = [unit for unit in units if any(is_inside(name, (unit,)) for name in body)]
    behind = [unit for unit in units if any(is_inside(path, (unit,)) for path in head_paths)]
    blocks = [i for i, unit in enumerate(units) if unit.rsplit(".", 1)[-1].isdigit() and unit not in behind]
    first, last = (blocks[0], blocks[-1]) if blocks else (1, len(units))
    of_unit: dict[str, GroupDraft] = {}
    for position, unit in enumerate(units):
        role: Role = "block"
        if position < first:
            role = "stem"
        elif position > last or unit in behind:
            role = "neck"
        of_unit[unit] = ends[role] if role != "block" else GroupDraft(unit, "block")
    for name in body:
        home = next((unit for unit in units if is_inside(name, (unit,))), None) or _first_inside(name, units)
        draft = of_unit[home] if home else ends["stem"]
        draft.parameter_names.append(name)
    return [ends["stem"], *(d for d in of_unit.values() if d.role == "block"), ends["neck"], ends["head"]]


def _first_inside(name: str, units: list[str]) -> str | None:
    """The first unit of the stage that holds this parameter itself, such as a token; None outside numbered stages."""
    stage = name.rpartition(".")[0]
    numbered = any(part.isdigit() for part in stage.split("."))
    return next((unit for unit in units if is_inside(unit, (stage,))), None) if numbered else None


def _merge_norms(model: nn.Module, drafts: list[GroupDraft]) -> list[GroupDraft]:
    """Join a norm layer that stands alone between blocks to the layer whose output it normalises."""
    norms = {name for name, _ in norm_modules(model)}
    merged: list[GroupDraft] = []
    for draft in drafts:
        if draft.role == "block" and draft.name in norms and merged and merged[-1].role in ("stem", "block"):
            merged[-1].parameter_names.extend(draft.parameter_names)
        else:
            merged.append(draft)
    return merged
