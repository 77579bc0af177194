"""The random twin has the architecture and nothing of the weights; its deep layers are alive."""

from __future__ import annotations

import pytest
import torch

from hf_transfer.diagnosis.twin import calibrate, looks_untrained, random_twin
from hf_transfer.features.taps import TapReader
from tests.helpers import tiny
from tests.helpers.tiny import IMAGE_SIZE


@pytest.mark.parametrize("name", ["vit", "resnet", "timm:resnet18", "wrapped:tf_efficientnet_lite0"])
def test_a_twin_is_drawn_anew(name: str) -> None:
    """Shapes are the same, weights others; the same seed gives the same twin, and the model stays as it is."""
    model = tiny.ALL_MODELS[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    one, same, other = (random_twin(model, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in before.items()}
    assert all(torch.equal(one[key], same[key]) for key in one)
    drawn = [key for key, value in one.items() if value.ndim > 1 and value.std() > 0]
    assert drawn
    assert all(not torch.equal(one[key], other[key]) and not torch.equal(one[key], before[key]) for key in drawn)


def test_a_network_of_ones_own_is_drawn_anew() -> None:
    """A module of no library is copied and its layers reset."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    model.requires_grad_(True)
    twin = random_twin(model, 0)
    assert not torch.equal(twin[0].weight, model[0].weight)  # type: ignore[index]


def test_deep_layers_are_alive_after_calibration() -> None:
    """Activations of a fresh network vanish with depth; with statistics of some images they have one scale."""
    twin = random_twin(tiny.timm_wrapper("tf_efficientnet_lite0"), 0).eval()
    images = torch.randn(16, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))

    def spreads() -> list[float]:
        with TapReader(twin, "all") as taps, torch.inference_mode():
            return [float(value.std(dim=0).mean()) for value in taps.read(images).values()]

    fresh = spreads()
    calibrate(twin, images)
    alive = spreads()
    assert min(fresh) < 1e-3
    assert min(alive) > 0.02
    assert not any(module.training for module in twin.modules())
    assert {norm.momentum for norm in twin.modules() if isinstance(norm, torch.nn.BatchNorm2d)} != {None}


def test_calibration_without_batch_norm_changes_nothing() -> None:
    """A ViT has no statistics."""
    twin = random_twin(tiny.vit(), 0)
    before = {key: value.clone() for key, value in twin.state_dict().items()}
    calibrate(twin, torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE))
    assert all(torch.equal(before[key], value) for key, value in twin.state_dict().items())


@pytest.mark.parametrize("name", ["vit", "resnet", "swin", "timm:resnet18", "wrapped:tf_efficientnet_lite0"])
def test_untrained_models_are_known(name: str) -> None:
    """Norm layers of a model that was just made have one scale and one shift, as no training leaves them."""
    model = tiny.ALL_MODELS[name]()
    assert looks_untrained(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    assert not looks_untrained(model)
