"""`measure`: what it finds, that it depends on nothing it should not, computes nothing twice, and bears bad input."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from hf_transfer.diagnosis.measurements import ALL, LAST, Measurements
from hf_transfer.diagnosis.measuring import measure
from hf_transfer.diagnosis.split_difference import differ
from hf_transfer.diagnosis.twin import CALIBRATION_IMAGES
from hf_transfer.errors import ArgumentError, DataError
from hf_transfer.features.depths import layers_at_depths
from hf_transfer.linear_probe.solving import solve_head
from tests.helpers import labelled_images, tiny
from tests.helpers.fast import slow_but
from tests.helpers.image_files import encoded
from tests.helpers.training import RandomImages


def _trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that no longer look as if just made."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def _bright(labels: list[int], seed: int = 0, noise: float = 60.0) -> datasets.Dataset:
    """Images whose brightness and colour tell the class, with much noise."""
    generator = np.random.default_rng(seed)
    base = np.random.default_rng(5).uniform(60, 200, (max(labels) + 1, 3))
    values = []
    for label in labels:
        pixels = base[label] + generator.normal(0, 25, 3) + generator.normal(0, noise, (12, 12, 3))
        values.append({"bytes": encoded(PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))), "path": None})
    names = [f"class {i}" for i in range(max(labels) + 1)]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"image": values, "label": labels}, features=features)


def _measure(model: nn.Module, data: Any, folder: Path, **options: Any) -> Measurements:
    """Measurements without what is timed."""
    processor = labelled_images.processor() if isinstance(data, datasets.Dataset) else None
    found = measure(model, data, processor, cache_folder=folder, progress=False, **options)
    assert found.costs is not None
    assert all(seconds > 0 for seconds in found.costs.recipes.values())
    _check_finite(found.to_dict())
    return replace(found, costs=None)


def _check_finite(value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            _check_finite(each)
    elif isinstance(value, float):
        assert math.isfinite(value)


def test_everything_is_measured(tmp_path: Path) -> None:
    """Depths in the order of the forward pass, then "last" and "all"; sizes, curve and both gains."""
    data = _bright([i % 3 for i in range(90)])
    leak = datasets.concatenate_datasets([_bright([0, 1, 2], seed=7), data.select([4])])
    found = _measure(_trained(tiny.vit()), data, tmp_path, evaluation_dataset=leak)
    names = [layer.layer for layer in found.layers]
    assert names == [*layers_at_depths(tiny.vit(), 12), ALL]
    assert (found.images, found.sample, found.classes, found.smallest_class) == (90, 90, 3, 30)
    assert found.estimate == "leave-one-out"
    assert found.twin_sample == 90
    assert found.pretrained
    assert found.gain_over_random is not None
    assert found.gain_of_earlier is not None
    assert found.slope is not None
    assert [point.images for point in found.curve] == [22, 44, 89]
    best = min(found.layers[:-1], key=lambda layer: layer.behind_best)
    assert best.behind_best == 0
    for layer in found.layers[:-1]:
        assert layer.behind_best == pytest.approx(best.accuracy - layer.accuracy)
        assert layer.random_accuracy is not None
        assert layer.matched_accuracy == layer.accuracy
    assert found.layer(LAST).native
    assert not found.layer(ALL).native
    assert found.layer("vit.layers.1").native
    assert found.data.class_counts == {"class 0": 30, "class 1": 30, "class 2": 30}
    assert found.data.duplicates == ((4, 3),)
    assert found.data.checked_evaluation_images == 4
    assert found.data.small_images == 1
    assert found.data.grey_images < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_order_of_images_and_classes_does_not_matter(name: str, tmp_path: Path) -> None:
    """Permuted images, and classes under other indices, give the same but for rounding; so does the same again."""
    labels = [i % 3 for i in range(75)]
    model, data = _trained(tiny.ALL_MODELS[name]()), _bright(labels)
    order = np.random.default_rng(1).permutation(75).tolist()
    others = [[2, 0, 1][label] for label in labels]
    names = ["class 1", "class 2", "class 0"]
    renamed = data.remove_columns("label").add_column("label", others)
    renamed = renamed.cast_column("label", datasets.ClassLabel(names=names))
    first = _measure(model, data, tmp_path / "first")
    again = _measure(model, data, tmp_path / "again")
    assert first == again
    for number, other in enumerate((data.select(order), renamed)):
        found = _measure(model, other, tmp_path / str(number))
        assert dict(found.data.class_counts) == dict(first.data.class_counts)
        for one, two in zip(first.layers, found.layers, strict=True):
            assert two.accuracy == pytest.approx(one.accuracy, abs=1.01 / 75)
            assert two.random_accuracy == pytest.approx(one.random_accuracy, abs=1.01 / 75)
        assert found.gain_over_random is not None
        assert first.gain_over_random is not None
        assert found.gain_over_random.low == pytest.approx(first.gain_over_random.low, abs=0.1)


def test_the_probe_reads_the_features_of_the_diagnosis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a diagnosis of all images, a linear probe on one of its layers reads a few images for checks alone."""
    model, data = _trained(tiny.vit()), _bright([i % 3 for i in range(60)])
    processor = labelled_images.processor()
    measure(model, data, processor, cache_folder=tmp_path, progress=False)
    with labelled_images.counting(monkeypatch, model.vit.embeddings) as counter:
        solve_head(model, data, processor, layer=LAST, cache_folder=tmp_path, progress=False)
    assert counter.decoded <= 8
    with labelled_images.counting(monkeypatch, model.vit.embeddings) as counter:
        measure(model, data, processor, cache_folder=tmp_path, progress=False)
    assert counter.decoded <= 8 + CALIBRATION_IMAGES  # for timing, and for the twin's statistics


