"""A cut model is the whole model, fed in the middle: for every architecture, or else it is refused."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

import hf_transfer as ht
from hf_transfer.errors import CutError
from hf_transfer.feature_cache.check import CHECK_IMAGES, find_cut
from hf_transfer.feature_cache.cut import Captured, Cut
from hf_transfer.phases.freezing import frozen
from tests.helpers import tiny
from tests.helpers.fast import slow_but
from tests.helpers.tiny_zoo import OPTIONS, zoo_image_size, zoo_model

MAKERS: dict[str, Callable[[], nn.Module]] = {name: lambda name=name: zoo_model(name) for name in OPTIONS}  # type: ignore[misc]
MAKERS |= tiny.TIMM_MODELS | tiny.TIMM_WRAPPERS


def cut_of(model: nn.Module, train: str, images: torch.Tensor) -> Cut:
    """The cut of a phase that trains this."""
    groups = ht.wrap(model).layer_groups
    with frozen(model, ht.Phase("phase", train=train)) as state:
        model.train()
        touched = {g.index for g in groups if state.trained.intersection(g.parameter_names)}
        return find_cut(model, groups, touched, state.trained, images)


def logits(output: object) -> torch.Tensor:
    found = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    return found if found is not None else output.last_hidden_state  # type: ignore[attr-defined]


def unpack_from(captured: Captured) -> Callable[[torch.Tensor], Captured | None]:
    """Take row numbers in place of images."""

    def unpack(value: torch.Tensor) -> Captured | None:
        known = value.dtype == torch.int64
        return Captured(tuple(row[value] for row in captured.rows), captured.constants) if known else None

    return unpack


# A flat network, staged ones with and without batch norms, one with two heads, and timm's, bare and wrapped.
FAST = ("clip", "levit-distilled", "poolformer", "resnet", "swin", "timm:resnet18", "wrapped:vit_tiny_patch16_224")


@pytest.mark.parametrize("name", slow_but(FAST, MAKERS))
def test_cut_models_equal_whole_ones(name: str) -> None:
    """At the head and in the middle: outputs agree for other batches than were captured; the prefix does not run."""
    logging.getLogger("hf_transfer").setLevel(logging.ERROR)  # tables of inferred groups
    torch.manual_seed(0)
    model = MAKERS[name]()
    size = zoo_image_size(name) if name in OPTIONS else tiny.IMAGE_SIZE
    images = torch.randn(CHECK_IMAGES, 3, size, size)
    groups = ht.wrap(model).layer_groups
    ran: list[str] = []
    for train in ("head", f"from:{groups[len(groups) // 2].name}"):
        cut = cut_of(model, train, images)
        assert not any(module._forward_pre_hooks or "forward" in vars(module) for module in model.modules())
        model.eval()
        with torch.no_grad():
            captured = cut.capture(images)
            whole = logits(model(images[[3, 0]]))
            ran.clear()
            inside = [m for stub in cut.boundary.stubs for m in model.get_submodule(stub).modules()]
            parts = [module for module in inside if not list(module.children())]
            handles = [part.register_forward_pre_hook(lambda *_: ran.append("")) for part in parts]
            with cut.installed(unpack_from(captured), images[0]):
                torch.testing.assert_close(logits(model(torch.tensor([3, 0]))), whole, rtol=1e-4, atol=1e-5)
                # A stub itself is called, and what is in it is not.
                assert len(ran) <= sum(len(runs) for runs in cut.boundary.stubs.values())
                torch.testing.assert_close(logits(model(images[[3, 0]])), whole)
            for handle in handles:
                handle.remove()


class Residual(nn.Module):
    """Two blocks and a head, in the ways that a test asks for."""

    def __init__(self, **traits: bool) -> None:
        super().__init__()
        self.traits = traits
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()) for _ in range(3))
        self.scale = nn.Parameter(torch.full((4, 1, 1), 1.5))
        self.fc = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.stem(images)
        if self.traits.get("random"):
            first = nn.functional.dropout(first, 0.5, self.training)
        if self.traits.get("early_parameter"):
            first = first * self.scale
        x = self.blocks[0](first)
        if self.traits.get("in_place"):
            x += 1
        x = self.blocks[1](x)
        x = self.blocks[2](x + first if self.traits.get("skip") else x)
        x = x * self.scale
        return self.fc(x.mean((2, 3)) + (first.mean((2, 3)) if self.traits.get("long_skip") else 0.0))


@pytest.mark.parametrize(
    ("traits", "train", "reason"),
    [
        ({"long_skip": True}, "from:blocks.1", "outputs differ"),
        ({"random": True}, "head", "random in training"),
        ({"early_parameter": True}, ("head", "re:scale"), "scale|gradients|share|frozen"),
        ({}, "all", "frozen"),
    ],
)
def test_what_is_not_the_same_function_is_refused(traits: dict[str, bool], train: str, reason: str) -> None:
    """A skip over the cut, randomness before it, trained parameters before it: an error that says which."""
    with pytest.raises(CutError, match=reason):
        cut_of(Residual(**traits), train, torch.randn(CHECK_IMAGES, 3, 16, 16))


def test_a_skip_moves_the_cut_and_in_place_operations_get_memory() -> None:
    """Where the latest place loses a skip connection, an earlier one is found; blank tensors can be written into."""
    images = torch.randn(CHECK_IMAGES, 3, 16, 16)
    assert cut_of(Residual(skip=True), "from:blocks.2", images).boundary.path == "blocks.2"
    cut = cut_of(Residual(in_place=True), "from:blocks.2", images)
    assert (cut.boundary.path, cut.materialise) == ("blocks.2", True)


def test_copies_of_a_cut_model_work() -> None:
    """A deep copy (as averaging of weights makes it) gives the whole model's outputs, also while the cut is fed."""
    model = tiny.vit().eval()
    images = torch.randn(CHECK_IMAGES, 3, 32, 32)
    cut = cut_of(model, "head", images)
    model.eval()
    with torch.no_grad(), cut.installed(unpack_from(cut.capture(images)), images[0]):
        model(torch.tensor([1, 2]))
        twin = copy.deepcopy(model)
        torch.testing.assert_close(twin(images).logits, model(images).logits)


def test_an_error_in_the_suffix_leaves_the_model_whole() -> None:
    """After an exception the next batch of images goes the whole way."""
    model = tiny.vit().eval()
    images = torch.randn(CHECK_IMAGES, 3, 32, 32)
    cut = cut_of(model, "head", images)
    model.eval()
    with torch.no_grad():
        whole = model(images).logits
        with cut.installed(unpack_from(cut.capture(images)), images[0]):
            handle = model.classifier.register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(torch.tensor([0]))
            handle.remove()
            torch.testing.assert_close(model(images).logits, whole)
