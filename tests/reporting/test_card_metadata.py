"""Metadata of a card: what is written, what stays when it is written again, and what the Hub would refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_transfer.errors import ArgumentError, OutputError
from hf_transfer.reporting.card import adopt_edits, render_card, validate_metadata, write_card
from tests.helpers.card_records import changed, metadata, record, section


def test_metadata_round_trip() -> None:
    """huggingface_hub reads back what was written, and the results keep split, revision and value."""
    card = ModelCard(render_card(record(), repo_id="someone/pets-model"))
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "image-classification",
        "apache-2.0",
    )
    assert (data.base_model, data.base_model_relation) == ("timm/tiny.a1_in1k", "finetune")
    assert data.datasets == ["someone/pets"] and data.metrics == ["accuracy"]
    assert data.tags == ["image-classification", "vision", "hf_transfer", "timm", "generated_from_trainer"]
    assert data.model_name == "pets-model"
    first = data.eval_results[0]
    assert (first.metric_type, first.metric_value, first.metric_name) == ("accuracy", 0.8725, "Accuracy")
    assert (first.dataset_type, first.dataset_split, first.dataset_revision) == (
        "someone/pets",
        "validation",
        "fedc321",
    )


def test_users_metadata_and_text_survive(tmp_path: Path) -> None:
    """Keys, tags and the licence that a user wrote stay, as does the text between the marks; stale results do not."""
    path = write_card(tmp_path, record())
    head, body = path.read_text().removeprefix("---\n").split("\n---\n", 1)
    edited = yaml.safe_load(head)
    edited |= {"license": "mit", "widget": [{"src": "https://example.org/cat.jpg"}], "thumbnail": "t.png"}
    edited["tags"].append("pets")
    edited["metrics"] = ["bleu"]
    body = body.replace("<!-- user:start -->\n", "<!-- user:start -->\nMine.\n")
    path.write_text(f"---\n{yaml.safe_dump(edited)}---\n{body}")
    new = record()
    new["evaluation"]["validation"]["metrics"]["accuracy"]["value"] = 0.5
    card = write_card(tmp_path, new).read_text()
    found = metadata(card)
    assert (found["license"], found["thumbnail"], found["tags"][-1]) == ("mit", "t.png", "pets")
    assert found["widget"] == [{"src": "https://example.org/cat.jpg"}] and "\nMine.\n" in card
    assert found["metrics"] == ["accuracy"] and found["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5
    assert write_card(tmp_path, new).read_text() == card
    assert metadata(write_card(tmp_path, new, license="apache-2.0").read_text())["license"] == "apache-2.0"


def test_unedited_card_is_written_as_new(tmp_path: Path) -> None:
    """Over a card that nobody edited, or one whose metadata are broken, the new card is as it would be alone."""
    write_card(tmp_path, record())
    assert write_card(tmp_path, record()).read_text() == render_card(record())
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n# x\n")
    assert write_card(tmp_path, record()).read_text() == render_card(record())


def test_base_model_of_an_earlier_run_does_not_stay(tmp_path: Path) -> None:
    """A card for random weights does not inherit the base model of the card that it replaces."""
    write_card(tmp_path, record())
    again = record()
    again["training"]["plan"]["plan"]["init"] = "random"
    assert "base_model" not in metadata(write_card(tmp_path, again).read_text())


def test_licence_data_set_and_tags_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    """A card for another base model has that one's licence, its own data set and tags; a user's tag stays."""
    write_card(tmp_path, changed(record(), base_model={"license": "apache-2.0"}))
    path = tmp_path / "README.md"
    path.write_text(path.read_text().replace("tags:\n", "tags:\n- pets\n- timm\n", 1))
    again = changed(
        record(),
        base_model={"id": "owner/another", "library": "transformers", "license": "cc-by-nc-4.0"},
        data={"hub_id": "owner/other-data"},
    )
    found = metadata(write_card(tmp_path, again).read_text())
    assert (found["license"], found["datasets"]) == ("cc-by-nc-4.0", ["owner/other-data"])
    assert "pets" in found["tags"] and "timm" not in found["tags"]


NEW_BASE = {"id": "owner/another", "license": "cc-by-nc-4.0"}


@pytest.mark.parametrize("given", ["as an argument", "the base's own as an argument", "by hand", "in their card"])
def test_users_licence_survives_another_base(given: str, tmp_path: Path) -> None:
    """A licence that the user gave stays when the base model changes, however often; an inherited one would not."""
    path = tmp_path / "README.md"
    if "argument" in given:
        licence = "apache-2.0" if "own" in given else "mit"
        write_card(tmp_path, record(), license=licence)
    elif given == "by hand":
        licence = "mit"
        write_card(tmp_path, record())
        path.write_text(path.read_text().replace("license: apache-2.0", "license: mit", 1))
    else:
        licence = "mit"
        path.write_text("---\nlicense: mit\n---\n# Mine\n")
    for base in (NEW_BASE, {**NEW_BASE, "license": licence}, NEW_BASE, {"id": None, "on_hub": False, "license": None}):
        assert metadata(write_card(tmp_path, changed(record(), base_model=base)).read_text())["license"] == licence


def test_inherited_licence_follows_the_base(tmp_path: Path) -> None:
    """An inherited one is the new base's, or none if that has none; for the same base it stays if it is not known."""
    write_card(tmp_path, record())
    unknown = changed(record(), base_model={"license": None})
    assert metadata(write_card(tmp_path, unknown).read_text())["license"] == "apache-2.0"
    other = changed(record(), base_model=NEW_BASE)
    assert metadata(write_card(tmp_path, other).read_text())["license"] == "cc-by-nc-4.0"
    none = changed(record(), base_model={"id": "owner/third", "license": None})
    assert "license" not in metadata(write_card(tmp_path, none).read_text())


