"""hf_transfer.models.origins: where weights came from, by evidence alone; what there is no evidence for is unknown."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import close_session
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification

import hf_transfer as ht
from hf_transfer.models.loading import load_for_training
from hf_transfer.models.origins import base_model_of
from hf_transfer.reporting.card import render_card
from hf_transfer.trainer.record import bare_record
from tests.helpers import tiny
from tests.helpers.card_records import changed, metadata, record
from tests.helpers.checkpoints import save_timm_resnet, save_vit
from tests.helpers.hub_server import HubServer, Repository
from tests.helpers.hub_server.fixtures import hub
from tests.helpers.training import RandomImages, arguments

__all__ = ["hub"]

ID = "someone/base"
LABELS = ("a", "b", "c")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the Hub that nothing is in yet."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it keeps the address of the first Hub that it asked
    return tmp_path / "cache"


def put(hub: HubServer, folder: Path, license: str | None = "cc-by-nc-4.0") -> str:
    """Put a saved model and its card into a repository; returns the commit."""
    repository = hub.repositories.setdefault(ID, Repository(ID, private=False))
    if license is not None:
        repository.put("README.md", f"---\nlicense: {license}\n---\n# base\n".encode())
    return [repository.put(path.name, path.read_bytes()) for path in sorted(folder.iterdir())][-1]


def built(kind: str, folder: Path) -> nn.Module:
    """A model that no weights were loaded into, whatever its configuration says."""
    if kind == "class":
        return tiny.vit()
    config = AutoConfig.from_pretrained(save_vit(folder))
    if kind == "named as one on the Hub":
        config.name_or_path = "google/vit-base-patch16-224"
    model: nn.Module = AutoModelForImageClassification.from_config(config)
    return model


@pytest.mark.parametrize("kind", ["class", "configuration of a checkpoint", "named as one on the Hub"])
def test_model_that_was_built_is_not_called_pretrained(kind: str, tmp_path: Path) -> None:
    """Trained from a configuration alone: no base model in record, metadata or text, and the card says so."""
    trainer = ht.TransferTrainer(
        built(kind, tmp_path / "base"),
        arguments(tmp_path / "out", max_steps=1),
        train_dataset=RandomImages(8),
        plan=ht.recipes.fine_tune(),
    )
    trainer.train()
    made = bare_record(trainer).to_dict()
    assert (made["base_model"]["id"], made["base_model"]["on_hub"]) == (None, False)
    card = render_card(made)
    assert not {"base_model", "base_model_relation", "license"} & set(metadata(card))
    assert "pretrained" not in card and "google" not in card and "None" not in card
    assert "It is not known which weights the training started from." in " ".join(card.split())


@pytest.mark.parametrize("save", [save_vit, save_timm_resnet])
def test_model_that_was_loaded_from_a_folder(save: Any, tmp_path: Path) -> None:
    """from_pretrained leaves evidence: the folder's name is the origin, also after truncation, its path is nowhere."""
    folder = save(tmp_path / "mine")
    model = AutoModelForImageClassification.from_pretrained(folder)
    smaller = ht.truncate(model, ht.truncation_points(model)[0])
    for each in (model, smaller):
        base = base_model_of(each)
        assert (base.id, base.on_hub, base.random_weights) == ("mine", False, False)
        assert str(tmp_path) not in str(base)
        assert base.parameters == sum(parameter.numel() for parameter in each.parameters())
    shutil.rmtree(folder)
    assert base_model_of(model).id is None


def test_what_our_loader_knows_is_kept(tmp_path: Path) -> None:
    """A model that our own loader made tells its origin, random weights and a changed input size included."""
    drawn = load_for_training("timm:resnet18", LABELS, image_size=32).model
    assert base_model_of(drawn).random_weights and base_model_of(drawn).id == "timm:resnet18"
    folder = save_vit(tmp_path / "mine")
    (folder / "README.md").write_text("---\nbase_model: google/vit\nlicense: mit\n---\n")
    loaded = load_for_training(str(folder), LABELS, image_size=48)
    assert base_model_of(loaded.model) == loaded.base
    assert (loaded.base.license, loaded.base.lineage) == ("mit", {"id": "google/vit", "revision": None})


