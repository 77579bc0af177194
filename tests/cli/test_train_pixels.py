"""hf_transfer.cli.train: for every kind of image, the card's own code gives the card's accuracy."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from hf_transfer.cli import main
from tests.helpers.checkpoints import save_timm_resnet, save_vit

SIDE = 32
Draw = Callable[[np.ndarray[Any, Any]], PIL.Image.Image]


def _grey(end: float, kind: Any) -> Draw:
    return lambda values: PIL.Image.fromarray((values[..., 0] * end).astype(kind))


def _rgb(values: np.ndarray[Any, Any]) -> PIL.Image.Image:
    return PIL.Image.fromarray((values * 255).astype(np.uint8))


def _with_transparent_colour(values: np.ndarray[Any, Any]) -> PIL.Image.Image:
    image = _rgb(values).convert("P", palette=PIL.Image.Palette.ADAPTIVE)
    image.info["transparency"] = 0
    return image


def _turned(values: np.ndarray[Any, Any]) -> PIL.Image.Image:
    image = _rgb(values)
    image.getexif()[0x0112] = 6
    return image


KINDS: dict[str, tuple[Draw, str]] = {
    "8 bits grey": (_grey(255, np.uint8), ".png"),
    "10 bits": (_grey(1023, np.uint16), ".tif"),
    "12 bits": (_grey(4095, np.uint16), ".tif"),
    "16 bits": (_grey(65535, np.uint16), ".png"),
    "floats to 1": (_grey(1, np.float32), ".tif"),
    "floats to 255": (_grey(255, np.float32), ".tif"),
    "signed": (lambda values: PIL.Image.fromarray((values[..., 0] * 2000 - 1000).astype(np.int32)), ".tif"),
    "RGB": (_rgb, ".png"),
    "CMYK": (lambda values: _rgb(values).convert("CMYK"), ".jpg"),
    "palette": (lambda values: _rgb(values).convert("P", palette=PIL.Image.Palette.ADAPTIVE), ".png"),
    "palette with a transparent colour": (_with_transparent_colour, ".gif"),
    "RGBA": (lambda values: PIL.Image.fromarray((values[..., [0, 1, 2, 0]] * 255).astype(np.uint8)), ".png"),
    "grey with opacity": (lambda values: PIL.Image.fromarray((values[..., [0, 1]] * 255).astype(np.uint8)), ".png"),
    "1 bit": (lambda values: _rgb(values).convert("1"), ".png"),
    "turned": (_turned, ".jpg"),
}


def _write(folder: Path, kind: str) -> Path:
    """Two classes that differ in brightness from left to right, with much noise."""
    draw, suffix = KINDS[kind]
    generator = np.random.default_rng(3)
    ramp = np.linspace(0, 1, SIDE)
    for split, count in (("train", 16), ("validation", 20)):
        for number in range(count):
            label = number % 2
            base = ramp if label else ramp[::-1]
            values = np.clip(0.25 * base[None, :, None] + 0.75 * generator.random((SIDE, SIDE, 3)), 0, 1)
            path = folder / split / ("left", "right")[label] / f"{number}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = draw(values)
            image.save(path, **({"exif": image.getexif()} if kind == "turned" else {}))
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint of each library."""
    folder = tmp_path_factory.mktemp("bases")
    return {"vit": save_vit(folder / "vit"), "timm": save_timm_resnet(folder / "timm")}


@pytest.mark.parametrize("kind", KINDS)
def test_the_cards_code_gives_the_cards_accuracy(kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """Each evaluation image gets the label that the trainer gave it, and so the accuracy is the card's."""
    images, out = _write(tmp_path / "images", kind), tmp_path / "out"
    base = bases["timm" if kind in ("12 bits", "floats to 1") else "vit"]
    flags = ("--recipe", "linear_probe", "--similar_labels", "keep", "--per_device_eval_batch_size", "20")
    words = ("--model_name_or_path", str(base), "--dataset", str(images), "--output_dir", str(out), *flags)
    assert main(["train", *words]) == 0
    example = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)[0]
    predictions = pq.read_table(out / "predictions.parquet").to_pylist()
    names = json.loads((out / "run.json").read_text())["data"]["label_names"]
    code = example.replace("path/to/this/folder", str(out))
    right = 0
    with contextlib.redirect_stdout(io.StringIO()):
        used: dict[str, Any] = {}
        exec(code.replace("path/to/image.jpg", str(images / predictions[0]["name"])), used)
        for row in predictions:
            answer = used["classifier"](used.get("read", str)(images / row["name"]))[0]["label"]
            expected = row["prediction"] if isinstance(row["prediction"], str) else names[row["prediction"]]
            assert answer == expected
            right += answer == Path(row["name"]).parent.name
    accuracy = json.loads((out / "run.json").read_text())["evaluation"]["validation"]["metrics"]["accuracy"]["value"]
    assert right / len(predictions) == pytest.approx(accuracy)
    assert ("def read(path)" in example) is (KINDS[kind][0](np.zeros((2, 2, 3))).mode[0] in "IF")


def test_a_recorded_range_is_used_to_evaluate(
    bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dark images alone are scaled from the range of the training, not from their own."""
    images, out = _write(tmp_path / "images", "12 bits"), tmp_path / "out"
    words = ("--model_name_or_path", str(bases["vit"]), "--dataset", str(images), "--output_dir", str(out))
    assert main(["train", *words, "--recipe", "linear_probe"]) == 0
    dark = tmp_path / "dark"
    for path in (images / "validation").rglob("*.tif"):
        target = dark / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.asarray(PIL.Image.open(path)) // 20).save(target)
    assert "36 of 16 bits; grey images of more than 8 bits are scaled from 0..4095" in capsys.readouterr().out
    assert main(["evaluate", str(out), "--dataset", str(dark)]) == 0
    assert "20 of 16 bits; grey images of more than 8 bits are scaled from 0..4095" in capsys.readouterr().out
    assert "scaled from 0..4095 to 0..255" in (out / "README.md").read_text()
