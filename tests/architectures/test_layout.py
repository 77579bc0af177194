"""hf_transfer.architectures.layout: layer groups from declared module paths, and what happens when they do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTModel

import hf_transfer as ht
from hf_transfer.architectures.layout import Layout, LayoutWrapper, register_layout
from hf_transfer.errors import ArgumentError, LayerGroupError
from tests.helpers import group_checks


class Stage(nn.Module):
    """Entry of two layers, numbered blocks, exit."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({str(i): nn.Linear(2, 2) for i in reversed(range(blocks))})
        self.enter = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2, bias=False))
        self.leave = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for number in range(len(self.blocks)):
            x = self.blocks[str(number)](x)
        return self.leave(x)


class Staged(nn.Module):
    """Twelve blocks in two stages, defined from last to first, so that numeric and alphabetic order differ."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3)
        self.embed = nn.Linear(2, 2)
        self.stages = nn.ModuleList([Stage(11), Stage(1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for stage in self.stages:
            x = stage(x)
        return self.fc(x)


class StagedWrapper(LayoutWrapper):
    """The layout of `Staged`."""

    layout = Layout(
        stem=("embed",),
        blocks="stages.*.blocks.*",
        head=("fc",),
        stage_entry=("stages.*.enter",),
        stage_exit=("stages.*.leave",),
    )


def test_blocks_are_ordered_by_number() -> None:
    """Block 10 comes after block 9, whatever the order of the definition of the parts."""
    model = Staged()
    groups = StagedWrapper(model).layer_groups
    group_checks.check_groups(model, groups)
    group_checks.check_modules(model, groups)
    group_checks.check_order(model, groups, torch.zeros(1, 2))
    names = [f"stages.0.blocks.{i}" for i in range(11)] + ["stages.1.blocks.0"]
    assert [group.name for group in groups] == ["stem", *names, "head"]


def test_entry_and_exit_of_a_stage_join_its_ends() -> None:
    """What runs before the blocks of a stage opens its first block; what runs after them closes its last block."""
    first, last = (StagedWrapper(Staged()).layer_groups[i].parameter_names for i in (1, 11))
    entry = tuple(f"stages.0.enter.{name}" for name in ("0.weight", "0.bias", "1.weight"))
    assert first == (*entry, "stages.0.blocks.0.weight", "stages.0.blocks.0.bias")
    assert last == tuple(f"stages.0.{part}.{n}" for part in ("blocks.10", "leave") for n in ("weight", "bias"))


def test_stages_are_whole_modules() -> None:
    """With granularity "stage" entry, blocks and exit are one group with the stage's name and module."""
    model = Staged()
    groups = StagedWrapper(model, "stage").layer_groups
    assert [(g.name, g.module_names) for g in groups[1:-1]] == [(f"stages.{i}", (f"stages.{i}",)) for i in (0, 1)]
    group_checks.check_coarser(StagedWrapper(model).layer_groups, groups)


def test_a_path_is_not_a_prefix_of_a_name() -> None:
    """The stem `embed` does not take in a module called `embedding`, nor the block 1 the block 10."""
    model = Staged()
    model.embedding = nn.Linear(2, 2)
    with pytest.raises(LayerGroupError, match="'embedding.weight'"):
        StagedWrapper(model)


def test_a_parameter_that_fits_no_path_is_named() -> None:
    """A module that the layout does not know raises with its name and what to do; nothing is put anywhere unasked."""
    model = Staged()
    model.adapter = nn.Linear(2, 2)
    with pytest.raises(
        LayerGroupError, match=r"Staged has a parameter 'adapter\.weight'.*StagedWrapper.*replace=True"
    ):
        StagedWrapper(model)


def test_a_stage_without_blocks_is_named() -> None:
    """Entry or exit of a stage that has no blocks raises, too."""
    model = Staged()
    model.stages[1].blocks = nn.ModuleDict()
    with pytest.raises(LayerGroupError, match=r"'stages\.1\..*stage 1, which has no blocks"):
        StagedWrapper(model)


def test_a_model_without_blocks_is_refused() -> None:
    """No module that fits the pattern of the blocks raises with the pattern."""
    model = Staged()
    model.stages = nn.ModuleList()
    with pytest.raises(LayerGroupError, match=r"no module that fits 'stages\.\*\.blocks\.\*'"):
        StagedWrapper(model)


def test_a_model_without_its_head_says_how_to_load_it() -> None:
    """ViTModel has the model type of ViT but other paths: the message names the class that was expected."""
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32)
    with pytest.raises(LayerGroupError, match="ViTModel.*Load the model as an image classifier"):
        ht.wrap(ViTModel(config))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem": "embed"}, "Layout.stem is a tuple of module paths, found 'embed'"),
        ({"head": ["fc"]}, "Layout.head is a tuple"),
        ({"neck": ("",)}, "Layout.neck is a tuple"),
        ({"blocks": "blocks"}, "Layout.blocks has one"),
        ({"blocks": "*.*.*"}, "Layout.blocks has one"),
        ({"stage_entry": ("stages.down",)}, r"has one \*, for the stage"),
        ({"stage_exit": ("stages.*.*",)}, r"has one \*, for the stage"),
    ],
)
def test_a_layout_is_checked(fields: dict[str, Any], message: str) -> None:
    """A string in place of a tuple, or a pattern without its stars, is refused when the layout is declared."""
    good: dict[str, Any] = {"stem": ("embed",), "blocks": "blocks.*", "head": ("fc",)}
    Layout(**good)
    with pytest.raises(ArgumentError, match=message):
        Layout(**(good | fields))


class Tied(nn.Module):
    """The second block, which is defined first, shares its weight with the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3)
        self.blocks = nn.ModuleDict({"1": nn.Linear(2, 2), "0": nn.Linear(2, 2)})
        self.blocks["0"].weight = self.blocks["1"].weight
        self.embed = nn.Linear(2, 2)


def test_shared_parameters_belong_to_the_group_that_runs_first() -> None:
    """The first name of a tied weight is that of the later block, but the earlier block owns it; it is reported."""

    class TiedWrapper(LayoutWrapper):
        """The layout of `Tied`."""

        layout = Layout(stem=("embed",), blocks="blocks.*", head=("fc",))

    wrapper = TiedWrapper(Tied())
    assert wrapper.shared_parameters == {"blocks.1.weight": ("blocks.0.weight",)}
    groups = {group.name: group.parameter_names for group in wrapper.layer_groups}
    assert set(groups["blocks.0"]) == {"blocks.1.weight", "blocks.0.bias"}
    assert groups["blocks.1"] == ("blocks.1.bias",)


def test_a_layout_registers_in_one_call() -> None:
    """`register_layout` does for data what the decorator does for a class, and refuses the same."""
    with pytest.raises(ArgumentError, match="Already registered: vit"):
        register_layout("vit", layout=Layout(stem=("a",), blocks="b.*", head=("c",)))
