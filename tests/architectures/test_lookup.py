"""architectures.lookup: wrappers are found by model type, register once, and own each module of the model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import timm
import torch
from torch import nn

import hf_transfer as ht
from hf_transfer.architectures import lookup as registry
from hf_transfer.architectures.inferred import InferredWrapper
from hf_transfer.architectures.layer_groups import Role
from hf_transfer.architectures.layout import Layout, LayoutWrapper
from hf_transfer.architectures.lookup import architecture_name, registry_key
from hf_transfer.architectures.norms import norm_parameter_names
from hf_transfer.architectures.registry import WRAPPERS
from hf_transfer.architectures.wrapper import GroupDraft, ModelWrapper, owned_modules
from hf_transfer.errors import ArgumentError, LayerGroupError, SelectorError, UnknownArchitectureError
from tests.helpers import tiny

ht.list_wrappers()
ViTWrapper = WRAPPERS["vit"]


class Net(nn.Module):
    """The smallest network with a stem, a block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 3)
        self.blocks = nn.ModuleList([nn.Conv2d(2, 2, 3)])
        self.drop = nn.Dropout()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.blocks[0](self.stem(x)).mean((2, 3))))


class NetWrapper(LayoutWrapper):
    """The layout of `Net`."""

    layout = Layout(stem=("stem",), blocks="blocks.*", head=("fc",))


class Drafted(ModelWrapper):
    """Groups that the test chooses."""

    drafts: list[GroupDraft] = []

    def draft_groups(self) -> list[GroupDraft]:
        return self.drafts


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Registrations of a test are gone after it."""
    ht.list_wrappers()
    kept = dict(WRAPPERS)
    yield
    WRAPPERS.clear()
    WRAPPERS.update(kept)
    registry._load_plugins.cache_clear()


def _entry_points(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    def installed(*, group: str) -> tuple[EntryPoint, ...]:
        return tuple(entry for entry in entries if entry.group == group)

    monkeypatch.setattr(registry, "entry_points", installed)
    registry._load_plugins.cache_clear()


# --- registering -------------------------------------------------------------------------------------------------


def test_a_registered_wrapper_is_used() -> None:
    """The decorator gives the class back, and `wrap` finds it by the name of the model's class."""
    assert ht.register_wrapper("Net")(NetWrapper) is NetWrapper
    wrapper = ht.wrap(Net(), strict=True)
    assert type(wrapper) is NetWrapper
    assert wrapper.source == "registered"
    assert [g.name for g in wrapper.layer_groups] == ["stem", "blocks.0", "head"]
    assert "Net" in ht.list_wrappers()


def test_a_model_type_goes_before_the_class_name() -> None:
    """`config.model_type` is the first key; one wrapper can be registered for several types."""

    class Config:
        model_type = "net_2"

    ht.register_wrapper("net_1", "net_2")(NetWrapper)
    model = Net()
    model.config = Config()  # type: ignore[assignment]
    assert registry_key(model) == "net_2"
    assert ht.wrap(model).source == "registered"


def test_a_doubled_type_is_refused() -> None:
    """A second class for a type raises, built-in types included, unless replace=True; nothing is registered then."""
    ht.register_wrapper("Net")(NetWrapper)
    for name in ("Net", "vit"):
        with pytest.raises(ArgumentError, match=f"Already registered: {name}.*replace=True"):
            ht.register_wrapper("new", name)(Drafted)
    assert "new" not in ht.list_wrappers()
    assert type(ht.wrap(Net())) is NetWrapper
    assert type(ht.wrap(tiny.vit())) is ViTWrapper


def test_replace_replaces() -> None:
    """replace=True takes the place of a registered wrapper."""

    class Better(ViTWrapper):
        """Another one."""

    ht.register_wrapper("vit", replace=True)(Better)
    assert type(ht.wrap(tiny.vit())) is Better


def test_the_same_class_registers_twice() -> None:
    """A module that registers its class, and names it as entry point as well, is no conflict."""
    ht.register_wrapper("Net")(NetWrapper)
    ht.register_wrapper("Net")(NetWrapper)
    assert ht.list_wrappers().count("Net") == 1


@pytest.mark.parametrize("names", [(), ("",), (3,), (NetWrapper,)])
def test_a_type_is_a_name(names: tuple[Any, ...]) -> None:
    """`@register_wrapper` without a type, or directly on the class, says how it is used."""
    with pytest.raises(ArgumentError, match="register_wrapper needs the model type"):
        ht.register_wrapper(*names)


@pytest.mark.parametrize("wrong", [Net, NetWrapper.draft_groups, "NetWrapper"])
def test_a_wrapper_is_a_model_wrapper(wrong: Any) -> None:
    """Other classes and functions are refused."""
    with pytest.raises(ArgumentError, match="subclass of ModelWrapper"):
        ht.register_wrapper("Net")(wrong)


