"""Smaller models: the layers up to a group, under a configuration that says so, with a new head.

A truncated model is an ordinary checkpoint of the same class. What its head sees is what its own forward pass makes of
the kept layers:

- The output of the last kept block is that of the full model, which is checked by running both.
- The final norm is kept where it fits: the full model's norm then works on an earlier layer's output. Where an earlier
  stage has another width, the norm is new (scale 1, shift 0, and for BatchNorm fresh statistics).
- What the full model does at the end of a stage to enter the next one, such as Swin's patch merging, is left out.
- Pooling is that of the class: the class token of a ViT, the mean of a ResNet.
- Where no configuration says how many blocks there are, later blocks may be able to pass their input through; see
  `hf_transfer.models.pass_through`.

A classifier for a truncated model must therefore be trained on the features of the truncated model, and not on those
that a hook finds in the full one.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate, groupby
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedModel

from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.lookup import architecture_name, wrap
from hf_transfer.architectures.norms import norm_parameter_names
from hf_transfer.architectures.selectors import select_groups
from hf_transfer.errors import LayerGroupError, TruncationError
from hf_transfer.models.channels import num_channels
from hf_transfer.models.heads import head_tensors
from hf_transfer.models.image_size import native_image_size
from hf_transfer.models.pass_through import end_after, passing_points
from hf_transfer.models.rebuilding import remake, transplant, vision_config
from hf_transfer.models.timm_interop import is_timm_model, timm_arguments
from hf_transfer.utils.foreign import stated
from hf_transfer.utils.modules import eval_mode

logger = logging.getLogger(__name__)

# From the number of kept blocks to the changes of the configuration.
Rule = Callable[[int], dict[str, Any]]
# What configurations and classes raise on numbers of layers that they were not written for.
_FAILURES = (
    *(RuntimeError, ValueError, AssertionError, IndexError, TypeError, AttributeError, KeyError, ArithmeticError),
    *(StrictDataclassError, StopIteration),
)
_FLAT_FIELDS = ("num_hidden_layers", "n_layer")
_STAGED_FIELDS = ("stage_num_blocks", "depths", "depth")
_STAGE_COUNTS = ("num_stages", "num_encoder_blocks")
# Lists of numbers that are not one for each stage.
_NO_STAGES = {"image_size", "patch_size", "patch_stride", "patch_padding", "query_stride", "masked_unit_size"}
# The order of Hiera's tokens in its first stages depends on how many stages follow.
_LAST_STAGE_ONLY = {"hiera"}
_TIMM_FLAT = ("depth", "num_blocks")
_TIMM_STAGED = ("depths", "layers", "depth", "stages")


def truncation_points(model: nn.Module) -> tuple[str, ...]:
    """Names of the layer groups after which a model can be truncated, from input to output.

    Found on the meta device, from the first and the last cut of each stage: no weights are made or read.

    Args:
        model: A model of transformers or timm; may be on the meta device itself.

    Returns:
        Empty where the configuration cannot express any cut. The last block, after which nothing is cut but the head
        is new, is among them.
    """
    blocks = _blocks(model)
    rule = _rule(model, blocks)
    if rule is None:
        return passing_points(model, blocks)
    fits = cache(lambda position: _fault(model, blocks, position, rule) is None)
    points: list[int] = []
    for stage in _stages(model, blocks):
        # After the very last block nothing is cut, which says nothing of the blocks before it.
        inside = [position for position in stage if position < len(blocks) - 1]
        same = all(fits(position) for position in inside[:1] + inside[-1:])
        points += inside if same else filter(fits, inside)
        points += filter(fits, stage[len(inside) :])
    return tuple(blocks[position].name for position in points)


def truncate(model: nn.Module, after: str | int, *, seed: int = 42) -> nn.Module:
    """Make the smaller model that ends after a layer group.

    Args:
        model: A classifier of transformers, or of timm, bare or in transformers' wrapper; stays as it is.
        after: Name or index of a group of `wrap(model)`, or the unique end of its name.
        seed: Seed for the new head's weights; the global random state is left as it was.

    Returns:
        A model of the same class, whose kept weights are the same bit for bit, with a new head for the same labels.
        Once saved, `from_pretrained`, or `timm.create_model("local-dir:...")` for timm, loads it without hf_transfer.

    Raises:
        TruncationError: The configuration cannot express this cut; names the nearest group after which it can.
        SelectorError: There is no such group; lists those that exist.
    """
    group = select_groups(wrap(model).layer_groups, f"only:{after}")[0]
    blocks = _blocks(model)
    rule = _rule(model, blocks)
    if rule is None and not passing_points(model, blocks):
        raise TruncationError(
            f"{architecture_name(model)} cannot be truncated: no field of its configuration says how many blocks it "
            "has. Use the whole model, or one of another architecture."
        )
    if group not in blocks:
        raise _refusal(model, group, f"it is no block but the {group.role}")
    if rule is None:
        try:
            return end_after(model, group, blocks, seed)
        except TruncationError as error:
            raise _refusal(model, group, str(error)) from error
    position = blocks.index(group)
    if (fault := _fault(model, blocks, position, rule)) is not None:
        raise _refusal(model, group, fault)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        smaller = remake(model, rule(position + 1)).to(next(model.parameters()).device)
    transplant(model, smaller, new=head_tensors(smaller))
    _check_same_output(model, smaller, group)
    return smaller


def _refusal(model: nn.Module, group: LayerGroup, reason: str) -> TruncationError:
    index = {each.name: each.index for each in wrap(model).layer_groups}
    points = truncation_points(model)
    nearest = min(points, key=lambda name: (abs(index[name] - group.index), index[name]), default=None)
    hint = (
        f"The nearest group after which it can is {nearest!r}." if nearest else "It can after no other group, either."
    )
    return TruncationError(f"{architecture_name(model)} cannot be truncated after {group.name!r}: {reason}. {hint}")


def _blocks(model: nn.Module) -> list[LayerGroup]:
    """The numbered blocks; groups between them, such as the entry of a stage, belong to the block that follows."""
    return [g for g in wrap(model).layer_groups if g.role == "block" and g.name.rpartition(".")[2].isdigit()]


def _stages(model: nn.Module, blocks: Sequence[LayerGroup]) -> list[list[int]]:
    """Positions of the blocks, stage by stage."""
    depths = None if is_timm_model(model) else _staged_field(vision_config(model), len(blocks))
    if depths is None:
        runs = [
            list(run) for _, run in groupby(range(len(blocks)), key=lambda position: _stage(blocks[position].name))
        ]
        return runs if max(map(len, runs), default=0) > 1 else [list(range(len(blocks)))] if blocks else []
    ends = list(accumulate(depths[1]))
    return [list(range(end - depth, end)) for depth, end in zip(depths[1], ends, strict=True) if depth]


def _stage(name: str) -> str:
    """A name up to its first number: "layers.1" of "layers.1.blocks.0"; in a flat list the block's own name."""
    found = re.match(r".*?\d+(?=\.|$)", name)
    return found[0] if found else name