OWN = {"license": "other", "license_name": "theirs", "license_link": "https://example.org/theirs"}


def test_name_and_link_belong_to_their_licence(tmp_path: Path) -> None:
    """They stay and go with the licence: with the user's, with the base model's, and not with another one."""
    path = tmp_path / "README.md"
    inherited = changed(record(), base_model=OWN)
    write_card(tmp_path, inherited)
    found = metadata(write_card(tmp_path, inherited).read_text())
    assert {key: found[key] for key in OWN} == OWN
    another = metadata(write_card(tmp_path, changed(record(), base_model=NEW_BASE)).read_text())
    assert another["license"] == "cc-by-nc-4.0" and not {"license_name", "license_link"} & set(another)
    path.write_text("---\nlicense: other\nlicense_name: mine\n---\n# Mine\n")
    for base in (OWN, NEW_BASE):
        found = metadata(write_card(tmp_path, changed(record(), base_model=base)).read_text())
        assert (found["license"], found["license_name"]) == ("other", "mine") and "license_link" not in found
    write_card(tmp_path, record(), license="mit")
    assert "license_name" not in metadata(path.read_text())


@pytest.mark.parametrize(
    ("own", "published", "kept"), [(None, "mit", "mit"), ("mit", None, "mit"), ("mit", "bsl-1.0", "bsl-1.0")]
)
def test_licence_of_the_published_card(tmp_path: Path, own: str | None, published: str | None, kept: str) -> None:
    """A licence that a user gave on the Hub is adopted, and kept for another base; an inherited one there does not
    replace what the user wrote here."""
    write_card(tmp_path, record(), license=own)
    adopt_edits(tmp_path, render_card(record(), license=published))
    assert metadata((tmp_path / "README.md").read_text())["license"] == kept
    assert metadata(write_card(tmp_path, changed(record(), base_model=NEW_BASE)).read_text())["license"] == kept


def test_confidence_is_in_the_results() -> None:
    """A result carries the bounds of its interval; one without bounds carries none."""
    first, second = metadata(render_card(record()))["model-index"][0]["results"][0]["metrics"]
    assert first["args"] == {"confidence_level": 0.95, "confidence_interval": [0.8401, 0.8999]}
    assert "args" not in second
    assert "config" not in metadata(render_card(changed(record())))["model-index"][0]["results"][0]["dataset"]