def test_a_model_without_pretrained_weights(tmp_path: Path) -> None:
    """Similarity has no meaning, all else is measured."""
    data = _bright([i % 2 for i in range(50)])
    found = _measure(tiny.resnet(), data, tmp_path)
    assert not found.pretrained
    assert found.gain_over_random is None
    assert found.twin_sample == 0
    assert all(layer.random_accuracy is None for layer in found.layers)
    assert _measure(tiny.resnet(), data, tmp_path, pretrained=True).gain_over_random is not None


def test_a_sample_is_stated(tmp_path: Path) -> None:
    """Of more images than asked for some are measured, of each class its share."""
    data = _bright([0] * 60 + [1] * 30)
    found = _measure(_trained(tiny.vit()), data, tmp_path, sample=45)
    assert (found.images, found.sample, found.smallest_class) == (90, 45, 30)
    assert found.data.class_counts == {"class 0": 60, "class 1": 30}


def test_any_data_set_of_pixels(tmp_path: Path) -> None:
    """A data set that makes its own pixels is measured as well; nothing is said of duplicates, size and colour."""
    found = _measure(_trained(tiny.resnet()), RandomImages(60), tmp_path, evaluation_dataset=RandomImages(6))
    assert found.sample == 60
    assert found.data.checked_evaluation_images == 0


def _identical() -> datasets.Dataset:
    data = _bright([0, 1])
    return data.select([0] * 50).remove_columns("label").add_column("label", [i % 2 for i in range(50)])


@pytest.mark.parametrize(
    "data",
    [
        _identical(),
        _bright([0] * 20 + [1] * 20 + [2]),
        _bright([0, 0, 1, 1]),
        _bright([0, 1, 1]),
        _bright([i % 30 for i in range(60)]),
    ],
    ids=["identical", "one of a class", "four", "three", "two a class"],
)
@pytest.mark.parametrize("name", slow_but(("vit",), ("vit", "resnet")))
def test_poor_data_give_finite_numbers(data: datasets.Dataset, name: str, tmp_path: Path) -> None:
    """Identical images, classes of one or two images: no crash, no NaN, no warning of numpy's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = _measure(_trained(tiny.ALL_MODELS[name]()), data, tmp_path)
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.sample == len(data) and found.classes == len(set(data["label"]))
    assert all(0 <= layer.accuracy <= 1 for layer in found.layers)


def test_a_model_that_gives_constant_features(tmp_path: Path) -> None:
    """A dead network is no better than guessing, and says so in finite numbers."""
    model = _trained(tiny.vit())
    with torch.no_grad():
        for parameter in model.vit.embeddings.parameters():
            parameter.zero_()
        model.vit.layernorm.weight.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = _measure(model, _bright([i % 2 for i in range(60)]), tmp_path)
    assert found.layer(LAST).accuracy <= 0.5


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    """One class, only classes of one image, no labels, nothing at all, weights that are not finite."""
    model = _trained(tiny.vit())
    with pytest.raises(DataError, match="at least two"):
        _measure(model, _bright([0] * 6), tmp_path)
    with pytest.raises(DataError, match="more than one image"):
        _measure(model, _bright([0, 1, 2]), tmp_path)
    with pytest.raises(DataError, match="needs labels"):
        _measure(model, _bright([0, 1]).remove_columns("label"), tmp_path)
    with pytest.raises(DataError, match="empty"):
        _measure(model, _bright([0, 1]).select([]), tmp_path)
    with pytest.raises(ArgumentError, match="depths"):
        _measure(model, _bright([0, 1, 0, 1]), tmp_path, depths=0)
    with torch.no_grad():
        model.vit.layernorm.weight[0] = math.nan
    with pytest.raises(DataError, match="not finite"):
        _measure(model, _bright([0, 1, 0, 1]), tmp_path)


@pytest.mark.slow
def test_ten_thousand_classes(tmp_path: Path) -> None:
    """Two images of each of 10,000 classes are measured in a minute and in bounded memory."""

    class Many(RandomImages):
        def __init__(self) -> None:
            super().__init__(20_000, 10_000)

    torch.manual_seed(0)
    found = _measure(_trained(tiny.resnet()), Many(), tmp_path, depths=2, cache=False)
    assert found.classes == 10_000
    assert found.sample == 20_000


def test_evaluation_images_of_another_kind_are_noticed(tmp_path: Path) -> None:
    """Images of the same kind are not told apart from those of the training, images with less noise are."""
    data, labels = _bright([i % 3 for i in range(90)]), [i % 3 for i in range(60)]
    model, found = _trained(tiny.vit()), []
    for other in (_bright(labels, seed=3), _bright(labels, seed=3, noise=5)):
        measured = _measure(model, data, tmp_path, evaluation_dataset=other)
        assert measured.expected is not None
        found.append(measured.data.split_difference)
    assert not differ(found[0]) and differ(found[1])


def test_the_metric_that_decides_judges_layers(tmp_path: Path) -> None:
    """On uneven classes the scores of the layers are balanced accuracies, and the measurements say so."""
    data = _bright([0] * 60 + [1] * 12, noise=250.0)
    plain, fair = (_measure(_trained(tiny.vit()), data, tmp_path, metric=each) for each in ("accuracy", "macro_f1"))
    assert (plain.metric, fair.metric) == ("accuracy", "balanced_accuracy")
    assert plain.layer(LAST).accuracy != fair.layer(LAST).accuracy
    assert Measurements.from_dict(json.loads(json.dumps(fair.to_dict()))) == fair