@pytest.mark.slow
def test_registering_before_the_first_wrap() -> None:
    """In a fresh process a script may replace a built-in wrapper before anything else is loaded, or be refused."""
    script = """
import hf_transfer as ht
from hf_transfer.errors import ArgumentError
class Mine(ht.ModelWrapper):
    pass
try:
    ht.register_wrapper("swin")(Mine)
except ArgumentError as error:
    print(error)
ht.register_wrapper("vit", replace=True)(Mine)
names = ht.list_wrappers()
from hf_transfer.architectures import lookup as registry
print(registry.WRAPPERS["vit"] is Mine, registry.WRAPPERS["swin"] is Mine, len(names) > 5)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["Already registered: swin. Pass replace=True to replace.", "True False True"]


# --- entry points ------------------------------------------------------------------------------------------------


def test_a_wrapper_of_another_distribution_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry-point group hf_transfer.wrappers is read, the entry's name is the model type."""
    _entry_points(monkeypatch, EntryPoint("Net", f"{__name__}:NetWrapper", "hf_transfer.wrappers"))
    assert type(ht.wrap(Net(), strict=True)).__name__ == "NetWrapper"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:Wrapper", "no_such_module"),
        (f"{__name__}:Missing", "Missing"),
        (f"{__name__}:Net", "subclass"),
    ],
)
def test_a_broken_entry_point_does_not_break_wrap(
    value: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A plugin that cannot be imported, or is no wrapper, is named in one warning, and all others work."""
    _entry_points(
        monkeypatch,
        EntryPoint("broken", value, "hf_transfer.wrappers"),
        EntryPoint("Net", f"{__name__}:NetWrapper", "hf_transfer.wrappers"),
    )
    for _ in range(2):
        assert ht.wrap(tiny.vit()).source == "registered"
    assert type(ht.wrap(Net())).__name__ == "NetWrapper"
    (record,) = caplog.records
    assert f"'broken' of {value} cannot be used" in record.getMessage()
    assert reason in record.getMessage()


def test_an_entry_point_does_not_take_a_built_in_type(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An installed package cannot change how ViT is grouped without the user's replace=True."""
    _entry_points(monkeypatch, EntryPoint("vit", f"{__name__}:NetWrapper", "hf_transfer.wrappers"))
    assert type(ht.wrap(tiny.vit())) is ViTWrapper
    assert "Already registered: vit" in caplog.text


# --- wrapping ----------------------------------------------------------------------------------------------------


def test_the_built_in_wrappers_are_listed() -> None:
    """The architectures that are supported by declaration, and the two generic ways, are there, sorted."""
    names = ht.list_wrappers()
    assert names == sorted(names)
    assert {*tiny.TRANSFORMERS_MODELS, "timm", "timm_wrapper", "inferred"} <= set(names)


@pytest.mark.parametrize("name", tiny.ALL_MODELS)
def test_supported_models_pass_strict(name: str) -> None:
    """strict=True, which refuses guesses, takes every supported architecture."""
    expected = "registered" if name in tiny.TRANSFORMERS_MODELS else "timm"
    assert ht.wrap(tiny.ALL_MODELS[name](), strict=True).source == expected


def test_strict_refuses_timm_models_that_would_be_inferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without group_matcher or declared layout is a guess, bare or inside TimmWrapper."""
    monkeypatch.setattr("hf_transfer.architectures.timm_models.LAYOUTS", {})
    wrapped = tiny.timm_wrapper("resnet18")
    wrapped.timm_model = timm.create_model("poolformerv2_s12", num_classes=3)
    for model in (wrapped, wrapped.timm_model):
        assert registry_key(model) == "inferred"
        with pytest.raises(UnknownArchitectureError):
            ht.wrap(model, strict=True)


def test_a_wrapped_timm_model_that_nobody_groups(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Inside TimmWrapper such a model is inferred once, with the classifier that timm declares as head."""
    monkeypatch.setattr("hf_transfer.architectures.timm_models.LAYOUTS", {})
    wrapped = tiny.timm_wrapper("resnet18")
    with torch.device("meta"):
        wrapped.timm_model = timm.create_model("caformer_s18", num_classes=3)
    wrapper = ht.wrap(wrapped)
    assert wrapper.source == "inferred"
    assert wrapper.head.parameter_names == ("timm_model.head.fc.fc2.weight", "timm_model.head.fc.fc2.bias")
    assert len(caplog.records) == 1


@pytest.mark.parametrize("model", ["microsoft/resnet-50", None, Net])
def test_wrap_takes_a_module(model: Any) -> None:
    """A model id, None or a class instead of a model is answered plainly."""
    with pytest.raises(ArgumentError, match="wrap takes a torch.nn.Module, found (str|NoneType|type)"):
        ht.wrap(model)


def test_granularity_is_checked() -> None:
    """An unknown granularity raises with those that exist."""
    with pytest.raises(ArgumentError, match='"block" or "stage", found \'layer\''):
        ht.wrap(tiny.vit(), "layer")  # type: ignore[arg-type]


def test_a_model_without_parameters_is_refused() -> None:
    """There is nothing to group, and the message says so instead of failing inside."""
    with pytest.raises(LayerGroupError, match="ReLU has no parameters"):
        ht.wrap(nn.ReLU())


def test_a_wrapper_must_draft_groups() -> None:
    """The base class says which method is missing."""
    with pytest.raises(NotImplementedError, match="draft_groups"):
        ModelWrapper(Net())


def test_the_groups_of_a_wrapper_are_checked() -> None:
    """A third-party wrapper that forgets a parameter cannot be used; empty groups are dropped."""

    class Forgetful(Drafted):
        drafts = [GroupDraft("stem", "stem", ["stem.weight"]), GroupDraft("neck", "neck"), GroupDraft("head", "head")]

    with pytest.raises(LayerGroupError, match="in no group: stem.bias, blocks.0.weight"):
        Forgetful(Net())


def test_repr_is_short() -> None:
    """The wrapper shows its class, the model's class, the number of groups and where they come from."""
    assert repr(ht.wrap(tiny.vit())) == "VitWrapper(ViTForImageClassification, 6 groups, registered)"


def test_select_resolves_on_a_model() -> None:
    """`select` is wrap and select_groups in one, with the model's norm layers and either granularity."""
    model = tiny.convnext()
    assert [g.name for g in ht.select(model, "last:1")] == ["neck", "head"]
    assert [g.name for g in ht.select(model, "blocks:1", "stage")] == ["convnext.encoder.stages.3", "neck", "head"]
    norms = {n for g in ht.select(model, "norm") for n in g.parameter_names}
    assert norms == norm_parameter_names(model) | {"classifier.weight", "classifier.bias"}
    with pytest.raises(SelectorError, match="0 stem .stem., 1 convnext.encoder"):
        ht.select(model, "from:nowhere")


# --- names -------------------------------------------------------------------------------------------------------


def test_architecture_names() -> None:
    """Plans are bound to a transformers model type, a timm architecture (bare or wrapped) or a class name."""
    assert architecture_name(tiny.vit()) == "transformers:vit"
    assert architecture_name(tiny.timm_model("resnet18")) == "timm:resnet18"
    assert architecture_name(tiny.timm_wrapper("resnet18")) == "timm:resnet18"
    assert architecture_name(Net()) == "Net"


def test_registry_keys() -> None:
    """Keys go from the model type over timm's interface to inference."""
    keys = {name: registry_key(make()) for name, make in tiny.ALL_MODELS.items()}
    assert {keys[name] for name in tiny.TIMM_MODELS} == {"timm"}
    assert {keys[name] for name in tiny.TIMM_WRAPPERS} == {"timm_wrapper"}
    assert {keys[name] for name in tiny.TRANSFORMERS_MODELS} == set(tiny.TRANSFORMERS_MODELS)
    assert registry_key(Net()) == "inferred"


# --- norms -------------------------------------------------------------------------------------------------------


# --- modules of groups -------------------------------------------------------------------------------------------


def _owned(model: nn.Module, *groups: tuple[str, Role, str]) -> list[list[str]]:
    """Groups are given by the prefix of their parameters."""
    names = [name for name, _ in model.named_parameters()]
    return owned_modules(
        model, [GroupDraft(name, role, [n for n in names if n.startswith(prefix)]) for name, role, prefix in groups]
    )


def test_a_dropout_before_the_head_belongs_to_the_head() -> None:
    """Frozen groups stay in eval mode; the dropout in front of a trained classifier is not frozen with the body."""
    assert _owned(Net(), ("stem", "stem", "stem"), ("blocks.0", "block", "blocks"), ("head", "head", "fc")) == [
        ["stem"],
        ["blocks"],
        ["drop", "fc"],
    ]


def test_modules_without_parameters_go_with_their_surroundings() -> None:
    """Inside a block they are the block's; between groups they belong to the one before, or to the first of all."""
    model = nn.ModuleDict(
        {
            "noise": nn.Dropout(),
            "a": nn.Sequential(nn.Dropout(), nn.Linear(1, 1), nn.ReLU()),
            "pool": nn.MaxPool2d(2),
            "b": nn.Linear(1, 1),
            "frozen_statistics": nn.BatchNorm1d(1, affine=False),
            "c": nn.Linear(1, 1),
        }
    )
    assert _owned(model, ("stem", "stem", "a"), ("b", "block", "b"), ("c", "block", "c")) == [
        ["noise", "a", "pool"],
        ["b", "frozen_statistics"],
        ["c"],
    ]


def test_a_module_of_two_groups_is_split() -> None:
    """A container is listed whole where one group has it, by its children where two share it."""
    model = nn.Sequential(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), nn.Sequential(nn.Linear(1, 1), nn.ReLU()))
    groups: list[tuple[str, Role, str]] = [("x", "block", "0.0"), ("y", "block", "0.1"), ("z", "block", "1")]
    assert _owned(model, *groups) == [["0.0"], ["0.1"], ["1"]]
    assert owned_modules(model, [GroupDraft("all", "block", [n for n, _ in model.named_parameters()])]) == [[""]]


def test_inferred_wrapper_is_registered_last() -> None:
    """The generic wrapper is not used while a registered one fits."""
    assert type(ht.wrap(Net())) is InferredWrapper
    ht.register_wrapper("Net")(NetWrapper)
    assert type(ht.wrap(Net())) is NetWrapper
