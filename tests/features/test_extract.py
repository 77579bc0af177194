"""Features: what the head gets, pooled activations of layer groups, and that they are computed once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_transfer as ht
from hf_transfer.data import eval_transform, train_transform
from hf_transfer.features import taps
from hf_transfer.features.taps import TapReader, pool
from tests.helpers import labelled_images, tiny
from tests.helpers.training import RandomImages


def run(model: torch.nn.Module, data: Any, folder: Path, layers: Any = "last", **options: Any) -> dict[str, Any]:
    processor = labelled_images.processor()
    return ht.extract_features(
        model, data, processor, layers, cache_folder=folder, progress=False, memory_format="default", **options
    )


@pytest.mark.parametrize("name", tiny.ALL_MODELS)
def test_last_is_what_the_head_gets(name: str, tmp_path: Path) -> None:
    """The head applied to "last" gives the model's logits; "all" has every group before the head."""
    model = tiny.ALL_MODELS[name]().eval()
    data = labelled_images.labelled_images(5)
    found = run(model, data, tmp_path, "all")
    groups = [group.name for group in ht.wrap(model).layer_groups if group.role != "head"]
    assert list(found) == [*groups, "last"]
    assert all(value.shape[0] == 5 and value.ndim == 2 and np.isfinite(value).all() for value in found.values())
    pixels = torch.as_tensor(eval_transform(labelled_images.processor())(data[:])["pixel_values"])
    with torch.no_grad():
        output = model(pixels)
        (head,) = taps.head_branches(ht.wrap(model))
        logits = model.get_submodule(head)(torch.tensor(found["last"]))
    expected = output if isinstance(output, torch.Tensor) else output.logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_second_call_decodes_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal weights, data and transform: the features come from the disk, also when the head's weights changed."""
    data = labelled_images.labelled_images(40)
    model = tiny.vit()
    with labelled_images.counting(monkeypatch, model.vit.embeddings) as counter:
        first = run(model, data, tmp_path)
        assert (counter.decoded, counter.images) == (40, 40)
        torch.nn.init.normal_(model.classifier.weight)
        again = run(model, labelled_images.labelled_images(40), tmp_path)
        assert (counter.decoded, counter.images) == (40, 40)
        np.testing.assert_array_equal(first["last"], again["last"])
        run(model, labelled_images.labelled_images(40, seed=1), tmp_path)
        assert counter.decoded == 80  # other images
        with torch.no_grad():
            model.vit.embeddings.cls_token += 1
        run(model, data, tmp_path)
        assert counter.decoded == 120  # other weights
        other = labelled_images.processor()
        other.image_mean = [0.1, 0.2, 0.3]
        run(model, data.with_transform(eval_transform(other)), tmp_path)
        assert counter.decoded == 160  # another transform


def test_layers_are_read_from_a_store_that_has_more_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was extracted with other layers is not computed again; a wide store that was cut short is completed."""
    data, model = labelled_images.labelled_images(40), tiny.vit()
    with labelled_images.counting(monkeypatch, model.vit.embeddings) as counter:
        wide = run(model, data, tmp_path, "all")
        for layers in ("last", ["vit.layers.1", "last"]):
            found = run(model, data, tmp_path, layers)
            assert list(found) == (["last"] if layers == "last" else layers)
            np.testing.assert_array_equal(found["last"], wide["last"])
        assert counter.images == 40
        assert len(list(tmp_path.glob("*/rows.bin"))) == 1
        run(model, data, tmp_path, "last", dtype="float16")
        assert counter.images == 80  # other numbers
        (mark,) = [path for path in tmp_path.glob("*/chunks/*.json") if len(json.loads(_entry(path))["columns"]) > 1]
        mark.unlink()
        np.testing.assert_array_equal(run(model, data, tmp_path, "last")["last"], wide["last"])
        assert counter.images == 120
        run(model, data, tmp_path, "all")
        assert counter.images == 120


def _entry(mark: Path) -> str:
    return (mark.parents[1] / "entry.json").read_text()


def test_labels_beside_the_images_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the transform of evaluation the same images are known again, with labels and without."""
    data, model = labelled_images.labelled_images(40), tiny.vit()
    with labelled_images.counting(monkeypatch, model.vit.embeddings) as counter:
        alone = run(model, data, tmp_path)
        model.config.use_cache = False  # as Trainer does
        labelled = run(model, data.with_transform(eval_transform(labelled_images.processor())), tmp_path)
        assert (counter.decoded, counter.images) == (40, 40)
        np.testing.assert_array_equal(labelled["last"], alone["last"])


