"""Nothing in a record can break its card, whatever a label, a name or a command holds."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from markdown_it import MarkdownIt

from hf_transfer.reporting.card import render_card, validate_metadata
from hf_transfer.reporting.markdown import code, escape
from tests.helpers.card_records import changed, record, section, tables_in

HOSTILE = "a|b<script>alert(1)</script>`x`\n# [y](http://z) **w** &amp; \\ ~~s~~ ![i](j) __u__ <!-- user:end -->\u202e"


def test_hostile_labels_break_nothing() -> None:
    """Whatever a label, a name or a command holds: tables keep their shape, nothing becomes HTML or a heading."""
    data = record(labels=(HOSTILE, "dog"))
    data["data"]["name"] = HOSTILE
    data["base_model"] |= {"id": HOSTILE, "on_hub": False}
    data["command"] = f"hf-transfer train '{HOSTILE}' ``` \n```\n# heading"
    clean, card = render_card(record(labels=("cat", "dog"))), render_card(data)
    validate_metadata(card)
    body = card.split("\n---\n", 1)[1]
    fence = re.search(r"^(`{4,})bash\n.*?^\1$", body, re.DOTALL | re.MULTILINE)
    assert fence is not None, "the command's fence is longer than the backticks in it"
    outside = body.replace(fence.group(), "")
    shapes = [[len(row) for row in found] for found in tables_in(outside)]
    assert shapes == [[len(row) for row in found] for found in tables_in(clean)]
    headings = re.compile(r"^##+ .*", re.MULTILINE)
    assert headings.findall(outside) == headings.findall(clean)
    assert len(re.findall(r"^# ", outside, re.MULTILINE)) == 1
    assert "<script" not in outside and outside.count("<!--") == 4 and "\u202e" not in outside
    assert "[y](" not in outside and not re.search(r"(?<!\\)!\[i", outside)
    label = tables_in(section(card, "Labels"))[0][1][1]
    assert label == escape(HOSTILE) and label.startswith("a\\|b&lt;script&gt;")


def test_hostile_record_as_a_browser_shows_it() -> None:
    """A Markdown parser finds no HTML, link, picture or emphasis in a hostile card that a harmless one has not."""
    data = record(labels=(HOSTILE, "dog"))
    data["data"] |= {"name": HOSTILE, "hub_id": None, "evaluation_split": HOSTILE}
    data["data"]["counts"] = {HOSTILE: {HOSTILE: 3}, "test": {}}
    data["evaluation"]["validation"]["split"] = HOSTILE
    data["base_model"] |= {"id": HOSTILE, "on_hub": False, "architecture": HOSTILE, "revision": HOSTILE}
    data["training"]["plan"]["phases"][0]["name"] = HOSTILE
    data["training"]["plan"]["groups"][0]["name"] = HOSTILE
    data["training"]["optimizer"] = {"class": HOSTILE, "defaults": {HOSTILE: HOSTILE}}
    data["preprocessing"] |= {"interpolation": HOSTILE}
    data["hardware"]["processor"] = HOSTILE
    data["versions"] = {"python": HOSTILE, HOSTILE: HOSTILE}
    assert tokens(render_card(data)) == tokens(
        render_card(changed(record(), base_model={"on_hub": False}, data={"hub_id": None}))
    )


def tokens(card: str) -> Counter[str]:
    """What a Markdown parser finds in a card, save code and plain text; comments are the only HTML allowed."""
    found: Counter[str] = Counter()
    for block in MarkdownIt("commonmark").enable("table").parse(card.split("\n---\n", 1)[1]):
        for token in [block, *(block.children or [])]:
            if token.type in ("html_block", "html_inline"):
                assert re.fullmatch(r"(<!--[\w :.,-]*-->\s*)+", token.content), token.content
            if token.type not in ("code_inline", "text", "text_special"):
                found[token.type] += 1
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t_shirt", "t_shirt"),
        ("_x_", "\\_x\\_"),
        ("a\r\nb\tc\u2028d\x00", "a b c d"),
        ("&lt;", "&amp;lt;"),
        ("50 $ \\|", "50 \\$ \\\\\\|"),
        ("猫 👨‍👩‍👧 é", "猫 👨‍👩‍👧 é"),
    ],
)
def test_escape(text: str, expected: str) -> None:
    """Harmless text stays readable; what Markdown or HTML would act on does not."""
    assert escape(text) == expected


def test_code_falls_back_to_escaped_text() -> None:
    """Text that would break inline code in a table is escaped instead."""
    assert code("blocks.0") == "`blocks.0`"
    assert code("re:a|b`") == "re:a\\|b\\`"
