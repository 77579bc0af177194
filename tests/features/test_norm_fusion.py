"""Fusion of batch normalisation: less work, the same features, and a model that is given back as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from hf_transfer.features.extraction import extracting
from hf_transfer.features.norm_fusion import NormFusion
from hf_transfer.features.taps import TapReader
from tests.helpers import tiny

NETWORKS = ("resnet", "efficientnet", "mobilenet_v2", "timm:resnet18", "wrapped:tf_efficientnet_lite0")


def with_statistics(model: nn.Module) -> nn.Module:
    """A model in training mode whose normalisations all do something."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.train()


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Check that the context leaves each parameter the same object with the same bits, and each module its forward."""
    parameters = {name: (parameter, parameter.detach().clone()) for name, parameter in model.named_parameters()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    yield
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    found = dict(model.named_parameters())
    assert found.keys() == parameters.keys()
    assert all(found[name] is own and torch.equal(own, bits) for name, (own, bits) in parameters.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_the_same(name: str) -> None:
    """All normalisations of real architectures are fused, which changes the taps by rounding alone."""
    model = with_statistics(tiny.ALL_MODELS[name]())
    images = torch.randn(5, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with unchanged(model), extracting(model), TapReader(model, "all") as taps:
        expected = taps.read(images)
        with NormFusion(model) as fusion:
            fusion.fuse(lambda: list(taps.read(images[:2]).values()))
            assert fusion.fused == len(norms)
            ran = []
            handles = [m.register_forward_hook(lambda module, *_: ran.append(module)) for m in norms]
            found = taps.read(images)
            assert set(ran) == set(norms)  # hooks still see them
            for handle in handles:
                handle.remove()
        again = taps.read(images)
    for layer, value in expected.items():
        torch.testing.assert_close(found[layer], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))
        assert torch.equal(again[layer], value)
    assert any(not torch.equal(found[layer], value) for layer, value in expected.items())


class Skip(nn.Module):
    """What the convolution gives is added to its normalised self."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        plain = self.convolution(images)
        added: torch.Tensor = plain + self.norm(plain)
        return added


class InPlace(Skip):
    """What the normalisation reads is still the convolution's tensor, but no longer its result."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normalised: torch.Tensor = self.norm(self.convolution(images).relu_())
        return normalised


@pytest.mark.parametrize("network", [Skip, InPlace])
def test_a_convolution_that_is_not_only_normalised_stays(
    network: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    """Where the result would differ nothing is fused, whatever the order of modules looks like."""
    model = with_statistics(network())
    images = torch.randn(2, 3, 8, 8)
    with caplog.at_level(logging.INFO), unchanged(model), extracting(model), NormFusion(model) as fusion:
        expected = model(images)
        fusion.fuse(lambda: [model(images)])
        assert fusion.fused == 0
        assert torch.equal(model(images), expected)
    assert "stays as it is" in caplog.text


def test_what_was_not_compared_does_not_stay() -> None:
    """An error in the second pass, of memory say, leaves the model as it was."""
    model = with_statistics(Skip())
    images = torch.randn(2, 3, 8, 8)
    runs = []

    def run() -> list[torch.Tensor]:
        runs.append(len(runs))
        if len(runs) == 2:
            raise torch.OutOfMemoryError
        return [model(images)]

    with unchanged(model), extracting(model), NormFusion(model) as fusion:
        expected = model(images)
        with pytest.raises(torch.OutOfMemoryError):
            fusion.fuse(run)
        fusion.fuse(run)
        assert fusion.fused == 0 and torch.equal(model(images), expected)


class Shared(Skip):
    """One convolution, two normalisations of what it gives in two runs, and a third that is fusible."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)
        self.tail = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5, affine=False))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tail: torch.Tensor = self.tail(self.other(self.convolution(self.norm(self.convolution(images)))))
        return tail


def test_modules_that_run_twice_stay() -> None:
    """A convolution that runs twice keeps its weights; others are fused all the same."""
    model = with_statistics(Shared())
    images = torch.randn(2, 3, 8, 8)
    with unchanged(model), extracting(model), NormFusion(model) as fusion:
        expected = model(images)
        fusion.fuse(lambda: [model(images)])
        assert fusion.fused == 1
        assert model.tail[0].bias is not None
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.BatchNorm2d(4).double(),
        nn.InstanceNorm2d(4, track_running_stats=True),
    ],
)
def test_other_normalisations_stay(norm: nn.Module) -> None:
    """Statistics of the batch, other precisions and other kinds of normalisation are left alone."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3).to(next(norm.parameters(), torch.zeros(0)).dtype), norm)
    images = torch.randn(2, 3, 8, 8, dtype=model[0].weight.dtype)
    with unchanged(model), extracting(model), NormFusion(model) as fusion:
        fusion.fuse(lambda: [model(images)])
        assert fusion.fused == 0


def test_nothing_is_fused_outside_of_the_context_or_twice() -> None:
    """What is computed after the pass sees the model's own weights."""
    model = with_statistics(tiny.resnet()).eval()
    images = torch.randn(2, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)
    fusion = NormFusion(model)
    fusion.fuse(lambda: pytest.fail("run outside of the context"))
    with torch.no_grad(), fusion:
        fusion.fuse(lambda: [model(images).logits])
        assert fusion.fused
        fusion.fuse(lambda: pytest.fail("run twice"))
    with unchanged(model):
        fusion.fuse(lambda: pytest.fail("run outside of the context"))
