"""hf_transfer.data.transforms: training sees what pipelines see, plus augmentation."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset
from transformers import (
    CLIPImageProcessor,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    MobileViTImageProcessor,
    Siglip2ImageProcessor,
    TextNetImageProcessor,
    ViTImageProcessor,
    ViTImageProcessorPil,
    pipeline,
)

from hf_transfer.data import collate, eval_transform, load, train_transform, with_image_size
from hf_transfer.data.transforms import normalise, process
from hf_transfer.errors import ArgumentError, DataError
from tests.data.test_preprocessing import timm_processor
from tests.helpers import tiny
from tests.helpers.image_files import encoded, picture, write_classes

SIZE = 32
PROCESSORS: dict[str, Any] = {
    "vit": with_image_size(ViTImageProcessor(), SIZE),
    "vit pil": with_image_size(ViTImageProcessorPil(), SIZE),
    "convnext": with_image_size(ConvNextImageProcessor(), SIZE),
    "clip": with_image_size(CLIPImageProcessor(), SIZE),
    "efficientnet": with_image_size(EfficientNetImageProcessor(), SIZE),
    "mobilevit": with_image_size(MobileViTImageProcessor(), SIZE),
    "timm": with_image_size(timm_processor(), SIZE),
}
EVERY = pytest.mark.parametrize("name", PROCESSORS)


def _batch(count: int = 3, height: int = 50, width: int = 40) -> dict[str, list[Any]]:
    images = [{"bytes": encoded(picture(index, height + index, width)), "path": None} for index in range(count)]
    return {"image": images, "label": list(range(count)), "name": [f"train/{index}" for index in range(count)]}


@EVERY
def test_logits_are_those_of_the_pipeline(name: str, tmp_path: Path) -> None:
    """A saved checkpoint used through `pipeline` gives the logits that evaluation saw, for images of any shape."""
    processor, model = PROCESSORS[name], tiny.vit().eval()
    paths = [str(tmp_path / f"{index}.png") for index in range(3)]
    for path, row in zip(paths, _batch()["image"], strict=True):
        Path(path).write_bytes(row["bytes"])
    batch = eval_transform(processor)({"image": [{"bytes": None, "path": path} for path in paths], "label": [0, 1, 2]})
    with torch.no_grad():
        ours = model(pixel_values=batch["pixel_values"]).logits
    classifier = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    for row, answer in zip(ours, classifier(paths, function_to_apply="none", top_k=3), strict=True):
        theirs = {item["label"]: item["score"] for item in answer}
        assert np.allclose([theirs[model.config.id2label[index]] for index in range(3)], row, atol=1e-6)


@EVERY
@pytest.mark.parametrize("augmentation", ["none", "light", "standard"])
def test_batches_have_one_form(name: str, augmentation: str) -> None:
    """float32 `(batch, channels, height, width)` and labels, for every processor and augmentation."""
    made = train_transform(PROCESSORS[name], augmentation)(_batch())
    assert set(made) == {"pixel_values", "labels"}
    assert made["pixel_values"].shape == (3, 3, SIZE, SIZE)
    assert made["pixel_values"].dtype == torch.float32
    assert torch.isfinite(made["pixel_values"]).all()
    assert made["labels"] == [0, 1, 2]


@EVERY
def test_augmented_images_are_normalised_as_the_others(name: str) -> None:
    """An image that has its size already is normalised as the processor itself does it."""
    processor = PROCESSORS[name]
    grey = picture(1, 1, 1).resize((SIZE * 2, SIZE * 2))  # plain, so that neither resizing nor cropping changes it
    small = torch.from_numpy(np.array(grey.resize((SIZE, SIZE)))).permute(2, 0, 1)
    expected = process(processor, [grey])["pixel_values"]
    assert torch.allclose(normalise(processor, small[None])[..., 8:24, 8:24], expected[..., 8:24, 8:24], atol=1e-5)


def test_none_is_evaluation() -> None:
    """Without augmentation training sees exactly what evaluation sees, every time."""
    transform = train_transform(PROCESSORS["vit"], "none")
    expected = eval_transform(PROCESSORS["vit"])(_batch())["pixel_values"]
    assert torch.equal(transform(_batch())["pixel_values"], expected)
    assert torch.equal(transform(_batch())["pixel_values"], expected)


def test_light_flips_and_shifts_by_an_eighth() -> None:
    """Each result is the evaluation image, shifted by up to 4 of 32 pixels, or its mirror image; all of them occur."""
    processor = PROCESSORS["vit"]
    image = eval_transform(processor)(_batch(1))["pixel_values"][0]
    transform = train_transform(processor, "light")
    torch.manual_seed(0)
    seen = set()
    for _ in range(40):
        found = transform(_batch(1))["pixel_values"][0]
        seen.add(_shift_of(image, found))
    assert None not in seen
    assert {mirrored for mirrored, _, _ in seen} == {False, True}  # type: ignore[misc]
    assert len(seen) > 30


def _shift_of(image: torch.Tensor, found: torch.Tensor) -> tuple[bool, int, int] | None:
    for mirrored in (False, True):
        padded = torch.nn.functional.pad(image.flip(-1) if mirrored else image, (4, 4, 4, 4), mode="reflect")
        for top in range(9):
            for left in range(9):
                if torch.equal(padded[:, top : top + SIZE, left : left + SIZE], found):
                    return mirrored, top, left
    return None


def test_standard_crops_differ_and_follow_the_seed() -> None:
    """Random crops: another one each time, the same with the same seed, each image of a batch its own."""
    transform = train_transform(PROCESSORS["vit"], "standard")
    same = {"image": [_batch(1)["image"][0]] * 4, "label": [0] * 4}
    torch.manual_seed(3)
    first, second = transform(same)["pixel_values"], transform(same)["pixel_values"]
    torch.manual_seed(3)
    assert torch.equal(transform(same)["pixel_values"], first)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_standard_keeps_at_least_a_third_of_the_image() -> None:
    """On a horizontal ramp the range of each crop tells its width: never less than 35 % of the area allows."""
    ramp = np.repeat(np.linspace(0, 255, 120).astype(np.uint8)[None, :, None], 120, axis=0).repeat(3, axis=2)
    row = {"image": [ramp_image(ramp)] * 60, "label": [0] * 60}
    torch.manual_seed(0)
    pixels = train_transform(PROCESSORS["vit"], "standard")(row)["pixel_values"]
    widths = (pixels.amax(dim=(1, 2, 3)) - pixels.amin(dim=(1, 2, 3))) / 2
    assert widths.min() > (0.35 * 3 / 4) ** 0.5 - 0.06
    assert widths.min() < 0.75


def ramp_image(pixels: np.ndarray) -> dict[str, Any]:
    """An encoded image of given pixels."""
    return {"bytes": encoded(PIL.Image.fromarray(pixels)), "path": None}


@EVERY
@pytest.mark.parametrize("augmentation", ["none", "light", "standard"])
def test_transforms_can_be_sent_to_workers(name: str, augmentation: str) -> None:
    """Data loader workers receive a pickled copy that does the same."""
    transform = train_transform(PROCESSORS[name], augmentation)
    copy = pickle.loads(pickle.dumps(transform))
    torch.manual_seed(1)
    expected = transform(_batch())["pixel_values"]
    torch.manual_seed(1)
    assert torch.equal(copy(_batch())["pixel_values"], expected)


def test_from_folder_to_batch(tmp_path: Path) -> None:
    """load, with_transform, a data loader and collate make the batches of a trainer."""
    data = load(str(write_classes(tmp_path, {"a": 5, "b": 5})))
    assert data.train is not None
    rows = data.train.with_transform(train_transform(PROCESSORS["clip"], "standard"))
    assert rows[0]["pixel_values"].shape == (3, SIZE, SIZE)
    loader = torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=collate)  # type: ignore[arg-type]
    batches = list(loader)
    assert [tuple(batch["pixel_values"].shape) for batch in batches] == [(4, 3, SIZE, SIZE)] * 2
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == data.train["label"][:]
    assert batches[0]["labels"].dtype == torch.int64


def test_without_labels_there_are_none() -> None:
    """Prediction needs no labels."""
    assert set(eval_transform(PROCESSORS["vit"])({"image": _batch()["image"]})) == {"pixel_values"}


def test_images_of_different_sizes_are_a_list() -> None:
    """A processor that keeps the aspect ratio gives a list, which cannot be one batch."""
    processor = TextNetImageProcessor(size={"shortest_edge": 64})
    batch = {"image": _batch(2, 50, 90)["image"][:1] + _batch(2, 90, 50)["image"][1:]}
    made = eval_transform(processor)(batch)["pixel_values"]
    assert [tuple(pixels.shape) for pixels in made] == [(3, 64, 128), (3, 128, 64)]
    with pytest.raises(DataError, match=r"differ in size \(3×128×64, 3×64×128\).*--image_size N"):
        collate([{"pixel_values": pixels, "labels": 0} for pixels in made])
    for augmentation in ("light", "standard"):
        with pytest.raises(ArgumentError, match="makes no images of one size.*--image_size N"):
            train_transform(processor, augmentation)


def test_other_outputs_pass_through() -> None:
    """SigLIP 2 needs its masks and shapes, too."""
    made = eval_transform(Siglip2ImageProcessor(max_num_patches=16))(_batch())
    assert {"pixel_values", "pixel_attention_mask", "spatial_shapes", "labels"} == set(made)
    rows = [{key: value[index] for key, value in made.items()} for index in range(3)]
    assert collate(rows)["spatial_shapes"].shape == (3, 2)


def test_unknown_augmentation_lists_the_choices() -> None:
    """A misspelt choice is answered with the choices."""
    with pytest.raises(ArgumentError, match="one of none, light, standard; found 'heavy'"):
        train_transform(PROCESSORS["vit"], "heavy")


def test_an_image_that_disappears_is_named(tmp_path: Path) -> None:
    """A file removed during training is named by its relative name, not its path."""
    rows = Dataset.from_dict({"image": [{"bytes": None, "path": str(tmp_path / "x.png")}], "name": ["cats/x.png"]})
    with pytest.raises(DataError, match=r"image cats/x\.png cannot be read any more: there is no such file") as caught:
        rows.with_transform(eval_transform(PROCESSORS["vit"]))[0]
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("upright", [True, False])
def test_thin_images_are_cut_before_they_are_resized(upright: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a centre crop keeps of a thin image is the same, and memory does not grow with its length."""
    from hf_transfer.data import transforms

    processor = ViTImageProcessor(
        size={"shortest_edge": 32}, do_center_crop=True, crop_size={"height": 32, "width": 32}, resample=2
    )
    pixels = np.random.default_rng(0).integers(0, 255, (400, 10, 3), np.uint8)
    image = PIL.Image.fromarray(pixels if upright else pixels.transpose(1, 0, 2))
    whole = process(processor, [image])["pixel_values"]
    monkeypatch.setattr(transforms, "_MOST_PIXELS", 1)
    assert min(transforms._bounded(image, processor).size) == 10
    assert max(transforms._bounded(image, processor).size) < 40
    assert torch.allclose(process(processor, [image])["pixel_values"], whole, atol=2e-2)
    kept = ViTImageProcessor(size={"shortest_edge": 32})
    with pytest.raises(DataError, match="keeps the aspect ratio. Leave it out, or set --image_size"):
        process(kept, [image])
