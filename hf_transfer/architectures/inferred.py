"""Layer groups of unknown models, inferred by a dry run.

One forward pass with hooks shows in which order the parts of the model run. Lists of modules are the blocks; the last
module that runs, or the one that has as many outputs as there are labels, is the head.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hf_transfer.errors import TransferError
from hf_transfer.layers import Role
from hf_transfer.registry import INFERRED, GroupDraft, ModelWrapper, norm_modules, register_wrapper

logger = logging.getLogger(__name__)

_COMMON_IMAGE_SIZES = (224, 32, 64, 28)


@register_wrapper(INFERRED)
class InferredWrapper(ModelWrapper):
    """Layer groups guessed from the module tree and the order of execution; warns with the table."""

    source = "inferred"

    def draft_groups(self) -> list[GroupDraft]:
        units = list(_units(self.model, self.granularity))
        order = _execution_order(self.model)
        if order is None:
            logger.warning(
                "%s could not be run on a blank image; its layers are taken in the order of their definition.",
                type(self.model).__name__,
            )
        else:
            units.sort(key=lambda unit: min((order[m] for m in _below(self.model, unit) if m in order), default=-1))
        drafts = _merge_norms(self.model, _drafts(self.model, units))
        rows = "\n".join(f"  {i:3d} {d.role:6s} {d.name}" for i, d in enumerate(drafts) if d.parameter_names)
        logger.warning(
            "No wrapper is registered for %s; its layer groups were inferred. Check them, or register a wrapper:\n%s",
            type(self.model).__name__,
            rows,
        )
        return drafts


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
    """Rank of each module's first run in a forward pass on a blank image, or None where no pass succeeds."""
    for inputs in _blank_inputs(model):
        order: dict[str, int] = {}

        def note(name: str, order: dict[str, int] = order) -> None:
            order.setdefault(name, len(order))

        hooks = [
            module.register_forward_pre_hook(lambda _m, _a, name=name, note=note: note(name))
            for name, module in model.named_modules()
        ]
        modes = [(module, module.training) for module in model.modules()]
        try:
            with torch.inference_mode():
                model.eval()
                model(inputs)
            return order
        except TransferError:
            raise
        except Exception as error:  # any failure of a foreign forward pass only means: try the next size
            logger.debug("No dry run of %s with input %s: %s", type(model).__name__, tuple(inputs.shape), error)
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in modes:
                module.training = mode
    return None


def _blank_inputs(model: nn.Module) -> Iterator[torch.Tensor]:
    config = getattr(model, "config", None)
    parameter = next(model.parameters())
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = convolution.in_channels * 1 if convolution is not None else 3
    known = getattr(config, "image_size", None)
    sizes: tuple[Any, ...] = (known, *_COMMON_IMAGE_SIZES) if isinstance(known, int) else _COMMON_IMAGE_SIZES
    for size in sizes:
        yield torch.zeros(1, channels, size, size, device=parameter.device, dtype=parameter.dtype)


def _below(model: nn.Module, unit: str) -> list[str]:
    return [name for name, _ in model.named_modules() if name == unit or name.startswith(f"{unit}.")]


def _drafts(model: nn.Module, units: list[str]) -> list[GroupDraft]:
    names = [name for name, _ in model.named_parameters()]
    head_unit = _head_unit(model, units)
    lists = {unit for unit in units if unit.rsplit(".", 1)[-1].isdigit()}
    blocks = [i for i, unit in enumerate(units) if unit in lists and unit != head_unit]
    first, last = (blocks[0], blocks[-1]) if blocks else (1, len(units))
    drafts = {
        "stem": GroupDraft("stem", "stem"),
        "neck": GroupDraft("neck", "neck"),
        "head": GroupDraft("head", "head"),
    }
    ordered: list[GroupDraft] = []
    claimed: set[str] = set()
    for position, unit in enumerate(units):
        role: Role = "block"
        if unit == head_unit:
            role = "head"
        elif position < first:
            role = "stem"
        elif position > last:
            role = "neck"
        draft = drafts[role] if role != "block" else GroupDraft(unit, "block")
        if role == "block":
            ordered.append(draft)
        members = [name for name in names if name.startswith(f"{unit}.")]
        draft.parameter_names.extend(members)
        claimed.update(members)
    drafts["stem"].parameter_names[:0] = [name for name in names if name not in claimed]
    return [drafts["stem"], *ordered, drafts["neck"], drafts["head"]]


def _head_unit(model: nn.Module, units: list[str]) -> str | None:
    """The last unit, unless another one of the last three alone has as many outputs as there are labels."""
    if not units:
        return None
    labels = getattr(getattr(model, "config", None), "num_labels", None) or getattr(model, "num_classes", None)
    modules = dict(model.named_modules())
    for unit in reversed(units[-3:]):
        linear = [m for m in modules[unit].modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        outputs = getattr(linear[-1], "out_features", None) or getattr(linear[-1], "out_channels", 0) if linear else 0
        if labels and outputs == labels:
            return unit
    return units[-1]


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
