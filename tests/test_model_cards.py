"""The example cards in model_cards/ are what the library writes today, and a reader sees them whole."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from hf_transfer.card_metadata import validate_metadata

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "model_cards"
CARDS = sorted(path.stem for path in (FOLDER / "records").glob("*.json"))
_SPEC = importlib.util.spec_from_file_location("make", ROOT / "scripts" / "make_model_cards.py")
assert _SPEC is not None and _SPEC.loader is not None
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)


def test_every_record_has_a_card_and_is_listed() -> None:
    """Four records, four cards, each named in the folder's README; no card without a record."""
    assert len(CARDS) == 4 and sorted(p.stem for p in FOLDER.glob("*.md") if p.stem != "README") == CARDS
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.md)" in listed for name in CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_golden(name: str) -> None:
    """The card is the one that the record gives; if that change is wanted: python scripts/make_model_cards.py."""
    card = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert make.golden_card(FOLDER / "records" / f"{name}.json") == card
    validate_metadata(card)


@pytest.mark.parametrize("name", CARDS)
def test_markdown_is_clean(name: str) -> None:
    """One title, no skipped level, blank lines around blocks, no trailing space; every table is seen as one."""
    body = (FOLDER / f"{name}.md").read_text(encoding="utf-8").split("\n---\n", 1)[1]
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
