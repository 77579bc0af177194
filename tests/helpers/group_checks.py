"""What layer groups must hold on any model; each check asserts, and names the part that is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hf_transfer.architectures.layer_groups import LayerGroup, Role, check_partition

_ROLE_ORDER: tuple[Role, ...] = ("stem", "block", "neck", "head")


def check_groups(model: nn.Module, groups: Sequence[LayerGroup]) -> None:
    """Every parameter is in one group; stem, blocks, neck and head follow each other, the ends at most once."""
    check_partition(groups, [name for name, _ in model.named_parameters()])
    roles = [group.role for group in groups]
    assert roles == sorted(roles, key=_ROLE_ORDER.index)
    for role in ("stem", "neck", "head"):
        assert [g.name for g in groups if g.role == role] in ([], [role])
    assert not {"stem", "neck", "head"} & {g.name for g in groups if g.role == "block"}


def check_modules(model: nn.Module, groups: Sequence[LayerGroup]) -> None:
    """Module names are disjoint, cover all leaf modules, and hold no parameter of another group."""
    modules = dict(model.named_modules())
    owner = {name: group.index for group in groups for name in group.parameter_names}
    listed = [name for group in groups for name in group.module_names]
    assert len(listed) == len(set(listed))
    assert not [name for name in listed if any(_inside(name, other) for other in listed if other != name)]
    leaves = [name for name, module in modules.items() if not list(module.children())]
    assert not [leaf for leaf in leaves if not any(_inside(leaf, name) for name in listed)]
    for group in groups:
        inside = {n for n in owner if any(_inside(n, module) for module in group.module_names)}
        assert inside <= set(group.parameter_names)
        for name in set(group.parameter_names) - inside:  # then its module is shared with another group
            home = name.rpartition(".")[0]
            assert len({owner[n] for n in owner if _inside(n, home)}) > 1, name


def check_order(
    model: nn.Module,
    groups: Sequence[LayerGroup],
    *inputs: torch.Tensor | dict[str, torch.Tensor],
    unused: Sequence[str] = (),
) -> None:
    """In a real forward pass all layers of a group start before any layer of the next group.

    The head may start before the whole neck has: that of a distilled model runs beside the neck of its second head.
    """
    starts = first_runs(model, *inputs)
    by_group: list[tuple[LayerGroup, list[int]]] = []
    for group in groups:
        homes = {name.rpartition(".")[0] for name in group.parameter_names}
        if ran := [starts[home] for home in homes if home in starts]:
            by_group.append((group, ran))
    running = [group for group in groups if not set(group.parameter_names) <= set(unused)]
    assert len(by_group) >= len(running), "a group of which nothing runs"
    for (group, own), (following, later) in zip(by_group, by_group[1:], strict=False):
        started = min(own) if following.role == "head" else max(own)
        assert started < min(later), f"{following.name} starts before {group.name} has"


def check_coarser(fine: Sequence[LayerGroup], coarse: Sequence[LayerGroup]) -> None:
    """Each fine group lies in one coarse group of the same role, in the same order."""
    home = {name: group for group in coarse for name in group.parameter_names}
    found = [{home[name].index for name in group.parameter_names} for group in fine]
    assert all(len(indices) == 1 for indices in found)
    order = [next(iter(indices)) for indices in found]
    assert order == sorted(order)
    assert [coarse[index].role for index in order] == [group.role for group in fine]


def repeated_modules(model: nn.Module, inputs: dict[str, torch.Tensor]) -> set[str]:
    """Names of the modules with parameters of their own that run more than once in a forward pass in eval mode."""
    runs: Counter[str] = Counter()
    own = {name: m for name, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None}
    hooks = [m.register_forward_pre_hook(lambda _m, _a, n=n: runs.update((n,))) for n, m in own.items()]
    with torch.no_grad():
        model.eval()(**inputs)
    for hook in hooks:
        hook.remove()
    return {name for name, count in runs.items() if count > 1}


def first_runs(model: nn.Module, *inputs: torch.Tensor | dict[str, torch.Tensor]) -> dict[str, int]:
    """Rank of the first run of each module in one forward pass in eval mode."""
    ranks: dict[str, int] = {}

    def note(name: str) -> None:
        ranks.setdefault(name, len(ranks))

    hooks = [m.register_forward_pre_hook(lambda _m, _a, n=n: note(n)) for n, m in model.named_modules()]
    with torch.no_grad():
        model.eval()(
            *(i for i in inputs if not isinstance(i, dict)), **next((i for i in inputs if isinstance(i, dict)), {})
        )
    for hook in hooks:
        hook.remove()
    return ranks


def label_parameters(model: nn.Module, other: nn.Module) -> set[str]:
    """Names of the parameters whose shape differs between two models made for different numbers of labels."""
    shapes = {name: parameter.shape for name, parameter in other.named_parameters()}
    return {name for name, parameter in model.named_parameters() if parameter.shape != shapes[name]}


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """All that a read-only view must leave as it is, weights and buffers included."""
    return {
        "class": type(model),
        "state": {name: (tensor.data_ptr(), _bits(tensor)) for name, tensor in _state(model)},
        "parameters": {n: (id(p), p.requires_grad, p.grad is None) for n, p in model.named_parameters()},
        "modules": {n: (id(m), type(m), m.training, sorted(vars(m))) for n, m in model.named_modules()},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            for name, module in model.named_modules()
        },
        "random": torch.get_rng_state().tolist(),
    }


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().flatten().view(torch.uint8).numpy().tobytes()


def _state(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.state_dict().items(), *((f"buffer {name}", b) for name, b in model.named_buffers())]


def _inside(name: str, path: str) -> bool:
    return path == "" or name == path or name.startswith(f"{path}.")