def test_diagnosis() -> None:
    """The reasons of a diagnosis and its figure stand in the card, escaped; without a diagnosis nothing does."""
    figures = {"accuracy_by_depth": "figures/accuracy_by_depth.png"}
    plain = render_card(record())
    assert "Diagnosis" not in plain
    data = record()
    data["diagnosis"] = {
        "scenario": 3,
        "recipe": "linear_probe",
        "reasons": ["The last layer reaches 0.91 ± 0.02.", "Only *20* images | class <b>."],
        "warnings": ["2 labels may be wrong."],
    }
    found = section(render_card(data, figures=figures), "What was trained").partition("### Diagnosis")[2]
    assert "measured: few images, different from those of the pretraining.\nThe recipe `linear_probe` was" in found
    assert found.index("Noticed in the data:\n\n- 2 labels may be wrong.\n") > found.index("0.91")
    assert "\n- The last layer reaches 0.91 ± 0.02.\n- Only \\*20\\* images \\| class &lt;b&gt;.\n" in found
    assert "![Accuracy by depth](figures/accuracy_by_depth.png)" in found
    assert "![" not in render_card(data)


def with_metadata(edit: Callable[[dict[str, Any]], object]) -> str:
    """A card whose metadata were edited."""
    card = render_card(record())
    data = metadata(card)
    edit(data)
    return f"---\n{yaml.safe_dump(data)}---\n\nbody\n"


def first_result(data: dict[str, Any]) -> dict[str, Any]:
    """The first result of a card's metadata."""
    found = data["model-index"][0]["results"][0]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        (lambda d: d.update(base_model="runs/a/b"), "base_model"),
        (lambda d: d.update(base_model=3), "base_model"),
        (lambda d: d.update(base_model_relation="child"), "base_model_relation"),
        (lambda d: d.update(datasets=[None]), r"datasets\[0\]"),
        (lambda d: d.update(datasets="a/b"), "datasets"),
        (lambda d: d.update(license="Apache 2.0"), "license"),
        (lambda d: d.update(license="[More Information Needed]"), "license"),
        (lambda d: d.update(license_name="TODO"), "license_name"),
        (lambda d: d.update(tags="vision"), "tags"),
        (lambda d: d.update(pipeline_tag=["x"]), "pipeline_tag"),
        (lambda d: d.update(widget={"src": "x"}), "widget"),
        (lambda d: d.update(co2=math.inf), "co2"),
        (lambda d: first_result(d)["metrics"][0].update(value=math.nan), r"metrics\[0\].value"),
        (lambda d: first_result(d)["metrics"][0].update(value="0.9"), r"metrics\[0\].*value"),
        (lambda d: first_result(d).pop("task"), r"results\[0\].*task"),
        (lambda d: first_result(d)["dataset"].pop("type"), "dataset.*type"),
        (lambda d: first_result(d)["dataset"].update(config=3), "dataset.*config"),
        (lambda d: d["model-index"][0].pop("name"), r"model-index\[0\].*name"),
        (lambda d: d.update({"model-index": {}}), "model-index"),
    ],
)
def test_validate_metadata_names_the_key(edit: Callable[[dict[str, Any]], object], key: str) -> None:
    """Each fault that the Hub would refuse, or should, is found without it, and its key is named."""
    with pytest.raises(ArgumentError, match=key):
        validate_metadata(with_metadata(edit))


def test_validate_metadata_finds_paths() -> None:
    """A local path in the metadata is refused."""
    with pytest.raises(OutputError, match="thumbnail"):
        validate_metadata(with_metadata(lambda d: d.update(thumbnail="/home/anna/x.png")))


@pytest.mark.parametrize("text", ["# no metadata\n", "---\n- a list\n---\n", "---\na: [\n---\n", ""])
def test_validate_metadata_needs_metadata(text: str) -> None:
    """A card without readable metadata is refused with one message."""
    with pytest.raises(ArgumentError, match="metadata"):
        validate_metadata(text)


def test_validate_metadata_takes_a_data_set_called_todo() -> None:
    """A user's own name is not taken for a gap."""
    card = render_card(changed(record(), data={"name": "todo"}))
    validate_metadata(card)
    assert "fine-tuned on todo" in card
