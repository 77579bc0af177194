"""hf_transfer.models.loading: checkpoints with a head for the labels at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, ViTImageProcessor

from hf_transfer.architectures.lookup import architecture_name, wrap
from hf_transfer.errors import ModelError
from hf_transfer.models.loading import label_names_of, load_for_training, load_structure, load_trained
from tests.helpers import tiny
from tests.helpers.adapted import check_loads_alone, images_of
from tests.helpers.checkpoints import save_timm_resnet, save_vit

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


BODIES = {"vit": lambda: tiny.vit().vit, "dinov2": lambda: tiny.dinov2().dinov2}


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_checkpoint_without_a_head_gets_one(kind: str, tmp_path: Path) -> None:
    """A base model's folder: new head, all else bit for bit, also for the two labels its config.json counts."""
    body = BODIES[kind]()
    body.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    loaded = load_for_training(str(tmp_path), ("no", "yes"))
    assert loaded.new_head
    assert label_names_of(loaded.model) == ("no", "yes")
    own = getattr(loaded.model, kind).state_dict()
    assert all(torch.equal(own[name], value) for name, value in body.state_dict().items())
    with pytest.raises(ModelError, match="no trained classification head"):
        load_trained(str(tmp_path))


def test_timm_model_without_a_head_gets_one(tmp_path: Path) -> None:
    """timm's own folder of a model with num_classes=0, whose model_args name the classes once more."""
    body = timm.create_model("resnet18", num_classes=0, channels=(8, 16, 24, 32), stem_width=8)
    timm.models.save_for_hf(body, tmp_path, safe_serialization=True)
    loaded = load_for_training(str(tmp_path), ("a", "b", "c", "d"))
    own = loaded.model.timm_model.state_dict()
    assert loaded.new_head
    assert all(torch.equal(own[name], value) for name, value in body.state_dict().items())
    check_loads_alone(loaded.model, tmp_path / "saved", images_of(32))
    assert label_names_of(load_trained(str(tmp_path / "saved")).model) == ("a", "b", "c", "d")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["label_names"] == ["a", "b", "c", "d"]


def test_all_heads_are_new(tmp_path: Path) -> None:
    """A timm DeiT has two classifiers: both are replaced, nothing else."""
    options = {"img_size": 32, "embed_dim": 24, "depth": 2}
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, **options)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    old = model.state_dict()
    new = load_for_training(str(tmp_path), ("a", "b")).model.timm_model.state_dict()
    changed = {name for name, value in new.items() if not torch.equal(value, old[name])}
    assert changed >= {"head.weight", "head_dist.weight"}
    assert changed <= {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_label_names_are_written_as_names(tmp_path: Path) -> None:
    """transformers: integer indices to names and back, after saving and loading."""
    loaded = load_for_training(str(save_vit(tmp_path / "m")), ("ant", "1", "zebra"))
    loaded.model.save_pretrained(tmp_path / "saved")
    config = AutoConfig.from_pretrained(tmp_path / "saved")
    assert config.id2label == {0: "ant", 1: "1", 2: "zebra"}
    assert config.label2id == {"ant": 0, "1": 1, "zebra": 2}


def _without(folder: Path, part: str) -> str:
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if part not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_missing_block_is_an_error(tmp_path: Path) -> None:
    """Weights that are missing besides the head are named, and never silently random."""
    with pytest.raises(ModelError, match="lacks weights of ViTForImageClassification other than the head.*layers.1"):
        load_for_training(_without(save_vit(tmp_path / "m"), "layer.1."), ("a", "b"))


def test_missing_final_norm_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint without the norm behind the blocks loads, with a warning that names it."""
    load_for_training(_without(save_vit(tmp_path / "m"), "vit.layernorm"), ("a", "b"))
    assert "lacks weights that stand behind the blocks" in caplog.text
    assert "vit.layernorm.weight" in caplog.text


def test_missing_unused_weight_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """DINOv2's mask token, which no forward pass of a classifier uses, may be missing."""
    tiny.dinov2().save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    load_for_training(_without(tmp_path, "mask_token"), ("a", "b"))
    assert "lacks weights that no forward pass uses" in caplog.text


def test_config_of_other_sizes_is_an_error(tmp_path: Path) -> None:
    """A config.json that does not belong to the weights is told by the weights that do not fit."""
    folder = save_vit(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(ModelError, match="belongs to its weights"):
        load_for_training(str(folder), ("a", "b", "c"))


def test_random_state_is_left_alone(tmp_path: Path) -> None:
    """Loading draws its new head without touching the global random state."""
    folder = str(save_vit(tmp_path / "m"))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_for_training(folder, ("a", "b"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "architecture", "labels"),
    [
        ("timm:resnet18", "timm:resnet18", 1000),
        ("timm:resnet18.a1_in1k", "timm:resnet18", 1000),
        ("transformers:vit", "transformers:vit", 2),
    ],
)
def test_bare_names_have_a_structure(name: str, architecture: str, labels: int) -> None:
    """An architecture's name is enough for its layer groups, on the meta device."""
    model = load_structure(name)
    assert all(p.is_meta for p in model.parameters())
    assert architecture_name(model) == architecture
    assert model.config.num_labels == labels
    assert wrap(model).head.parameter_names


def test_bare_name_gives_random_weights_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """timm:NAME trains from scratch: a warning, a record without licence, a processor, the same weights per seed."""
    first, second = (load_for_training("timm:resnet18", ("a", "b"), image_size=32) for _ in range(2))
    assert "all of them are random" in caplog.text
    assert (first.base.id, first.base.on_hub, first.base.license) == ("timm:resnet18", False, None)
    assert first.base.random_weights
    assert first.processor.data_config["input_size"] == (3, 32, 32)
    own = second.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in first.model.state_dict().items())
    with pytest.raises(ModelError, match="without trained weights"):
        load_trained("timm:resnet18")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet19", "Similar: .*timm:resnet18"),
        ("transformers:vitt", "Similar: .*transformers:vit"),
        ("transformers:bert", "not an image classifier"),
    ],
)
def test_unknown_bare_names_are_refused(name: str, message: str) -> None:
    """The error names similar architectures."""
    with pytest.raises(ModelError, match=message):
        load_structure(name)
