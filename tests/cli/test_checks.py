"""hf_transfer.cli.checks: names of layers, and which runs go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_transfer.architectures.lookup import wrap
from hf_transfer.cli.checks import is_resumed, settle_layer
from hf_transfer.errors import ArgumentError
from hf_transfer.trainer.args import TransferArguments
from tests.helpers import tiny


def test_a_layer_is_named_by_its_group_or_its_module(tmp_path: Path) -> None:
    """A group's name, its module's path and the end of that mean the same; what fits nothing is told."""
    model = tiny.timm_wrapper("resnet18")
    group = next(each for each in wrap(model).layer_groups if each.role == "block")
    for given in (group.name, f"timm_model.{group.name.removeprefix('timm_model.')}", group.module_names[0]):
        args = TransferArguments(str(tmp_path), layer=given)
        settle_layer(args, model)
        assert args.layer == group.name
    with pytest.raises(ArgumentError, match="There is no layer 'layer1.9'.*Did you mean"):
        settle_layer(TransferArguments(str(tmp_path), layer="layer1.9"), model)
    args = TransferArguments(str(tmp_path), layer="all")
    settle_layer(args, model)
    assert args.layer == "all"


def test_only_a_checkpoint_of_the_folder_goes_on_there(tmp_path: Path) -> None:
    """A run that resumes from elsewhere is a new one in its folder, and may not replace what is there unasked."""
    assert is_resumed(True, tmp_path) and is_resumed(str(tmp_path / "checkpoint-3"), tmp_path)
    assert not is_resumed(str(tmp_path / "other" / "checkpoint-3"), tmp_path / "out")
    assert not is_resumed(None, tmp_path)
