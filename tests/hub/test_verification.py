"""Verification after the commit: a fresh process finds out when what the Hub serves is another model."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from torch.utils.data import IterableDataset
from transformers import ViTImageProcessor

import hf_transfer as ht
from hf_transfer.cli import main
from hf_transfer.errors import PublishError
from hf_transfer.models.loading import load_for_training
from hf_transfer.models.timm_interop import strip_timm_prefix
from hf_transfer.reporting.run_folder import RunFolder
from tests.helpers import tiny
from tests.helpers.checkpoints import save_timm_resnet, save_vit
from tests.helpers.fast import slow_but
from tests.helpers.hub_server import Fault, HubServer
from tests.helpers.hub_server.fixtures import finished_run
from tests.helpers.hub_server.repositories import Blob
from tests.helpers.image_files import write_classes
from tests.helpers.training import RandomImages, arguments


def other_weights(content: bytes) -> bytes:
    """The same tensors, of which the head's are half as large: every label stays, every logit differs."""
    tensors = safetensors.torch.load(content)
    head = {n: t / 2 for n, t in tensors.items() if n.startswith(("classifier", "fc"))}
    assert head
    return safetensors.torch.save(tensors | head, metadata={"format": "pt"})


def other_labels(content: bytes) -> bytes:
    """The same model, whose classes have each other's names."""
    config = json.loads(content)
    names = list(config["id2label"].values())
    config["id2label"] = dict(zip(config["id2label"], names[1:] + names[:1], strict=True))
    config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    return json.dumps(config).encode()


def other_pixels(content: bytes) -> bytes:
    """The same model, whose processor makes brighter images."""
    return json.dumps(json.loads(content) | {"image_mean": [0.1, 0.1, 0.1]}).encode()


LOGITS = r"its logits differ by \d\.\de[-+]\d\d of the largest from the folder's"


def published_otherwise(hub: HubServer, folder: Path, name: str, change: Callable[[bytes], bytes]) -> str:
    """Publish while the Hub keeps another content of a file than it was sent; returns the error."""

    def tamper() -> None:
        theirs = hub.repositories["someone/pets"]
        files = theirs.commits[theirs.refs["main"]]
        files[name] = Blob(change(files[name].content), files[name].lfs)

    hub.faults = [Fault("POST", "/tag/", action=tamper)]
    with pytest.raises(PublishError) as caught:
        ht.publish(folder, "someone/pets")
    revision = hub.repositories["someone/pets"].refs["main"]
    assert f"was published at revision {revision}, but is another model there" in str(caught.value)
    assert "to try again: hf-transfer publish" in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_other_weights_are_found_by_a_fresh_process(hub: HubServer, tmp_path: Path) -> None:
    """The Hub serves weights that were never sent: a fresh process finds that its logits differ, and the error names
    the revision."""
    found = published_otherwise(hub, finished_run(tmp_path / "run"), "model.safetensors", other_weights)
    assert re.search(LOGITS, found)


@pytest.mark.parametrize(
    ("name", "change", "timm", "what"),
    [
        ("model.safetensors", other_weights, True, LOGITS),
        ("config.json", other_labels, False, "its labels differ"),
        ("preprocessor_config.json", other_pixels, False, LOGITS),
    ],
    ids=["weights of timm", "labels", "preprocessing"],
)
def test_another_model_on_the_hub_is_an_error(
    verified_by_one_process: HubServer,
    tmp_path: Path,
    name: str,
    change: Callable[[bytes], bytes],
    timm: bool,
    what: str,
) -> None:
    """Whatever of the model the Hub serves otherwise than it was sent is found in what the model answers."""
    assert re.search(what, published_otherwise(verified_by_one_process, finished_run(tmp_path, timm), name, change))


