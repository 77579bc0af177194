"""linear_probe.probe_file: results that no ordinary checkpoint can hold are kept, and decide as the solver did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

import hf_transfer as ht
from hf_transfer.data import decode_image, eval_transform
from hf_transfer.errors import ArgumentError, ModelError, PublishError
from hf_transfer.hub.publishing import publish
from hf_transfer.linear_probe.probe_file import ProbeModel
from hf_transfer.reporting.card import render_card, validate_metadata
from hf_transfer.run_files import PROBE_FILE, PROBE_WEIGHTS
from hf_transfer.trainer.record import bare_record
from tests.helpers import tiny
from tests.helpers.labelled_images import NAMES, labelled_images, processor
from tests.helpers.training import RandomImages, arguments

TRAIN, TEST = labelled_images(45), labelled_images(24, seed=100)


def _model(kind: str) -> Any:
    torch.manual_seed(0)
    model: Any = {"resnet": tiny.resnet, "vit": tiny.vit}[kind]()
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {name: index for index, name in enumerate(NAMES)}
    return model


def _trainer(folder: Path, kind: str = "resnet", layer: str = "all", **options: Any) -> ht.LinearProbeTrainer:
    transform = eval_transform(processor())
    return ht.LinearProbeTrainer(
        _model(kind),
        arguments(folder, remove_unused_columns=False),
        train_dataset=TRAIN.with_transform(transform),
        eval_dataset=TEST.with_transform(transform),
        processing_class=processor(),
        layer=layer,
        **options,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, ht.LinearProbeTrainer]:
    """A trained and saved probe on all layers, the trainer, and what it predicted for the test images."""
    folder = tmp_path_factory.mktemp("run")
    trainer = _trainer(folder, allow_probe_file=True)
    trainer.train()
    trainer.save_model()
    processor().save_pretrained(folder)
    return folder, trainer.predict(TEST.with_transform(eval_transform(processor()))).predictions, trainer


def test_a_loaded_probe_decides_as_the_solver_did(run: Any) -> None:
    """From files, Pillow images, pixel values and a data set: the trainer's logits, and labels that go with them."""
    folder, predicted, _ = run
    probe = ht.load_probe(folder)
    assert probe.label_names == tuple(NAMES)
    # Of this network the last stage's mean is what the head reads: it is held once.
    assert "last" not in probe.layers and len(probe.layers) > 3
    images = [decode_image(value) for value in TEST.with_format(None)["image"]]
    pixels = eval_transform(processor())({"image": images})["pixel_values"]
    for given in (TEST, images, [row["bytes"] for row in TEST.with_format(None)["image"]], torch.stack(list(pixels))):
        logits = probe.logits(given)
        assert logits.astype(np.float32) == pytest.approx(predicted, abs=1e-4)
        assert (logits.argmax(axis=1) == predicted.argmax(axis=1)).all()
    assert probe.predict(images) == [NAMES[index] for index in predicted.argmax(axis=1)]
    assert probe.predict(images[3]) == [NAMES[predicted[3].argmax()]]


def test_the_solvers_own_scores_come_back(run: Any) -> None:
    """On the training images the loaded logits are the solver's scores, but for rounding, and so are all decisions."""
    folder, _, trainer = run
    found = ht.extract_features(trainer.model, TRAIN, processor(), "all", cache=False, progress=False)
    scores = trainer.solution.probe.head.scores(trainer.solution.probe.join(found))
    logits = ht.load_probe(folder).logits(TRAIN)
    assert logits == pytest.approx(scores, abs=1e-5)
    assert (logits.argmax(axis=1) == scores.argmax(axis=1)).all()


def test_the_checkpoint_beside_it_is_of_use(run: Any) -> None:
    """What transformers loads from the folder has a solved head on the last layer, not a random one."""
    folder, _, trainer = run
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    solution = trainer.solution
    with torch.inference_mode():
        pixels = torch.stack([row["pixel_values"] for row in TRAIN.with_transform(eval_transform(processor()))])
        right = (model(pixels).logits.argmax(-1).numpy() == np.array(TRAIN.with_format(None)["label"])).mean()
    assert right == pytest.approx(solution.spare.train_accuracy, abs=0.03)


