"""hf_transfer.architectures.inferred: models that nobody registered are grouped by a dry run, with a warning."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BeitConfig, BeitForImageClassification

import hf_transfer as ht
from hf_transfer.architectures.inferred import InferredWrapper
from hf_transfer.errors import LayerGroupError, UnknownArchitectureError
from tests.helpers import group_checks


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(torch.relu(self.norm(self.conv(x))))


class BackToFront(nn.Module):
    """A CNN whose parts are defined in the opposite order of their execution."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, num_classes)
        self.final_norm = nn.BatchNorm2d(8)
        self.late = nn.ModuleList(Block() for _ in range(2))
        self.early = nn.ModuleList(Block() for _ in range(2))
        self.entry = nn.Conv2d(3, 8, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.entry(x)
        for block in (*self.early, *self.late):
            x = block(x)
        return self.classifier(self.final_norm(x).mean((2, 3)))


class HandMadeViT(nn.Module):
    """Patches, a class token, numbered blocks of torch's own encoder layer, a norm and a head of two layers."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.positions = nn.Embedding(200, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True) for _ in range(3)
        )
        self.norm = nn.LayerNorm(8)
        self.head = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.positions(torch.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


def _sequential(num_classes: int = 5) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6, num_classes),
    )


class Tabular(nn.Module):
    """No image fits its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 4)
        self.second = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x)))


class Caching(BackToFront):
    """Keeps what it computed in eval mode, draws random numbers and counts its calls, as some models do."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, torch.Tensor] = {}
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.cache["weight"] = self.entry.weight * 2
        return super().forward(x + torch.rand_like(x))


MODELS = {"back to front": BackToFront, "hand-made ViT": HandMadeViT, "sequential": _sequential}
SHAPES = {"back to front": (1, 3, 64, 64), "hand-made ViT": (1, 3, 32, 32), "sequential": (1, 1, 28, 28)}


@pytest.mark.parametrize("name", MODELS)
def test_groups_of_unknown_models(name: str) -> None:
    """Partition, modules, order of execution and a head that depends on the labels hold without a wrapper."""
    model = MODELS[name]()
    wrapper = ht.wrap(model)
    assert wrapper.source == "inferred"
    group_checks.check_groups(model, wrapper.layer_groups)
    group_checks.check_modules(model, wrapper.layer_groups)
    group_checks.check_order(model, wrapper.layer_groups, torch.zeros(SHAPES[name]))
    group_checks.check_coarser(wrapper.layer_groups, ht.wrap(model, "stage").layer_groups)
    assert set(wrapper.head.parameter_names) == group_checks.label_parameters(model, MODELS[name](7))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("back to front", ["stem", "early.0", "early.1", "late.0", "late.1", "neck", "head"]),
        ("hand-made ViT", ["stem", "blocks.0", "blocks.1", "blocks.2", "neck", "head"]),
        ("sequential", ["0", "3", "head"]),
    ],
)
def test_names_of_inferred_groups(name: str, expected: list[str]) -> None:
    """Blocks are named by their paths; what runs before them is the stem, what runs between them and the head neck."""
    assert [group.name for group in ht.wrap(MODELS[name]()).layer_groups] == expected


def test_what_is_new_and_what_is_not_in_a_head_of_two_layers() -> None:
    """Only the last layer maps features to labels; the one before it is pretrained, hence neck, as the final norm."""
    groups = {group.name: group.parameter_names for group in ht.wrap(HandMadeViT()).layer_groups}
    assert groups["head"] == ("head.2.weight", "head.2.bias")
    assert groups["neck"] == ("norm.weight", "norm.bias", "head.0.weight", "head.0.bias")
    assert "cls_token" in groups["stem"]


def test_a_lone_norm_joins_the_layer_before_it() -> None:
    """Batch norms between the layers of a sequence are trained and frozen with the layer whose output they take."""
    groups = ht.wrap(_sequential()).layer_groups
    assert groups[1].parameter_names == ("3.weight", "3.bias", "4.weight", "4.bias")
    assert "8" in groups[2].module_names, "dropout before the head stays active with the head"


def test_two_classifiers_are_one_head() -> None:
    """A second classifier of the same shape, for distillation, is head, too."""

    class Distilled(BackToFront):
        def __init__(self) -> None:
            super().__init__()
            self.num_classes = 5
            self.teacher = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.entry(x).mean((2, 3))
            return self.classifier(x) + self.teacher(x)

    assert set(ht.wrap(Distilled()).head.parameter_names) == {
        f"{layer}.{name}" for layer in ("classifier", "teacher") for name in ("weight", "bias")
    }


def test_a_bottleneck_as_wide_as_the_labels_is_not_head() -> None:
    """A layer in front of the classifier that happens to have as many outputs is pretrained all the same."""

    class Narrow(BackToFront):
        def __init__(self) -> None:
            super().__init__()
            self.num_classes = 5
            self.bottleneck = nn.Linear(8, 5)
            self.classifier = nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.bottleneck(self.entry(x).mean((2, 3))))

    assert ht.wrap(Narrow()).head.parameter_names == ("classifier.weight", "classifier.bias")


def test_the_head_is_found_by_the_number_of_labels() -> None:
    """With num_classes known, a layer that runs after the classifier does not pass for it."""

    class Calibrated(BackToFront):
        def __init__(self) -> None:
            super().__init__()
            self.num_classes = 5
            self.temperature = nn.Linear(1, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            return self.temperature(logits.unsqueeze(-1)).squeeze(-1)

    assert ht.wrap(Calibrated()).head.parameter_names == ("classifier.weight", "classifier.bias")


def test_an_unregistered_transformers_model() -> None:
    """BEiT without its wrapper: its config gives image size and labels, and the groups come out right."""

    def make(num_labels: int) -> nn.Module:
        return BeitForImageClassification(
            BeitConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=16,
                image_size=40,
                patch_size=8,
                num_labels=num_labels,
            )
        )

    model = make(5)
    groups = InferredWrapper(model).layer_groups
    group_checks.check_groups(model, groups)
    group_checks.check_modules(model, groups)
    group_checks.check_order(model, groups, torch.zeros(1, 3, 40, 40))
    assert set(groups[-1].parameter_names) == group_checks.label_parameters(model, make(7))


def test_the_warning_shows_the_table_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first wrap of a model warns with all groups and what to do; the next ones do not repeat it."""
    model = BackToFront()
    for _ in range(3):
        groups = ht.wrap(model).layer_groups
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "No wrapper is registered for BackToFront" in message
    assert "register a wrapper" in message
    rows = [line.split() for line in message.splitlines()[1:]]
    assert rows == [[str(g.index), g.role, g.name] for g in groups]