@pytest.mark.parametrize("by", ["our loader", "from_pretrained"])
def test_model_from_the_hub(by: str, hub: HubServer, cache: Path, tmp_path: Path) -> None:
    """Id, the commit that was loaded, and the licence that its card states at that commit, not the one of today."""
    first = put(hub, save_vit(tmp_path / "base"))
    if by == "our loader":
        model = load_for_training(ID, LABELS).model
        put(hub, tmp_path / "base", license="mit")
    else:
        model = AutoModelForImageClassification.from_pretrained(ID)
        put(hub, tmp_path / "base", license="mit")
    base = base_model_of(model)
    assert (base.id, base.on_hub, base.revision, base.license) == (ID, True, first, "cc-by-nc-4.0")
    card = render_card(changed(record(), base_model=base.to_dict()))
    assert metadata(card)["base_model"] == ID and metadata(card)["license"] == "cc-by-nc-4.0"
    assert f"at revision `{first}`" in card
    assert metadata(render_card(changed(record(), base_model=base.to_dict()), license="mit"))["license"] == "mit"


def test_a_tag_is_resolved_to_its_commit(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    """Of a branch or tag the commit is recorded, and weights, processor and licence are that commit's."""
    first = put(hub, save_vit(tmp_path / "base"))
    hub.repositories[ID].tags["v1"] = first
    put(hub, save_vit(tmp_path / "other"), license="mit")
    base = load_for_training(ID, LABELS, revision="v1").base
    assert (base.revision, base.license) == (first, "cc-by-nc-4.0")
    assert load_for_training(ID, LABELS).base.license == "mit"


def test_offline_no_licence_is_invented(
    hub: HubServer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Loaded from the cache without a network, before its card was ever read: the commit, no licence, a warning."""
    commit = put(hub, save_vit(tmp_path / "base"))
    huggingface_hub.snapshot_download(ID, ignore_patterns="README.md")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    close_session()
    base = load_for_training(ID, LABELS).base
    assert (base.id, base.on_hub, base.revision, base.license) == (ID, True, commit, None)
    assert "licence" in caplog.text and ID in caplog.text
    assert "license" not in metadata(render_card(changed(record(), base_model=base.to_dict())))


def test_name_and_text_of_an_own_licence(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    """A licence that is none of the Hub's list is inherited with its name and a link to its text at the commit."""
    commit = put(
        hub, save_vit(tmp_path / "base"), license="other\nlicense_name: own-licence\nlicense_link: LICENSE.md"
    )
    base = load_for_training(ID, LABELS).base.to_dict()
    found = metadata(render_card(changed(record(), base_model=base)))
    link = f"https://huggingface.co/{ID}/blob/{commit}/LICENSE.md"
    assert (found["license"], found["license_name"], found["license_link"]) == ("other", "own-licence", link)
    given = metadata(render_card(changed(record(), base_model=base), license="mit"))
    assert given["license"] == "mit" and not {"license_name", "license_link"} & set(given)


def test_without_a_card_there_is_no_licence(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    """A repository without a card, or with one that states no licence, gives none."""
    put(hub, save_vit(tmp_path / "base"), license=None)
    assert load_for_training(ID, LABELS).base.license is None


def test_revision_is_unknown_where_several_were_cached(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    """from_pretrained does not note the commit: with two in the cache neither it nor its licence is guessed."""
    put(hub, save_vit(tmp_path / "base"))
    AutoModelForImageClassification.from_pretrained(ID)
    put(hub, save_vit(tmp_path / "other"), license="mit")
    base = base_model_of(AutoModelForImageClassification.from_pretrained(ID))
    assert (base.id, base.on_hub, base.revision, base.license) == (ID, True, None, None)


def test_a_folder_that_is_gone_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """A relative path has the form of an id: once the folder is gone, the origin is unknown, and never a link."""
    monkeypatch.chdir(tmp_path)
    save_vit(Path("runs") / "one")
    model = AutoModelForImageClassification.from_pretrained("runs/one")
    shutil.rmtree("runs")
    base = base_model_of(model)
    assert (base.id, base.on_hub) == (None, False)