def test_a_changed_image_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are files of their own are known by size and time of change, too."""
    (tmp_path / "images").mkdir()
    data = labelled_images.image_files(tmp_path / "images", 3)
    model = tiny.vit()
    first = run(model, data, tmp_path)["last"]
    (tmp_path / "images/1.png").write_bytes(labelled_images.encoded(labelled_images.picture(77, 50, 50)))
    second = run(model, data, tmp_path)["last"]
    assert [bool((first[i] == second[i]).all()) for i in range(3)] == [True, False, True]


def test_the_model_is_given_back_as_it_was(tmp_path: Path) -> None:
    """Modes, memory layout, weights, hooks and the random numbers are the same after an extraction."""
    model = tiny.resnet()
    model.train()
    model.resnet.embedder.eval()
    before = {name: (p.data_ptr(), p.stride()) for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    ht.extract_features(
        model, labelled_images.labelled_images(4), labelled_images.processor(), cache_folder=tmp_path, progress=False
    )
    assert torch.equal(state, torch.get_rng_state())
    assert before == {name: (p.data_ptr(), p.stride()) for name, p in model.named_parameters()}
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_float16_and_batches_change_only_rounding(tmp_path: Path) -> None:
    """Stored precision and batch size change features by rounding; they are kept apart on the disk."""
    data = labelled_images.labelled_images(10)
    model = tiny.convnext()
    full = run(model, data, tmp_path / "a")["last"]
    half = run(model, data, tmp_path / "a", dtype="float16")["last"]
    small = run(model, data, tmp_path / "b", batch_size=3)["last"]
    assert (full.dtype, half.dtype) == (np.float32, np.float16)
    np.testing.assert_allclose(half, full, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(small, full, rtol=1e-4, atol=1e-5)


def test_views_of_a_random_transform(tmp_path: Path) -> None:
    """Each view is another draw, the same whenever and in whatever batches it is made."""
    data = labelled_images.labelled_images(6).with_transform(train_transform(labelled_images.processor(), "light"))
    model = tiny.vit()
    views = run(model, data, tmp_path / "a", views=3)["last"].reshape(3, 6, -1)
    again = run(model, data, tmp_path / "b", views=3, batch_size=5)["last"].reshape(3, 6, -1)
    np.testing.assert_allclose(views, again, rtol=1e-4, atol=1e-5)
    assert not np.allclose(views[0], views[1], atol=1e-3)


def test_data_without_a_fingerprint_are_not_kept(tmp_path: Path) -> None:
    """Other data sets than those of `datasets` work, and leave nothing behind."""
    model = tiny.vit()
    found = ht.extract_features(model, RandomImages(5), cache_folder=tmp_path, progress=False)
    with torch.no_grad():
        expected = model.eval().vit(RandomImages(5).pixels).last_hidden_state[:, 0]
    np.testing.assert_allclose(found["last"], expected, rtol=1e-4, atol=1e-5)
    assert not list(tmp_path.iterdir())


def test_pooling_knows_the_channels() -> None:
    """Maps in both layouts, tokens, and parts that are folded into the batch are pooled over positions alone."""
    maps = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(pool(maps, 2), maps.mean((2, 3)))
    torch.testing.assert_close(pool(maps.permute(0, 2, 3, 1), 2, channels_last=True), maps.mean((2, 3)))
    square = torch.randn(2, 4, 4, 6)
    torch.testing.assert_close(pool(square, 2), square.mean((1, 2)))
    tokens = torch.randn(4, 7, 5)
    torch.testing.assert_close(pool(tokens, 2), torch.stack([tokens[:2].mean((0, 1)), tokens[2:].mean((0, 1))]))


def test_a_reader_stops_behind_the_last_layer_that_is_wanted() -> None:
    """What comes after it costs nothing."""
    model = tiny.vit().eval()
    runs: list[int] = []
    model.vit.layers[2].register_forward_hook(lambda *_: runs.append(1))
    with TapReader(model, ["vit.layers.0"]) as reader:
        reader.read(torch.randn(2, 3, 32, 32))
        before = len(runs)
        reader.read(torch.randn(2, 3, 32, 32))
    assert len(runs) == before


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    """Unknown layers, no processor, no images and rows without pixels give our errors."""
    model, data = tiny.vit(), labelled_images.labelled_images(2)
    with pytest.raises(ht.TransferError, match="layers.0"):
        run(model, data, tmp_path, ["no such layer"])
    with pytest.raises(ht.TransferError, match="processor"):
        ht.extract_features(model, data)
    with pytest.raises(ht.TransferError, match="empty"):
        run(model, data.select([]), tmp_path)
    with pytest.raises(ht.TransferError, match="pixel_values"):
        run(model, [{"labels": 1}], tmp_path)
    with pytest.raises(ht.TransferError, match="dtype"):
        run(model, data, tmp_path, dtype="int8")
