"""Write docs/architectures.md: what the registry knows of each architecture, and which checks it passed.

    python scripts/make_architectures_doc.py                # all sections
    python scripts/make_architectures_doc.py transformers   # one of them; the others stay as they are

A section is a module `scripts/architecture_tables/<name>_table.py` with a function `section() -> list[str]` that runs
the checks of the test suite and returns Markdown lines, the first of which is its heading.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "architectures.md"
SECTIONS = ("transformers", "timm")

_INTRODUCTION = """\
# Architectures

Written by `scripts/make_architectures_doc.py`, which runs the checks; do not edit it by hand.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write docs/architectures.md.")
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], default=[], help="all, if none is given")
    chosen = parser.parse_args(arguments).sections or SECTIONS
    sections = read_sections(DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.is_file() else "")
    sys.path.insert(0, str(ROOT))
    for name in chosen:
        module = importlib.import_module(f"scripts.architecture_tables.{name}_table")
        sections[name] = "\n".join(module.section()).strip()
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document(sections), encoding="utf-8")
    return 0


def read_sections(text: str) -> dict[str, str]:
    """The sections of a document, by name."""
    pattern = r"<!-- begin (\w+) -->\n(.*?)\n<!-- end \1 -->"
    return {match[1]: match[2] for match in re.finditer(pattern, text, re.DOTALL)}


def document(sections: dict[str, str]) -> str:
    """The whole document."""
    parts = [f"<!-- begin {n} -->\n{sections[n]}\n<!-- end {n} -->\n" for n in SECTIONS if n in sections]
    return "\n".join([_INTRODUCTION, *parts])


if __name__ == "__main__":
    raise SystemExit(main())