def test_a_probe_on_one_layer(tmp_path: Path) -> None:
    """A layer that the configuration cannot end after is kept as a probe file; without the flag a warning names it."""
    layer = "resnet.encoder.stages.1.layers.0"
    trainer = _trainer(tmp_path, layer=layer, allow_probe_file=True)
    with pytest.MonkeyPatch.context() as patch:
        _refuse_to_truncate(patch)
        trainer.train()
    assert trainer.solution is not None and trainer.solution.layers == (layer,)
    assert trainer.solution.layer.layer == layer
    metrics = trainer.evaluate()
    trainer.save_model()
    processor().save_pretrained(tmp_path)
    probe = ht.load_probe(tmp_path)
    right = probe.logits(TEST).argmax(axis=1) == np.array(TEST.with_format(None)["label"])
    assert probe.layers == (layer,) and trainer.solution.probe is not None
    assert metrics["eval_loss"] > 0 and 0 <= right.mean() <= 1


def _refuse_to_truncate(patch: pytest.MonkeyPatch) -> None:
    """As for an architecture whose configuration has no number of blocks."""
    from hf_transfer.errors import TruncationError
    from hf_transfer.linear_probe import solving as head_solving

    def refuse(*_: Any, **__: Any) -> None:
        raise TruncationError("it cannot be truncated.")

    patch.setattr(head_solving, "truncate", refuse)


def test_without_the_flag_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All layers are refused, a layer that cannot be had gives the last with a warning; both name the flag."""
    with pytest.raises(ArgumentError, match="--allow_probe_file"):
        _trainer(tmp_path).train()
    _refuse_to_truncate(monkeypatch)
    trainer = _trainer(tmp_path, layer="resnet.encoder.stages.1.layers.0")
    trainer.train()
    trainer.save_model()
    assert "--allow_probe_file" in caplog.text
    assert trainer.solution is not None and trainer.solution.layers == ("last",)
    assert not (tmp_path / PROBE_FILE).exists()


def test_what_can_be_truncated_stays_ordinary(tmp_path: Path) -> None:
    """With the flag, too, a layer that an ordinary checkpoint can end after gives one."""
    trainer = _trainer(tmp_path, "vit", "vit.layers.1", allow_probe_file=True)
    trainer.train()
    (tmp_path / PROBE_FILE).write_text("{}")  # of an earlier run
    trainer.save_model()
    assert trainer.solution is not None and trainer.solution.probe is None
    assert not (tmp_path / PROBE_FILE).exists()
    assert trainer.model.config.num_hidden_layers == 2


def test_foreign_or_damaged_files_are_refused(run: Any, tmp_path: Path) -> None:
    """Other weights, other versions, missing and broken files: a clear error, never a wrong answer."""
    with pytest.raises(ModelError, match=r"no probe\.json"):
        ht.load_probe(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder)
    other = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    other.save_pretrained(folder)
    with pytest.raises(ModelError, match="other weights or labels"):
        ht.load_probe(folder)
    facts = json.loads((folder / PROBE_FILE).read_text())
    (folder / PROBE_FILE).write_text(json.dumps(facts | {"schema": 2}))
    with pytest.raises(ModelError, match="schema 1, found 2"):
        ht.load_probe(folder)
    (folder / PROBE_FILE).write_text(json.dumps({"schema": 1}))
    with pytest.raises(ModelError, match="damaged"):
        ht.load_probe(folder)
    (folder / PROBE_WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(ModelError, match="damaged"):
        ht.load_probe(folder)


def test_the_card_says_what_it_needs(run: Any) -> None:
    """At the top: that hf_transfer is needed, and how; no example that would run the other head."""
    record = json.loads(json.dumps(bare_record(run[2]).to_dict()))
    card = render_card(record)
    validate_metadata(card)
    head, _, rest = card.partition("## How to use")
    assert "needs hf_transfer to load" in head and "pip install hf-transfer-learning" in head
    assert "hf_transfer.load_probe(" in rest and "pipeline(" not in card and "timm.create_model" not in card
    assert "library_name: hf_transfer" in card


def test_it_is_not_published(run: Any) -> None:
    """Publishing refuses, and says that others would run another classifier."""
    with pytest.raises(PublishError, match="another classifier.*allow_probe_file"):
        publish(run[0], "someone/probe", dry_run=True)


def test_a_bare_model_has_no_probe_file(tmp_path: Path) -> None:
    """A model that from_pretrained cannot load is refused before anything is computed."""
    model = tiny.timm_model("resnet18")
    trainer = ht.LinearProbeTrainer(model, arguments(tmp_path), train_dataset=RandomImages(), allow_probe_file=True)
    with pytest.raises(ArgumentError, match="from_pretrained"):
        trainer.train()


def test_the_model_stays_in_eval_mode(run: Any) -> None:
    """Trainer's calls of train() change nothing; a loss is there where labels are."""
    model = ht.load_probe(run[0]).model
    assert isinstance(model, ProbeModel) and not model.train().training
    output = model(torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))
    assert output.logits.shape == (2, 3) and output.loss > 0
