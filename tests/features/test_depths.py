"""hf_transfer.features.depths: layers spread over a network, the same for a diagnosis and for a probe on all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_transfer.diagnosis.measuring import measure
from hf_transfer.features import extract
from hf_transfer.features.depths import layers_at_depths
from hf_transfer.linear_probe.solving import solve_head
from tests.helpers import tiny
from tests.helpers.labelled_images import labelled_images, processor


def test_depths_are_spread_evenly() -> None:
    """The first and the last group are among them, and "last"; at most as many as asked for."""
    model = tiny.timm_wrapper("tf_efficientnet_lite0")
    everything = layers_at_depths(model, 100)
    for depths in (1, 2, 5, 12):
        found = layers_at_depths(model, depths)
        assert len(found) == depths + 1
        assert found[0] == everything[0]
        assert depths == 1 or found[-2:] == everything[-2:]


def test_a_probe_on_all_layers_reads_what_a_diagnosis_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a network of more than twelve blocks the head is solved without another pass over the images."""
    torch.manual_seed(0)
    model, images = tiny.timm_wrapper("tf_efficientnet_lite0"), labelled_images(24)
    options = {"cache_folder": tmp_path, "progress": False}
    found = measure(model, images, processor(), pretrained=False, **options)
    computed: list[int] = []
    original = extract._tap_computation

    def counted(*args: object) -> object:
        compute = original(*args)

        def wrapped(batch: torch.Tensor) -> dict[str, np.ndarray]:
            computed.append(len(batch))
            return compute(batch)

        return wrapped

    monkeypatch.setattr(extract, "_tap_computation", counted)
    solution = solve_head(model, images, processor(), layer="all", allow_probe_file=True, **options)
    # What the last block gives is pooled to just what the head reads, and held once.
    assert solution.layers == tuple(each.layer for each in found.layers if each.layer not in ("all", "last"))
    assert len(solution.layers) == 12
    assert computed == []