def _rule(model: nn.Module, blocks: Sequence[LayerGroup]) -> Rule | None:
    if not blocks:
        return None
    if is_timm_model(model):
        return _timm_rule(model, blocks)
    return _transformers_rule(vision_config(model), len(blocks)) if isinstance(model, PreTrainedModel) else None


def _transformers_rule(config: Any, blocks: int) -> Rule | None:
    staged = _staged_field(config, blocks)
    flat = next((name for name, value in stated(config, _FLAT_FIELDS).items() if value == blocks), None)
    if staged is not None:
        field, depths = staged
        return lambda kept: _stage_changes(config, field, depths, kept) | _drop_path(_declared(config), blocks, kept)
    if flat is not None:
        return lambda kept: {flat: kept} | _drop_path(_declared(config), blocks, kept)
    return None


def _declared(config: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else ()
    return stated(config, names)


def _staged_field(config: Any, blocks: int) -> tuple[str, list[int]] | None:
    """The field with the number of blocks in each stage."""
    for name in _STAGED_FIELDS:
        value = getattr(config, name, None)
        if isinstance(value, list | tuple) and all(isinstance(n, int) for n in value) and sum(value) == blocks:
            return name, list(value)
    return None


def _cut(depths: Sequence[int], kept: int) -> list[int]:
    """Blocks in each stage when only the first ones are kept."""
    before = [end - depth for depth, end in zip(depths, accumulate(depths), strict=True)]
    return [min(depth, kept - start) for depth, start in zip(depths, before, strict=True) if start < kept]


def _stage_changes(config: Any, field: str, depths: list[int], kept: int) -> dict[str, Any]:
    left = _cut(depths, kept)
    changes: dict[str, Any] = {}
    if len(left) < len(depths):
        if config.model_type in _LAST_STAGE_ONLY:
            raise TruncationError("the order of its tokens in the first stages depends on how many stages follow")
        for name, value in _declared(config).items():
            numbers = isinstance(value, list | tuple) and len(value) == len(depths) and name not in _NO_STAGES
            if numbers and not name.startswith("_"):
                changes[name] = value[: len(left)]
            elif name in _STAGE_COUNTS and value == len(depths):
                changes[name] = len(left)
    return changes | {field: type(getattr(config, field))(left)}


def _drop_path(settings: Mapping[str, Any], blocks: int, kept: int) -> dict[str, Any]:
    """Stochastic depth grows linearly over the blocks; each kept block keeps its rate."""
    rate = settings.get("drop_path_rate")
    if not isinstance(rate, float) or rate == 0 or blocks < 2:
        return {}
    return {"drop_path_rate": rate * (kept - 1) / (blocks - 1)}


def _timm_rule(model: nn.Module, blocks: Sequence[LayerGroup]) -> Rule | None:
    """Found by trial: the argument with which timm makes the same model again."""
    depths = [len(stage) for stage in _stages(model, blocks)]
    arguments = timm_arguments(model)
    flat: list[tuple[str, Any]] = [(name, depths[0]) for name in _TIMM_FLAT] if len(depths) == 1 else []
    wanted = _shapes(model)
    for name, value in flat + [(name, tuple(depths)) for name in _TIMM_STAGED]:
        try:
            if _shapes(remake(model, {name: value}, "meta")) != wanted:
                continue
        except _FAILURES:
            continue

        def rule(kept: int, name: str = name, whole: Any = value) -> dict[str, Any]:
            cut = kept if isinstance(whole, int) else tuple(_cut(whole, kept))
            return {name: cut} | _drop_path(arguments, len(blocks), kept)

        # An argument that is taken but changes nothing says nothing.
        try:
            if sum(depths) == 1 or _shapes(remake(model, rule(sum(depths) - 1), "meta")) != wanted:
                return rule
        except _FAILURES:
            continue
    return None


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _fault(model: nn.Module, blocks: Sequence[LayerGroup], position: int, rule: Rule) -> str | None:
    """Why a cut cannot be expressed, or None: the structure of the result is compared with that of the model."""
    if position == len(blocks) - 1 and _shapes(model) == _shapes(remake(model, {}, "meta")):
        return None
    try:
        smaller = remake(model, rule(position + 1), "meta")
        _try_structure(model, smaller)
        return _structure_fault(model, smaller, blocks[position])
    except TruncationError as error:
        return str(error)
    except LayerGroupError as error:
        return f"the parts of the result cannot be told apart ({str(error).splitlines()[0][:150]})"
    except _FAILURES as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:150]
        return f"the class cannot be made or run with fewer blocks than its stages ask for ({reason})"


