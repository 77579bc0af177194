"""The table of timm's models in docs/architectures.md: how it is made, and that it is that of the installed timm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm

from scripts.architecture_tables import timm_table
from tests.helpers import timm_zoo

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"


def _rows(lines: list[str]) -> dict[str, list[str]]:
    """The cells of each family."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in rows if cells[0] not in ("family", "---")}


def test_the_document_shows_every_family_of_this_timm() -> None:
    """Version, families and numbers of models are those of the installed timm, and none of them is wrong."""
    text = DOCUMENT.read_text(encoding="utf-8").partition("<!-- begin timm -->")[2]
    heading = f"## timm {timm.__version__}"
    if heading not in text:
        pytest.skip(f"written for another version of timm than {timm.__version__}")
    rows = _rows(text.splitlines())
    assert {family: cells[:2] for family, cells in rows.items()} == {
        family: [str(len(names))] * 2 for family, names in timm_zoo.families().items()
    }
    assert "**Wrong**" not in text


def test_a_section_tells_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of blocks and stages, where groups come from, head and neck are in a family's row."""
    families = {"levit": ["levit_128s"], "metaformer": ["poolformer_s12", "poolformerv2_s12"], "rdnet": ["rdnet_tiny"]}
    monkeypatch.setattr(timm_zoo, "families", lambda: families)
    lines = timm_table.section()
    rows = _rows(lines)
    assert lines[0].startswith("## timm") and "4 of 4 models in 3 families" in "\n".join(lines)
    assert rows["levit"][5] == "several classifiers in 1; with `head.bn`, `head_dist.bn`"
    assert rows["metaformer"][:6] == ["2", "2", "12", "4", "layout: timm has none", ""]
    assert rows["metaformer"][6] == "`head.norm`"
    assert rows["rdnet"][3] == "as blocks"


def test_a_fault_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that fails a check is not counted as right, and its fault is told."""

    def fail(*_: object) -> None:
        raise AssertionError("stem behind the blocks")

    monkeypatch.setattr(timm_zoo, "families", lambda: {"resnet": ["test_resnet"]})
    monkeypatch.setattr(timm_zoo, "check_structure", fail)
    text = "\n".join(timm_table.section())
    assert re.search(r"\| resnet \| 1 \| 0 \|", text)
    assert "**Wrong**: `test_resnet`: AssertionError: stem behind the blocks" in text
