"""hf-transfer train on bad input: one line that says what to do, and nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from hf_transfer.errors import DataError
from hf_transfer.hub.staging import is_allowed
from hf_transfer.reporting.record import RunRecord
from hf_transfer.trainer.probe_trainer import LinearProbeTrainer
from tests.helpers.quick_train import LABELS, train


def _odd_images(folder: Path) -> Path:
    """One class folder with every mode that image files come in."""
    rgb = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    rgb.convert("L").save(folder / "grey.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("P").save(folder / "palette.png")
    rgb.convert("RGBA").save(folder / "rgba.png")
    PIL.Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27).save(folder / "deep.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    rgb.save(folder / "rotated.jpg", exif=exif)
    return folder


def test_odd_images_are_trained_on(vit: Path, photos: Path, tmp_path: Path) -> None:
    """Greyscale, CMYK, palette, RGBA, 16-bit and EXIF-rotated images go through the whole job."""
    own = tmp_path / "photos"
    shutil.copytree(photos, own)
    _odd_images(own / "train" / "ant")
    assert train(vit, own, tmp_path / "run", "--recipe", "linear_probe") == 0
    record = RunRecord.load(tmp_path / "run" / "run.json")
    assert record.data["counts"]["train"]["ant"] == 14
    assert record.data["skipped"] == []


def test_unreadable_image_is_skipped_counted_and_listed(
    vit: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above 1 % unreadable images are an error; with --skip_bad_images they are left out and counted. Their
    names, which can tell of people, are in a file beside the results, and in none that is published."""
    own = tmp_path / "photos"
    shutil.copytree(photos, own)
    (own / "train" / "ant" / "broken.png").write_bytes(b"no image")
    assert train(vit, own, tmp_path / "run", "--recipe", "linear_probe") == 1
    assert "--skip_bad_images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert train(vit, own, tmp_path / "run", "--recipe", "linear_probe", "--skip_bad_images") == 0
    run = tmp_path / "run"
    (entry,) = RunRecord.load(run / "run.json").data["skipped"]
    assert (entry["split"], entry["images"]) == ("train", 1) and "no image" in entry["reason"]
    assert "broken.png" in capsys.readouterr().out
    (listed,) = json.loads((run / "skipped_images.json").read_text())
    assert listed["name"] == "train/ant/broken.png"
    told = {path.name for path in run.rglob("*") if path.is_file() and b"broken.png" in path.read_bytes()}
    assert told == {"skipped_images.json"} and not any(map(is_allowed, told))


def _one_class(photos: Path) -> None:
    for split in photos.iterdir():
        for label in LABELS[1:]:
            shutil.rmtree(split / label)


def _no_images(photos: Path) -> None:
    shutil.rmtree(photos)
    photos.mkdir()
    (photos / "notes.txt").write_text("no images here")


def _other_labels(photos: Path) -> None:
    (photos / "validation" / "dog").rename(photos / "validation" / "wolf")


def _empty_split(photos: Path) -> None:
    for file in (photos / "validation").rglob("*.png"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(_no_images, "image"), (_one_class, "class"), (_other_labels, "wolf"), (_empty_split, "validation")],
)
def test_bad_data_give_one_line(
    spoil: Any, message: str, vit: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No images, one class, unknown labels and an empty split end with exit code 1, one line, and no output folder."""
    own = tmp_path / "photos"
    shutil.copytree(photos, own)
    spoil(own)
    assert train(vit, own, tmp_path / "run") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf-transfer: error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model_name_or_path", "no/such-model"), "no/such-model"),
        (("--recipe", "nonsense"), "no recipe 'nonsense'"),
        (("--recipe", "last_blocks", "--recipe_options", '{"k": 99}'), "asks for 99 groups, but there are 3"),
        (("--recipe", "lp_ft", "--recipe_options", '{"train": "from:nowhere"}'), "'nowhere' fits no group"),
        (("--recipe", "lp_ft", "--recipe_options", '{"train": "re:xyz"}'), "'re:xyz' matches nothing"),
        (("--recipe", "lp_ft", "--recipe_options", "k=2"), "must be a JSON object"),
        (("--image_size", "50"), "takes multiples of 8, such as 48 and 56"),
        (("--model_name_or_path", "timm:resnet19"), "Similar: "),
        (("--metrics", "no_such_metric"), "no_such_metric"),
        (("--learning_rate", "-1"), "learning_rate must be above 0"),
        (("--num_train_epochs", "0"), "num_train_epochs must be above 0"),
        (("--image_size", "-7"), "image_size must be above 0"),
        (("--resume_from_checkpoint", "true"), "no complete checkpoint in"),
        (("--resume_from_checkpoint", "nowhere"), "no checkpoint folder nowhere"),
        (("--hub_token", "hf_" + "q" * 34), "HF_TOKEN in the environment"),
    ],
)
def test_bad_flags_give_one_line(
    flags: tuple[str, ...],
    message: str,
    vit: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Unknown model, recipe, selector, image size or metric: exit code 1, one line that names it, nothing written."""
    assert train(vit, photos, tmp_path / "run", *flags) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "run").exists()


def test_full_disk_is_told_before_training(
    vit: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With too little space the run ends before the first step, and says how much is needed."""
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1000))
    assert train(vit, photos, tmp_path / "run", "--recipe", "linear_probe") == 1
    assert "No space for the results" in capsys.readouterr().err


def test_loss_that_is_not_finite_stops_with_the_step(
    vit: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that blows the loss up ends in one line with step, phase and the last good checkpoint."""
    flags = ("--learning_rate", "1e30", "--recipe", "fine_tune", "--max_grad_norm", "0", "--save_steps", "1")
    flags += ("--save_total_limit", "9")
    assert train(vit, photos, tmp_path / "run", *flags, "--save_strategy", "steps", "--optim", "sgd") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "The loss became" in errors[0]
    assert "'fine-tune'" in errors[0]
    assert "checkpoint-1" in errors[0]
    assert (tmp_path / "run" / "checkpoint-1" / "model.safetensors").is_file()


def test_a_run_that_fails_leaves_the_one_that_it_should_replace(
    vit: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --overwrite_output_dir the earlier results go when the new ones are complete, and not before."""
    run = tmp_path / "run"
    flags = ("--recipe", "linear_probe", "--overwrite_output_dir")
    assert train(vit, photos, run, *flags) == 0
    before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def fail(*_: Any, **__: Any) -> None:
        raise DataError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(LinearProbeTrainer, "train", fail)
        assert train(vit, photos, run, *flags) == 1
    assert {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert train(run, photos, run, *flags) == 1  # its own model is what it would replace
    assert "which would be overwritten" in capsys.readouterr().err and (run / "model.safetensors").is_file()
    assert train(vit, photos, run, *flags, "--seed", "7") == 0
    assert RunRecord.load(run / "run.json").seed == 7 and not (run / ".replaced").exists()


def test_a_checkpoint_from_elsewhere_does_not_open_a_folder(
    vit: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resuming another folder's checkpoint does not replace the run in this one unasked."""
    (tmp_path / "other" / "checkpoint-3").mkdir(parents=True)
    shutil.copytree(vit, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{}")
    resume = ("--resume_from_checkpoint", str(tmp_path / "other" / "checkpoint-3"))
    assert train(vit, photos, tmp_path / "run", *resume) == 1
    assert "holds another run" in capsys.readouterr().err
