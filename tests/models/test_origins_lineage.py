"""Lineage: what a local folder was made from is told by its record or card, kept over folders, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_transfer.models.loading import load_trained
from hf_transfer.models.origins import lineage_of
from hf_transfer.plans import recipes
from hf_transfer.reporting.card import render_card
from tests.helpers.card_records import changed, metadata, record
from tests.helpers.checkpoints import save_vit

BASE = {"id": "timm/tiny.a1_in1k", "revision": "0123abc"}
LOCAL: dict[str, Any] = {"id": "my-folder", "on_hub": False}


@pytest.mark.parametrize(
    ("base", "init", "found"),
    [
        ({}, "pretrained", BASE),
        ({**LOCAL, "lineage": BASE}, "pretrained", BASE),
        ({**LOCAL, "lineage": None}, "pretrained", None),
        ({}, "random", None),
    ],
    ids=["from the Hub", "over a folder", "unknown", "random weights"],
)
def test_record_of_a_folder(tmp_path: Path, base: dict[str, Any], init: str, found: dict[str, Any] | None) -> None:
    """The record of the run in a folder tells its base on the Hub, also by way of another folder."""
    data = changed(record(), base_model=base)
    data["training"]["plan"]["plan"]["init"] = init
    (tmp_path / "run.json").write_text(json.dumps(data))
    assert lineage_of(tmp_path) == found


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nbase_model: google/vit\n---\n# x", {"id": "google/vit", "revision": None}),
        ("---\nbase_model: [google/vit]\n---\n", {"id": "google/vit", "revision": None}),
        ("---\nbase_model: [google/vit, google/bit]\n---\n", None),
        ("---\nbase_model: /home/anna/model\n---\n", None),
        ("---\nbase_model: [\n---\n", None),
        ("# no metadata", None),
    ],
)
def test_card_of_a_folder(tmp_path: Path, card: str, found: dict[str, Any] | None) -> None:
    """Else its card does, if what it says is one id; a path is no id."""
    (tmp_path / "README.md").write_text(card)
    assert lineage_of(tmp_path) == found


def test_loaded_from_a_folder_with_a_card(tmp_path: Path) -> None:
    """The base of the local checkpoint reaches metadata and text of the next card; its path does not."""
    folder = save_vit(tmp_path / "step-one")
    (folder / "README.md").write_text("---\nbase_model: google/vit\nlicense: mit\n---\n")
    base = load_trained(str(folder)).base.to_dict()
    card = render_card(changed(record(recipes.fine_tune(2, 1e-4)), base_model=base))
    assert (metadata(card)["base_model"], metadata(card)["base_model_relation"]) == ("google/vit", "finetune")
    assert "had been made from [google/vit](https://huggingface.co/google/vit)." in card
    assert str(tmp_path) not in card and metadata(card)["license"] == "mit"


def test_unknown_lineage_is_said() -> None:
    """A folder that does not tell gives no base model in the metadata, and a clear word in the text."""
    card = render_card(changed(record(), base_model=LOCAL))
    assert "base_model" not in metadata(card) and "does not tell what they were made from" in card