def _try_structure(model: nn.Module, smaller: nn.Module) -> None:
    """Run a smaller structure on the meta device, and pass its failure on unless the whole one fails as well."""
    try:
        _run(smaller, *_input_size(model))
    except NotImplementedError:  # what the meta device does not know says nothing
        return
    except _FAILURES:
        try:
            _run(remake(model, {}, "meta"), *_input_size(model))
        except (*_FAILURES, NotImplementedError):
            return
        raise


def _structure_fault(model: nn.Module, smaller: nn.Module, last: LayerGroup) -> str | None:
    owner = {name: group for group in wrap(model).layer_groups for name in group.parameter_names}
    shapes, cut, norms = _shapes(model), _shapes(smaller), norm_parameter_names(smaller)
    head = head_tensors(smaller)
    for name, shape in cut.items():
        kept = name in owner and (owner[name].index <= last.index or owner[name].role == "neck")
        if name not in head and not (kept and shapes[name] == shape) and name not in norms:
            return f"{name} would be new and random"
    for name, group in owner.items():
        inside = group.index < last.index or (group == last and name.startswith(f"{last.name}."))
        if inside and cut.get(name) != shapes[name] and group.role != "neck":
            return f"{name} would be lost"
    return None


def _input_size(model: nn.Module) -> tuple[int, int]:
    return native_image_size(model) or (64, 64)


def _run(model: nn.Module, height: int, width: int) -> None:
    parameter = next(model.parameters())
    generator = None if parameter.is_meta else torch.Generator().manual_seed(0)
    image = torch.empty(1, num_channels(model), height, width, device="meta" if parameter.is_meta else "cpu")
    if generator is not None:
        image.uniform_(-1, 1, generator=generator)
    with eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        model(image.to(parameter.device, parameter.dtype))


def _check_same_output(model: nn.Module, smaller: nn.Module, last: LayerGroup) -> None:
    """Run both on one image: the last kept block must give the same."""
    watched = _last_module(model, smaller, last)
    if next(model.parameters()).is_meta or watched is None:
        return
    seen: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        while isinstance(output, tuple):
            output = output[0]
        seen.append(output)

    for each in (model, smaller):
        hook = each.get_submodule(watched).register_forward_hook(keep)
        try:
            _run(each, *_input_size(model))
        except _FAILURES as error:
            if each is smaller and seen:
                raise _refusal(model, last, f"the result does not run ({error})") from error
            logger.debug("%s takes more than an image; the cut is not tried: %s", type(model).__name__, error)
            return
        finally:
            hook.remove()
    if not seen:
        return
    whole, cut = seen[0], seen[-1]
    if whole.shape != cut.shape or not torch.allclose(whole, cut, rtol=1e-4, atol=1e-5):
        raise _refusal(model, last, "its last block then gives another output than in the whole model")


def _last_module(model: nn.Module, smaller: nn.Module, last: LayerGroup) -> str | None:
    """The last and largest module of a group that is whole in both models."""
    cut = tuple(_shapes(smaller))
    found: list[str] = []
    for name, module in smaller.named_modules():
        inside = any(f"{name}.".startswith(f"{own}.") for own in last.module_names)
        if not inside or isinstance(module, nn.ModuleList) or any(name.startswith(f"{each}.") for each in found):
            continue
        here = {parameter for parameter in cut if parameter.startswith(f"{name}.")}
        if here and here == {parameter for parameter in _shapes(model) if parameter.startswith(f"{name}.")}:
            found.append(name)
    return found[-1] if found else None
