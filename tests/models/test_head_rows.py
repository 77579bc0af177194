"""hf_transfer.models.head_rows: the rows of a head follow the names of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import ViTImageProcessor

from hf_transfer.models.head_rows import match_rows
from hf_transfer.models.loading import load_for_training
from tests.helpers import tiny
from tests.helpers.checkpoints import PRETRAINED_CFG
from tests.helpers.every_transformers_class import make

STORED = ("dog", "cat", "bird")
FACTORIES = {
    "vit": tiny.vit,
    "mobilenet_v2": tiny.mobilenet_v2,
    "pvt": lambda: make("PvtForImageClassification"),
    "timm": lambda: tiny.timm_wrapper("resnet18"),
}


def _saved(kind: str, folder: Path, names: Sequence[str] = STORED) -> nn.Module:
    """A checkpoint with named labels; its head has a bias that is not zero."""
    model = FACTORIES[kind]()
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    if kind == "timm":
        model.config.pretrained_cfg, model.config.label_names = dict(PRETRAINED_CFG), list(names)
    nn.init.normal_(_head(model).bias)
    model.save_pretrained(folder)
    if kind != "timm":
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def _head(model: nn.Module) -> nn.Linear:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


@pytest.mark.parametrize("kind", sorted(FACTORIES))
@pytest.mark.parametrize(
    "wanted",
    [("bird", "cat", "dog"), ("cat", "dog"), ("ant", "bird", "cat", "dog"), ("cat", "fish", "horse")],
    ids=["other order", "subset", "superset", "one in common"],
)
def test_known_rows_are_kept_and_others_are_new(
    kind: str, wanted: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows move with their names, rows of unknown names are those of a new head, the rest is bit for bit the same."""
    stored = _saved(kind, tmp_path)
    loaded = load_for_training(str(tmp_path), wanted)
    fresh = load_for_training(str(tmp_path), wanted, reset_head=True)
    for row, name in enumerate(wanted):
        for part in ("weight", "bias"):
            source, of = (stored, STORED.index(name)) if name in STORED else (fresh.model, row)
            assert torch.equal(getattr(_head(loaded.model), part)[row], getattr(_head(source), part)[of])
    old, new = stored.state_dict(), loaded.model.state_dict()
    head = [name for name, value in old.items() if value.shape[:1] == _head(stored).bias.shape and "num" not in name]
    assert all(torch.equal(value, old[name]) for name, value in new.items() if name not in head)
    assert "rows are kept, each with its label" in caplog.text
    assert loaded.base.head is not None
    assert loaded.base.to_dict()["head"] in caplog.text
    assert not loaded.new_head
    assert fresh.new_head
    assert fresh.base.head is None


@pytest.mark.parametrize("kind", sorted(FACTORIES))
def test_wholly_other_names_get_a_new_head(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As many labels of other names: all rows are new, and a line says so."""
    stored = _saved(kind, tmp_path)
    loaded = load_for_training(str(tmp_path), ("ant", "bee", "fly"))
    assert loaded.new_head
    fresh = load_for_training(str(tmp_path), ("ant", "bee", "fly"), reset_head=True)
    assert torch.equal(_head(loaded.model).weight, _head(fresh.model).weight)
    assert not torch.equal(_head(loaded.model).weight, _head(stored).weight)
    assert "none of its labels (dog, cat, bird) is one of the data's" in caplog.text


def test_a_width_that_equals_the_number_of_labels_by_chance(tmp_path: Path) -> None:
    """A head with a layer before the labels, as wide as they are many: that layer stays whole."""
    model = tiny.vit(num_labels=16)  # the hidden size
    names = [f"class {index}" for index in range(16)]
    model.config.id2label = dict(enumerate(names))
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    loaded = load_for_training(str(tmp_path), tuple(reversed(names)))
    own, stored = loaded.model.state_dict(), model.state_dict()
    assert torch.equal(own["classifier.weight"], stored["classifier.weight"].flip(0))
    assert all(torch.equal(value, stored[name]) for name, value in own.items() if not name.startswith("classifier."))


@pytest.mark.parametrize(
    ("stored", "wanted", "kept"),
    [
        (("cafe\u0301", "tea"), ("caf\u00e9", "tea"), {0: 0, 1: 1}),  # an accent encoded in two ways
        (("ice  cream ", "tea"), ("ice cream", "milk"), {0: 0}),
        (("crane", "crane", "heron"), ("crane", "heron"), {1: 2}),  # which crane?
        (("Cat", "dog"), ("cat", "dog"), {1: 1}),
        (("LABEL_0", "LABEL_1"), ("a", "b"), {0: 0, 1: 1}),
        (("LABEL_0", "LABEL_1"), ("a", "b", "c"), {}),
        (("LABEL_0", "LABEL_1"), ("LABEL_1", "LABEL_0"), {0: 1, 1: 0}),
    ],
)
def test_names_are_matched(stored: tuple[str, ...], wanted: tuple[str, ...], kept: dict[int, int]) -> None:
    """Blanks and encodings of accents do not matter, case does; a name that stands twice has no row."""
    assert match_rows(stored, wanted).kept == kept
