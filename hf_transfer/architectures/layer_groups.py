"""Layer groups: the parts of a model, from input to output, that are frozen or trained together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from hf_transfer.errors import LayerGroupError

Role = Literal["stem", "block", "neck", "tail", "head"]


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """One part of a model.

    Attributes:
        index: Position from the input (0) to the output.
        name: "stem", "neck" or "head", or the module path of the block.
        role: "stem" (what makes tokens or the first map of an image), "block", "neck" (pretrained parts behind the
            blocks, such as a final norm), "tail" (layers that only pass their input through, which are never trained,
            see `hf_transfer.models.pass_through`) or "head" (only what maps features to labels).
        parameter_names: Names as in `model.named_parameters()`.
        module_names: The largest modules that belong to this group alone, as in `model.named_modules()`.
    """

    index: int
    name: str
    role: Role
    parameter_names: tuple[str, ...]
    module_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise LayerGroupError(f"A layer group's role is one of {get_args(Role)}, found {self.role!r}.")


def check_partition(groups: Sequence[LayerGroup], parameter_names: Iterable[str]) -> None:
    """Check that every parameter is in exactly one group, none is unknown, and names and indices are in order.

    Raises:
        LayerGroupError: With the names that are missing, doubled or unknown.
    """
    wanted = list(parameter_names)
    counts = Counter(name for group in groups for name in group.parameter_names)
    faults = {
        "in no group": [name for name in wanted if name not in counts],
        "in several groups": [name for name, count in counts.items() if count > 1],
        "not in the model": sorted(set(counts) - set(wanted)),
        "doubled group names": [name for name, count in Counter(g.name for g in groups).items() if count > 1],
        "groups without parameters": [g.name for g in groups if not g.parameter_names],
        "heads besides the first": [g.name for g in groups if g.role == "head"][1:],
    }
    found = "; ".join(f"{what}: {_few(names)}" for what, names in faults.items() if names)
    if found:
        raise LayerGroupError(f"Layer groups must hold each parameter exactly once. {found}.")
    if [g.index for g in groups] != list(range(len(groups))):
        raise LayerGroupError(f"Layer groups must be numbered from 0, found {[g.index for g in groups]}.")


def _few(names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
