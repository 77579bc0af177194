"""A wrapper that is declared as data: the module paths of stem, blocks, neck and head."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from hf_transfer.architectures.layer_groups import Role
from hf_transfer.architectures.registry import register
from hf_transfer.architectures.wrapper import GroupDraft, ModelWrapper
from hf_transfer.errors import ArgumentError, LayerGroupError
from hf_transfer.utils.modules import is_inside


@dataclass(frozen=True)
class Layout:
    """Where the parts of an architecture are.

    Paths are those of `model.named_modules()`. A `*` stands for one number; in a pattern with two, the first is the
    stage and the second the block.

    Attributes:
        stem: Modules before the blocks.
        blocks: Pattern of the blocks, in the order in which they run; or several: the first that fits counts.
        neck: Pretrained modules behind the blocks.
        head: Modules that map features to labels.
        stage_entry: Patterns (one `*`) of modules that run before the blocks of a stage; they join its first block.
            Where no stage has that number, they stand between two stages, and join the first block of the next one.
        stage_exit: Patterns (one `*`) of modules that run after the blocks of a stage; they join its last block.
        unused: Parameters, or modules, that the classifier's forward pass does not use and that therefore never get a
            gradient; those that a configuration leaves out are skipped.
        reused: Modules that run several times in one forward pass; those that a configuration leaves out are skipped.
    """

    stem: tuple[str, ...]
    blocks: str | tuple[str, ...]
    head: tuple[str, ...]
    neck: tuple[str, ...] = ()
    stage_entry: tuple[str, ...] = ()
    stage_exit: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("stem", "head", "neck", "stage_entry", "stage_exit", "unused", "reused"):
            paths = vars(self)[name]
            if not isinstance(paths, tuple) or not all(isinstance(path, str) and path for path in paths):
                raise ArgumentError(f"Layout.{name} is a tuple of module paths, found {paths!r}.")
        if not self.block_patterns or any(pattern.count("*") not in (1, 2) for pattern in self.block_patterns):
            raise ArgumentError(f"Layout.blocks has one * (or two: stage and block), found {self.blocks!r}.")
        if any(path.count("*") != 1 for path in (*self.stage_entry, *self.stage_exit)):
            raise ArgumentError("Each path of Layout.stage_entry and Layout.stage_exit has one *, for the stage.")

    @property
    def staged(self) -> bool:
        """Whether blocks are numbered within stages."""
        return self.block_patterns[0].count("*") == 2

    @property
    def block_patterns(self) -> tuple[str, ...]:
        """The patterns of the blocks."""
        return (self.blocks,) if isinstance(self.blocks, str) else self.blocks


class LayoutWrapper(ModelWrapper):
    """Resolve a declared `Layout` against a model.

    Example:
        >>> from hf_transfer.architectures.layout import Layout, LayoutWrapper
        >>> class MyWrapper(LayoutWrapper):
        ...     layout = Layout(stem=("patch_embed",), blocks="blocks.*", neck=("norm",), head=("fc",))
    """

    layout: ClassVar[Layout]

    def draft_groups(self) -> list[GroupDraft]:
        layout = self.layout
        blocks: dict[tuple[int, ...], GroupDraft] = {}
        ends: dict[Role, GroupDraft] = {role: GroupDraft(role, role) for role in ("stem", "neck", "head")}
        entries: list[tuple[int, str]] = []
        exits: list[tuple[int, str]] = []
        for name, _ in self.model.named_parameters(remove_duplicate=False):
            if (place := _block_of(layout.block_patterns, name)) is not None:
                key, path = place
                blocks.setdefault(key, GroupDraft(path, "block")).parameter_names.append(name)
            elif (stage := _stage_of(layout.stage_entry, name)) is not None:
                entries.append((stage, name))
            elif (stage := _stage_of(layout.stage_exit, name)) is not None:
                exits.append((stage, name))
            else:
                ends[self._role_of(name)].parameter_names.append(name)
        if not blocks:
            raise self._misfit(f"has no module that fits {layout.blocks!r}, where the blocks were expected")
        for stage, name in reversed(entries):
            self._blocks_of(self._next_stage(stage, blocks), name, blocks)[0].parameter_names.insert(0, name)
        for stage, name in exits:
            self._blocks_of(stage, name, blocks)[-1].parameter_names.append(name)
        ordered = self._merge_stages(blocks) if self.granularity == "stage" and layout.staged else blocks
        return [ends["stem"], *(ordered[key] for key in sorted(ordered)), ends["neck"], ends["head"]]

    @property
    def unused_parameters(self) -> tuple[str, ...]:
        """The declared parameters that never get a gradient, as far as the model has them."""
        return tuple(name for name, _ in self.model.named_parameters() if is_inside(name, self.layout.unused))

    @property
    def reused_modules(self) -> tuple[str, ...]:
        """The declared modules that run several times, as far as the model has them."""
        modules = dict(self.model.named_modules())
        return tuple(path for path in self.layout.reused if path in modules)

    def _role_of(self, name: str) -> Role:
        ends: tuple[tuple[Role, tuple[str, ...]], ...] = (
            ("head", self.layout.head),
            ("neck", self.layout.neck),
            ("stem", self.layout.stem),
        )
        for role, paths in ends:
            if is_inside(name, paths):
                return role
        raise self._misfit(f"has a parameter {name!r} that fits no path of the registered layout")

    def _blocks_of(self, stage: int, name: str, blocks: dict[tuple[int, ...], GroupDraft]) -> list[GroupDraft]:
        inside = sorted(key for key in blocks if key[0] == stage)
        if not inside:
            raise self._misfit(f"has a parameter {name!r} of stage {stage}, which has no blocks")
        return [blocks[key] for key in inside]

    @staticmethod
    def _next_stage(stage: int, blocks: dict[tuple[int, ...], GroupDraft]) -> int:
        return min((key[0] for key in blocks if key[0] >= stage), default=stage)

    def _misfit(self, what: str) -> LayerGroupError:
        return LayerGroupError(
            f"{type(self.model).__name__} {what} ({type(self).__name__}). Load the model as an image classifier, or "
            "register a wrapper that fits it, with replace=True."
        )

    def _merge_stages(self, blocks: dict[tuple[int, ...], GroupDraft]) -> dict[tuple[int, ...], GroupDraft]:
        stage_pattern = self.layout.block_patterns[0].split("*")[0] + "{}"
        stages: dict[tuple[int, ...], GroupDraft] = {}
        for key in sorted(blocks):
            stage = stages.setdefault(key[:1], GroupDraft(stage_pattern.format(key[0]), "block"))
            stage.parameter_names.extend(blocks[key].parameter_names)
        return stages


def register_layout(*model_types: str, layout: Layout, replace: bool = False) -> type[LayoutWrapper]:
    """Register a layout for one or more model types; what `register_wrapper` does for a class.

    Example:
        >>> from hf_transfer.architectures.layout import Layout, register_layout
        >>> wrapper = register_layout("my_type", layout=Layout(stem=("patch",), blocks="blocks.*", head=("fc",)))

    Returns:
        The class of its wrappers.
    """
    name = "".join(part.capitalize() for part in re.split(r"\W|_", model_types[0])) if model_types else ""
    wrapper = type(f"{name}Wrapper", (LayoutWrapper,), {"layout": layout, "__doc__": f"Wrapper of {name}."})
    return register(*model_types, replace=replace)(wrapper)


def _block_of(patterns: tuple[str, ...], name: str) -> tuple[tuple[int, ...], str] | None:
    return next((place for pattern in patterns if (place := _numbers(pattern, name)) is not None), None)


def _numbers(pattern: str, name: str) -> tuple[tuple[int, ...], str] | None:
    """The numbers that stand for the pattern's stars at the start of a parameter name, and the module path."""
    match = re.match(re.escape(pattern).replace(r"\*", r"(\d+)") + r"(?=\.|$)", name)
    return (tuple(map(int, match.groups())), match[0]) if match else None


def _stage_of(patterns: tuple[str, ...], name: str) -> int | None:
    for pattern in patterns:
        if (place := _numbers(pattern, name)) is not None:
            return place[0][0]
    return None