def test_strict_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """strict=True raises instead of guessing, and does not run the model."""
    with pytest.raises(UnknownArchitectureError, match="BackToFront.*register_wrapper.*strict=False"):
        ht.wrap(BackToFront(), strict=True)
    assert not caplog.records


def test_a_model_that_cannot_run_falls_back(caplog: pytest.LogCaptureFixture) -> None:
    """Without a forward pass the order of definition stands, and a warning says so."""
    model = Tabular()
    wrapper = ht.wrap(model)
    group_checks.check_groups(model, wrapper.layer_groups)
    assert [g.parameter_names[0] for g in wrapper.layer_groups] == ["first.weight", "second.weight", "last.weight"]
    warnings = [record.getMessage() for record in caplog.records]
    assert "Tabular could not be run on a blank image" in warnings[0]
    assert "order of their definition" in warnings[0]
    assert "inferred" in warnings[1]


def test_a_model_that_cannot_be_copied_falls_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The dry run needs a copy; a module that holds an open file still gets its groups."""
    model = BackToFront()
    with (tmp_path / "log").open("w") as file:
        model.log = file
        group_checks.check_groups(model, ht.wrap(model).layer_groups)
    assert "could not be run" in caplog.text


@pytest.mark.parametrize("training", [True, False])
def test_the_dry_run_leaves_no_trace(training: bool) -> None:
    """Modes, hooks, buffers, caches, gradients and the random state are as before, although a forward pass was run."""
    model = Caching().train(training)
    model.early[0].eval()
    before = group_checks.fingerprint(model)
    assert ht.wrap(model).source == "inferred"
    assert group_checks.fingerprint(model) == before
    assert model.cache == {}
    assert model.calls.item() == 0


def test_the_dry_run_leaves_tensors_that_can_be_trained() -> None:
    """Training right after wrap works: no tensor of an inference pass is left inside the model."""
    model = Caching()
    ht.wrap(model)
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("size", [32, (32, 48), [32, 48]])
def test_the_configured_image_size_is_used(size: Any) -> None:
    """A model that runs at its own size alone is run at that size, square or not."""

    class Config:
        image_size = size

    class OneSize(BackToFront):
        config = Config()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            expected = (size, size) if isinstance(size, int) else tuple(size)
            if tuple(x.shape[2:]) != expected:
                raise ValueError("wrong size")
            return super().forward(x)

    assert ht.wrap(OneSize()).layer_groups[1].name == "early.0"


def test_parameters_of_a_stage_join_its_first_block() -> None:
    """A token that belongs to a later stage itself is not stem: it is trained with the first block of that stage."""

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(8, 1, 1))
            self.layers = nn.ModuleList(Block() for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.token
            for layer in self.layers:
                x = layer(x)
            return x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.entry = nn.Conv2d(3, 8, 3)
            self.stages = nn.Sequential(Stage(), Stage())
            self.fc = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.stages(self.entry(x)).mean((2, 3)))

    model = Net()
    fine, coarse = ht.wrap(model).layer_groups, ht.wrap(model, "stage").layer_groups
    assert [g.name for g in fine] == ["stem", *(f"stages.{i}.layers.{j}" for i in (0, 1) for j in (0, 1)), "head"]
    assert "stages.1.token" in fine[3].parameter_names
    assert [g.name for g in coarse] == ["stem", "stages.0", "stages.1", "head"]
    group_checks.check_order(model, fine, torch.zeros(1, 3, 32, 32))


def test_one_layer_has_no_head() -> None:
    """A single layer is a stem without a head, and asking for the head says what is missing."""
    with pytest.raises(LayerGroupError, match="Linear has no classification head"):
        _ = ht.wrap(nn.Linear(2, 2)).head
