"""The example cards in model_cards/ are what the library writes today, and a reader sees them whole."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import PIL.Image
import pytest
import yaml
from markdown_it import MarkdownIt

from hf_transfer.cli import main
from hf_transfer.hub.staging import local_images
from hf_transfer.plans.plan import TransferPlan
from hf_transfer.reporting.card_metadata import validate_metadata
from hf_transfer.reporting.record import RunRecord

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "model_cards"
_SPEC = importlib.util.spec_from_file_location("make", ROOT / "scripts" / "make_model_cards.py")
assert _SPEC is not None and _SPEC.loader is not None
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)
CARDS = sorted(make.RUNS)


def card_of(name: str) -> str:
    return (FOLDER / name / "README.md").read_text(encoding="utf-8")


def test_every_run_has_a_card_and_is_listed() -> None:
    """Five runs, five cards, each named in the folder's README; nothing is left of a run that is gone."""
    assert len(CARDS) == 5 and sorted(p.name for p in FOLDER.iterdir() if p.is_dir()) == CARDS
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}/README.md)" in listed for name in CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_golden(name: str) -> None:
    """The card is the one that the record gives; if that change is wanted: python scripts/make_model_cards.py."""
    assert make.golden_card(name) == card_of(name)
    validate_metadata(card_of(name))


def test_what_comes_from_a_hub_is_shown() -> None:
    """One card names a base model, its licence and a data set of a Hub, with commits, and tells its diagnosis."""
    data, body = yaml.safe_load(card_of(make.FROM_THE_HUB).split("---\n")[1]), card_of(make.FROM_THE_HUB)
    assert (data["base_model"], data["datasets"]) == (make.HUB_MODEL, [make.HUB_DATA])
    assert f"license: {data['license']}\n" in make.HUB_CARD
    record = RunRecord.load(FOLDER / make.FROM_THE_HUB / "run.json").to_dict()
    commits = record["base_model"]["revision"], record["data"]["revision"]
    assert all(re.fullmatch("[0-9a-f]{40}", commit) and f"`{commit}`" in body for commit in commits)
    assert data["model-index"][0]["results"][0]["dataset"]["revision"] == commits[1]
    assert "### Diagnosis" in body and len(record["diagnosis"]["reasons"]) >= 3


@pytest.mark.parametrize("name", CARDS)
def test_images_resolve(name: str) -> None:
    """Every image that a card shows is there and opens, and every figure that is there is shown."""
    shown = local_images(card_of(name))
    assert sorted(shown) == sorted(f"figures/{path.name}" for path in (FOLDER / name / "figures").iterdir())
    for path in shown:
        with PIL.Image.open(FOLDER / name / path) as image:
            image.verify()


@pytest.mark.parametrize("name", CARDS)
def test_record_is_of_the_command(name: str) -> None:
    """The kept record is of the very flags that the script gives, in as many processes as it starts."""
    record = RunRecord.load(FOLDER / name / "run.json").to_dict()
    words = make.command(name, Path(name))
    assert record["command"] == shlex.join(["hf-transfer", "train", *words[words.index("train") + 1 :]])
    assert record["hardware"]["world_size"] == (2 if name == "two_ranks" else 1)
    assert sum(record["data"]["counts"]["train"].values()) == make.IMAGES["train"]
    assert record["evaluation"]["test"]["n"] == make.IMAGES["test"]


@pytest.mark.slow
def test_a_new_run_gives_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quickest of the runs, made again, has the kept record's plan, data, model and preprocessing, and about its
    accuracy."""
    name = "linear_probe"
    make.write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = make.command(name, Path(name))
    assert main(words[words.index("train") :]) == 0
    kept, made = (RunRecord.load(path / "run.json").to_dict() for path in (FOLDER / name, tmp_path / name))
    for part in ("command", "base_model", "data", "preprocessing", "seed"):
        assert made[part] == kept[part], part
    plans = [record["training"]["plan"] for record in (kept, made)]
    assert plans[0]["groups"] == plans[1]["groups"]
    # The kept one may be of before a field existed, which then means its default.
    assert len({TransferPlan.from_dict(plan["plan"]) for plan in plans}) == 1
    accuracies = [record["evaluation"]["test"]["metrics"]["accuracy"]["value"] for record in (kept, made)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.02)


@pytest.mark.parametrize("name", CARDS)
def test_markdown_is_clean(name: str) -> None:
    """One title, no skipped level, blank lines around blocks, no trailing space; every table is seen as one."""
    body = card_of(name).split("\n---\n", 1)[1]
    lines = body.splitlines()
    assert not [line for line in lines if line != line.rstrip() or "\t" in line]
    assert "\n\n\n" not in body
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    levels = [int(token.tag[1]) for token in tokens if token.type == "heading_open"]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    blocks = [t for t in tokens if t.type in ("heading_open", "table_open", "fence") and t.map is not None]
    for block in blocks:
        start, end = block.map or (0, 0)
        assert start == 0 or not lines[start - 1].strip(), lines[start]
        assert end >= len(lines) or not lines[end].strip() or block.type == "table_open", lines[end]
    shown = [line for token in tokens if token.type == "inline" for line in token.content.splitlines()]
    assert not [line for line in shown if line.startswith("|")], "a table that is not seen as one"