def trainer_of(folder: Path, eval_dataset: Any) -> ht.TransferTrainer:
    """A run of one epoch that is pushed at its end."""
    return ht.TransferTrainer(
        model=tiny.vit(),
        args=arguments(folder, push_to_hub=True, hub_model_id="someone/pets", hub_strategy="end"),
        train_dataset=RandomImages(8),
        eval_dataset=eval_dataset,
        processing_class=ViTImageProcessor(size={"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}),
        plan=ht.recipes.linear_probe(),
    )


def test_logits_of_the_trainer_are_compared(verified_by_one_process: HubServer, tmp_path: Path) -> None:
    """push_to_hub keeps a few of the evaluation data's inputs with the trainer's logits in the folder alone, and the
    published model must answer them alike; weights in the folder that were never evaluated do not pass as them."""
    trainer = trainer_of(tmp_path / "out", RandomImages(9))
    trainer.train()
    made = trainer.push_to_hub()
    assert made is not None and made.verification is not None and made.verification.samples == 4
    assert made.verification.sample_difference is not None and made.verification.sample_difference < 1e-5
    assert "on 4 evaluation images" in made.verification.description()
    theirs = verified_by_one_process.repositories["someone/pets"]
    assert not [name for name in theirs.files() if "verification" in name or "samples" in name]
    inputs = (tmp_path / "out" / "verification" / "inputs.safetensors").read_bytes()
    assert safetensors.torch.load(inputs)["pixel_values"].shape == (4, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)

    weights = tmp_path / "out" / "model.safetensors"
    weights.write_bytes(other_weights(weights.read_bytes()))
    with pytest.raises(PublishError, match="from the trainer's on the 4 evaluation images") as caught:
        ht.publish(tmp_path / "out", "someone/pets", create_pr=False)
    assert f"was published at revision {theirs.refs['main']}, but" in str(caught.value)


class OneByOne(IterableDataset[Any]):
    """Images without an index."""

    def __iter__(self) -> Iterator[Any]:
        return iter(RandomImages(4))


class Broken(RandomImages):
    """Images that cannot be read."""

    def __getitem__(self, index: int) -> Any:
        raise OSError("the disk is gone")


@pytest.mark.parametrize("data", [None, OneByOne(), Broken(4)], ids=["none", "iterable", "broken"])
def test_without_evaluation_images(
    verified_by_one_process: HubServer, tmp_path: Path, data: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Where none can be kept, made images alone are compared, and the report says so; samples of an earlier training
    are gone."""
    (tmp_path / "out" / "verification").mkdir(parents=True)
    trainer = trainer_of(tmp_path / "out", data)
    trainer.train()
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        made = trainer.push_to_hub()
    assert made is not None and made.verification is not None and made.verification.sample_difference is None
    assert "keeps no evaluation images" in made.verification.description()
    assert ("the disk is gone" in caplog.text) == isinstance(data, Broken)
    assert not (tmp_path / "out" / "verification").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "save"), [(1, save_timm_resnet), (4, save_timm_resnet), (1, save_vit), (4, save_vit)]
)
def test_grey_and_rgba_models_are_verified(
    verified_by_one_process: HubServer,
    tmp_path: Path,
    channels: int,
    save: Callable[[Path], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A model of one or four channels, which no pipeline feeds, is compared on images that it takes."""
    for split, count in (("train", 4), ("validation", 2)):
        write_classes(tmp_path / "photos" / split, dict.fromkeys(("ant", "bee"), count), seed=count)
    out = str(tmp_path / "out")
    flags = ["--model_name_or_path", str(save(tmp_path / "tiny")), "--dataset", str(tmp_path / "photos")]
    flags += ["--recipe", "linear_probe", "--num_channels", str(channels), "--output_dir", out]
    assert main(["train", *flags]) == 0, capsys.readouterr().err
    assert main(["publish", out, "pets"]) == 0, capsys.readouterr().err
    assert "on 4 evaluation images" in capsys.readouterr().out and len(verified_by_one_process.verified) == 1


def test_half_precision_is_verified(verified_by_one_process: HubServer, tmp_path: Path) -> None:
    """A model that is stored in bfloat16 is compared by its weights, also by timm, which loads them as float32."""
    for timm in (False, True):
        folder = finished_run(tmp_path / str(timm), timm)
        weights = safetensors.torch.load((folder / "model.safetensors").read_bytes())
        half = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        safetensors.torch.save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text()) | {"dtype": "bfloat16"}
        (folder / "config.json").write_text(json.dumps(config))
        made = ht.publish(folder, f"pets-{timm}")
        assert made.verification is not None and made.verification.difference == 0


def test_a_folder_of_the_users_is_left_alone(
    verified_by_one_process: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the user has files in a folder named verification, nothing there is removed or added, and a warning says
    so; nor does replacing the run remove them."""
    theirs = tmp_path / "out" / "verification" / "0.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    trainer = trainer_of(tmp_path / "out", RandomImages(4))
    trainer.train()
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        trainer.push_to_hub()
    assert [path.name for path in theirs.parent.iterdir()] == ["0.png"] and theirs.read_text() == "mine"
    assert "is there already" in caplog.text
    folder = RunFolder(tmp_path / "out", overwrite=True)
    folder.prepare()
    folder.finish()
    assert theirs.read_text() == "mine" and not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("timm", slow_but((False,), (False, True)))
@pytest.mark.parametrize("channels", [1, 4])
def test_models_of_other_images_than_rgb(
    verified_by_one_process: HubServer, tmp_path: Path, timm: bool, channels: int
) -> None:
    """A model for grey images, or for images with opacity, is verified on such images; other labels are found."""
    folder = finished_run(tmp_path / "run", timm)
    adapted = load_for_training(str(folder), ("LABEL_0", "LABEL_1", "LABEL_2"), num_channels=channels)
    adapted.model.save_pretrained(folder)
    if timm:
        strip_timm_prefix(folder)
    else:
        adapted.processor.save_pretrained(folder)
    found = ht.publish(folder, "someone/first").verification
    assert found is not None and found.difference < 1e-5 and (found.timm_difference is not None) == timm
    if not timm:
        assert "its labels differ" in published_otherwise(verified_by_one_process, folder, "config.json", other_labels)
