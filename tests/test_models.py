"""hf_transfer.models: checkpoints with a head for the labels at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_transfer.errors import ModelError
from hf_transfer.models import check_image_size, label_names_of, load_for_training, load_structure, load_trained
from hf_transfer.registry import wrap
from tests import tiny
from tests.checkpoints import save_timm_resnet, save_vit

SAVERS = {"vit": save_vit, "timm": save_timm_resnet}


@pytest.mark.parametrize("kind", sorted(SAVERS))
def test_other_label_count_replaces_exactly_the_head(kind: str, tmp_path: Path) -> None:
    """With another number of labels the head is new, and everything else is the checkpoint's, bit for bit."""
    folder = SAVERS[kind](tmp_path / "m")
    stored = load_trained(str(folder)).model.state_dict()
    loaded = load_for_training(str(folder), ("a", "b", "c", "d", "e"))
    head = set(wrap(loaded.model).head.parameter_names)
    assert loaded.new_head
    assert label_names_of(loaded.model) == ("a", "b", "c", "d", "e")
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, stored[name]) is (name not in head)


@pytest.mark.parametrize("kind", sorted(SAVERS))
def test_equal_count_keeps_the_head_unless_reset(kind: str, tmp_path: Path) -> None:
    """With as many labels the head stays; reset_head draws a new one, the same for the same seed."""
    torch.manual_seed(7)  # not the seed that the new head is drawn with
    folder = str(SAVERS[kind](tmp_path / "m"))
    stored = load_trained(folder).model.state_dict()
    kept = load_for_training(folder, ("a", "b", "c"))
    head = [name for name in wrap(kept.model).head.parameter_names if name.endswith("weight")][0]
    assert not kept.new_head
    assert torch.equal(kept.model.state_dict()[head], stored[head])
    first, second = (load_for_training(folder, ("a", "b", "c"), reset_head=True) for _ in range(2))
    assert first.new_head
    assert not torch.equal(first.model.state_dict()[head], stored[head])
    assert torch.equal(first.model.state_dict()[head], second.model.state_dict()[head])


def test_base_names_the_folder_not_its_path(tmp_path: Path) -> None:
    """The record of the origin has the folder's name, architecture and library."""
    base = load_trained(str(save_timm_resnet(tmp_path / "my-base"))).base
    assert (base.id, base.on_hub, base.architecture, base.library) == ("my-base", False, "timm:resnet18", "timm")
    assert str(tmp_path) not in str(base.to_dict())


def test_structure_has_no_weights(tmp_path: Path) -> None:
    """load_structure builds the model on the meta device, with the groups of the real one."""
    folder = str(save_vit(tmp_path / "m"))
    model = load_structure(folder)
    assert all(p.is_meta for p in model.parameters())
    assert wrap(model).layer_groups == wrap(load_trained(folder).model).layer_groups


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No model"), ("{}", "cannot be loaded as an image classifier"), ("{", "cannot be loaded")],
)
def test_what_is_no_checkpoint_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    """A name that is nowhere, an empty or a broken config.json: a ModelError that says what was expected."""
    name = "nobody/nothing"
    if content is not None:
        (tmp_path / "config.json").write_text(content)
        name = str(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_for_training(name, ("a", "b"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """A checkpoint with a pickle and no safetensors is not loaded."""
    folder = save_vit(tmp_path / "m")
    torch.save(tiny.vit().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        load_for_training(str(folder), ("a", "b", "c"))


def test_image_size_is_tried() -> None:
    """A convolutional network takes another size; a ViT with fixed positions refuses and names its own."""
    check_image_size(tiny.resnet(), 48)
    model = tiny.vit()
    model.train()
    with pytest.raises(ModelError, match="48 pixels; it was made for 32"):
        check_image_size(model, 48)
    assert model.training
