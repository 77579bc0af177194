"""Networks without a field for fewer blocks end earlier: what stands behind passes its input through."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from transformers import AutoModelForImageClassification, TimmWrapperConfig, TimmWrapperForImageClassification

from hf_transfer.architectures.lookup import select, wrap
from hf_transfer.errors import TruncationError
from hf_transfer.features.depths import layers_at_depths
from hf_transfer.models.truncation import truncate, truncation_points

PASSING = ("tf_efficientnet_lite0", "mobilenetv2_050", "mnasnet_small", "fbnetc_100", "semnasnet_075", "spnasnet_100")


def _model(name: str, seed: int = 0) -> nn.Module:
    """A network whose norms are as uneven as those of a trained one."""
    torch.manual_seed(seed)
    model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, num_labels=3)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.2, 1.5)
            module.bias.data.normal_(0, 0.5)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model


def _outputs(model: nn.Module, module: str, images: torch.Tensor) -> torch.Tensor:
    found = []
    handle = model.get_submodule(module).register_forward_hook(lambda _m, _i, output: found.append(output))
    with torch.no_grad():
        model(images)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("name", PASSING)
def test_the_head_gets_the_means_of_the_earlier_layer(name: str) -> None:
    """Behind several cuts, over strides and gates, the difference of both halves is the layer's mean, to rounding."""
    model, images = _model(name), torch.randn(2, 3, 128, 128)
    points = truncation_points(model)
    assert len(points) >= 4
    for point in (points[len(points) // 2], points[-3], points[-1]):
        smaller = truncate(model, point).eval()
        expected = _outputs(model, point, images).mean((2, 3))
        read = _outputs(smaller, "timm_model.global_pool", images)
        width = expected.shape[1]
        halves = read[:, :width] - read[:, width : 2 * width]
        scale = float((halves * expected).sum() / expected.square().sum())
        assert scale > 0
        torch.testing.assert_close(halves / scale, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        assert not read[:, 2 * width :].any()


def test_the_result_is_an_ordinary_checkpoint(tmp_path: Path) -> None:
    """Saved and loaded by transformers alone it gives the same scores, with the same shapes as before."""
    model = _model("mobilenetv2_050")
    smaller = truncate(model, truncation_points(model)[-2]).eval()
    assert {n: p.shape for n, p in smaller.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    smaller.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, smaller(images).logits)
    assert wrap(loaded).layer_groups[-2].role == "tail"


def test_the_tail_is_in_no_selection() -> None:
    """Whatever is selected, by share, number, name or pattern, what passes through is not trained."""
    model = _model("mobilenetv2_050")
    smaller = truncate(model, truncation_points(model)[5])
    tail = {name for group in wrap(smaller).layer_groups if group.role == "tail" for name in group.parameter_names}
    assert any("conv_head" in name for name in tail)
    blocks = [group.name for group in wrap(smaller).layer_groups if group.role == "block"]
    for selector in (
        "all",
        "part:half",
        "blocks:2",
        "last:1",
        "norm",
        "bias",
        f"from:{blocks[0]}",
        "re:conv",
        "only:1-3",
    ):
        assert not tail & {name for group in select(smaller, selector) for name in group.parameter_names}, selector
    assert blocks[-1] in {group.name for group in select(smaller, "blocks:1")}
    assert "tail" not in layers_at_depths(smaller)


def test_a_model_that_ends_earlier_can_end_earlier_still() -> None:
    """A second cut lies before the first one, and the tail grows."""
    model = _model("mobilenetv2_050")
    points = truncation_points(model)
    smaller = truncate(model, points[6])
    assert truncation_points(smaller) == points[:6]
    again = truncate(smaller, points[2])
    assert again.config.ends_after == points[2]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("efficientnet_b0", "cannot be truncated"), ("mobilenetv3_small_050", "cannot be truncated")],
)
def test_other_activations_are_refused(name: str, reason: str) -> None:
    """A network whose activations do not let a value through is refused as before, in one line."""
    model = _model(name)
    assert truncation_points(model) == ()
    with pytest.raises(TruncationError, match=reason):
        truncate(model, [g.name for g in wrap(model).layer_groups if g.role == "block"][1])


def test_timm_loads_the_checkpoint_too(tmp_path: Path) -> None:
    """timm reads the saved weights under its own names and gives the same scores."""
    from hf_transfer.models.timm_interop import complete_timm_config, strip_timm_prefix

    model = _model("mobilenetv2_050")
    smaller = truncate(model, truncation_points(model)[-2]).eval()
    complete_timm_config(smaller)
    smaller.save_pretrained(tmp_path)
    strip_timm_prefix(tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), smaller(images).logits)
