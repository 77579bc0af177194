"""hf_transfer.cli: situations that ended silently wrong elsewhere, as one table; each ends right, or with a word."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from hf_transfer.cli import main
from tests.helpers.checkpoints import save_vit
from tests.helpers.image_files import encoded, picture, write_classes


@dataclass(frozen=True)
class Case:
    """A base, a data set, and what must come of them.

    Attributes:
        data: Writes the data set into a folder, and returns what `--dataset` names.
        base: Fields of the base's config.json.
        flags: Further flags.
        code: The exit code.
        says: Texts on the console, each of which must be there.
        labels: Labels of the result, in their order.
        images: Number of training images.
        used: Fields of the result's config.json.
    """

    data: Callable[[Path], Path]
    base: dict[str, Any] = field(default_factory=dict)
    flags: Sequence[str] = ()
    code: int = 0
    says: Sequence[str] = ()
    labels: Sequence[str] | None = None
    images: int | None = None
    used: dict[str, Any] = field(default_factory=dict)


def _plain(root: Path) -> Path:
    return write_classes(root, {"bird": 5, "cat": 5, "dog": 5})


def _csv(path: Path, rows: Sequence[str]) -> None:
    path.write_text("\n".join(rows), encoding="utf-8")


def _table_beside_parts(root: Path) -> Path:
    write_classes(root, {"a": 6, "b": 6})
    names = [f"{folder}/{number}.png" for folder in "ab" for number in range(6)]
    _csv(root / "labels.csv", ["image,label", *(f"{name},{'xy'[row % 2]}" for row, name in enumerate(names))])
    return root


def _images_and_masks(root: Path) -> Path:
    write_classes(root, {"images": 12, "masks": 12})
    rows = [f"images/{number}.png,{'xy'[number % 2]}" for number in range(12)]
    _csv(root / "annotations.csv", ["file_name,label", *rows])
    return root


def _stray_log(root: Path) -> Path:
    write_classes(root / "train", {"a": 6, "b": 6})
    write_classes(root / "test", {"a": 2, "b": 2}, seed=50)
    (root / "test_log.jsonl").write_text('{"loss": 1.0}\n')
    _csv(root / "val_ids.csv", ["id", "1"])
    return root


def _photographer(root: Path) -> Path:
    write_classes(root, {"a": 6, "b": 6})
    _csv(root / "metadata.csv", ["file_name,photographer", "a/0.png,Ada"])
    return root


def _split_column(root: Path) -> Path:
    write_classes(root / "all", {"a": 6, "b": 6})
    rows = [f"all/{k}/{i}.png,{k},{'train' if i < 4 else 'test'}" for k in "ab" for i in range(6)]
    _csv(root / "all.csv", ["image,label,split", *rows])
    return root / "all.csv"


def _test_without_labels(root: Path) -> Path:
    write_classes(root / "all", {"a": 6, "b": 6})
    _csv(root / "train.csv", ["image,label", *(f"all/{k}/{i}.png,{k}" for k in "ab" for i in range(6))])
    _csv(root / "test.csv", ["image", "all/a/0.png"])
    return root


def _results_inside(root: Path) -> Path:
    write_classes(root, {"a": 6, "b": 6, "results": 2})
    (root / "results" / "run.json").write_text("{}")
    return root


def _no_suffix(root: Path) -> Path:
    for label in "ab":
        (root / label).mkdir(parents=True)
        for number in range(6):
            (root / label / f"{number}").write_bytes(encoded(picture(number)))
    return root


def _unknown_suffixes(root: Path) -> Path:
    write_classes(root, {"a": 6, "b": 6})
    for number in range(9):
        (root / "a" / f"{number}.npy").write_bytes(b"x")
    return root


def _table(labels: Sequence[str]) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        root.mkdir(exist_ok=True)
        for number in range(len(labels) * 4):
            (root / f"{number}.png").write_bytes(encoded(picture(number)))
        rows = [f'{number}.png,"{labels[number % len(labels)]}"' for number in range(len(labels) * 4)]
        _csv(root / "all.csv", ["image,label", *rows])
        return root / "all.csv"

    return write


def _evaluation_folder(root: Path) -> Path:
    write_classes(root / "train", {"a": 6, "b": 6})
    write_classes(root / "eval", {"a": 3, "b": 3}, seed=50)
    return root


def _fifteen_to_evaluate(root: Path) -> Path:
    write_classes(root / "train", {"a": 8, "b": 8})
    write_classes(root / "validation", {"a": 8, "b": 7}, seed=50)
    return root


def _sixteen_bits(root: Path) -> Path:
    generator = np.random.default_rng(0)
    for number in range(12):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 4096, (20, 20)).astype(np.uint16)
        PIL.Image.fromarray(pixels).save(root / "ab"[number % 2] / f"{number}.tif")
    return root


def _thin(root: Path) -> Path:
    write_classes(root, {"a": 6, "b": 6})
    PIL.Image.new("RGB", (1, 4000)).save(root / "a" / "thin.png")
    return root


CAFE = ("caf\u00e9", "cafe\u0301", "tea")
DROP = ("--dataloader_drop_last", "--recipe", "lp_ft", "--num_train_epochs", "1")
FOURS = ("--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "4")
CASES: dict[str, Case] = {
    "regression": Case(_plain, {"problem_type": "regression"}, used={"problem_type": "single_label_classification"}),
    "attentions": Case(_plain, {"output_attentions": True}, says=["output_attentions: True"]),
    "other order": Case(
        _plain,
        {"id2label": {"0": "dog", "1": "cat", "2": "bird"}},
        says=["3 of its 3 rows are kept, each with its label"],
        labels=("bird", "cat", "dog"),
    ),
    "other names": Case(_plain, {"id2label": {"0": "x", "1": "y", "2": "z"}}, says=["all rows are new"]),
    "table beside parts": Case(_table_beside_parts, labels=("x", "y"), says=["labels.csv", "classes: x (6), y (6)"]),
    "images and masks": Case(_images_and_masks, labels=("x", "y"), says=["annotations.csv"]),
    "stray log": Case(_stray_log, labels=("a", "b"), says=["test_log.jsonl", "val_ids.csv"], images=12),
    "photographer": Case(_photographer, labels=("a", "b"), says=["metadata.csv"]),
    "split column": Case(_split_column, images=8, says=["split"]),
    "test without labels": Case(_test_without_labels, says=["left out"], labels=("a", "b")),
    "results inside": Case(_results_inside, labels=("a", "b"), says=["results"]),
    "no suffix": Case(_no_suffix, labels=("a", "b")),
    "unknown suffixes": Case(_unknown_suffixes, says=["9 .npy"]),
    "accents": Case(_table(CAFE), labels=("caf\u00e9", "tea"), says=["cafe\\u0301"]),
    "case": Case(_table(("Cat", "cat", "dog")), code=1, says=["'Cat' (4 images)", "'cat' (4 images)"]),
    "not a number": Case(_table(("NaN", "cat", "dog")), says=["NaN"]),
    "eval beside train": Case(_evaluation_folder, images=12),
    "drop last in evaluation": Case(_fifteen_to_evaluate, flags=(*DROP, *FOURS)),
    "no step": Case(_plain, flags=(*DROP, "--per_device_train_batch_size", "64"), code=1, says=["no step to train"]),
    "12 bits": Case(_sixteen_bits, says=["12 of 16 bits", "scaled from 0..4095 to 0..255"]),
    "thin": Case(_thin),
    "quantised": Case(_plain, {"quantization_config": {"quant_method": "gptq"}}, code=1, says=["quantised weights"]),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_silently_wrong(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The result is the right one, and the console says what was done; or the run was refused in one line."""
    case = CASES[name]
    base, out = save_vit(tmp_path / "base"), tmp_path / "out"
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | case.base))
    words = [
        "--model_name_or_path",
        str(base),
        "--dataset",
        str(case.data(tmp_path / "data")),
        "--output_dir",
        str(out),
    ]
    flags = case.flags if "--recipe" in case.flags else ("--recipe", "linear_probe", *case.flags)
    assert main(["train", *words, *flags]) == case.code
    printed = capsys.readouterr()
    said = printed.out + printed.err + caplog.text
    assert not [text for text in case.says if text not in said]
    assert "Traceback" not in said and "unexpected" not in said
    if case.code:
        assert not (out / "model.safetensors").exists()
        return
    record = json.loads((out / "run.json").read_text())
    stored = json.loads((out / "config.json").read_text())
    assert case.labels is None or record["data"]["label_names"] == list(case.labels)
    assert case.images is None or record["data"]["images"]["train"] == case.images
    assert case.used.items() <= stored.items()
    evaluated = next(iter(record["evaluation"].values()))
    assert evaluated["n"] == record["data"]["images"][record["data"]["evaluation_split"]]
