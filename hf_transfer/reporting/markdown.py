"""Markdown in which every text from outside is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

import yaml

from hf_transfer.errors import ArgumentError
from hf_transfer.reporting.facts import Code, Facts

# Marks of the direction of reading could show a label as something else than it is.
_DIRECTION_MARKS = re.compile("[\u202a-\u202e\u2066-\u2069]")
_NO_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*\[\]|~$#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def escape(text: Any) -> str:
    """Text as it stands, on one line: no character of it works as Markdown or HTML."""
    flat = _NO_CHARACTERS.sub("", _DIRECTION_MARKS.sub("", " ".join(str(text).split())))
    return _MARKDOWN.sub(lambda found: f"\\{found.group()}", flat).translate(_HTML)


def code(text: Any) -> str:
    """Inline code, or escaped text where that would need more than one backtick or a table's bar."""
    flat = " ".join(str(text).split())
    return f"`{flat}`" if re.fullmatch(r"[\w./:+=,()\[\] -]+", flat) else escape(flat)


class Markdown(str):
    """Text that is Markdown already, and not escaped again."""

    __slots__ = ()


def inline(text: str | Sequence[str]) -> str:
    """A text, or its parts, on one line; names that are `Code` as code."""
    if isinstance(text, Markdown):
        return text
    if isinstance(text, Code):
        return code(text)
    if isinstance(text, str):
        return escape(text)
    # Spaces at the ends of parts would be lost.
    return "".join(code(part) if isinstance(part, Code) else _escape_between(part) for part in text)


def _escape_between(text: str) -> str:
    stripped = text.strip(" ")
    before, _, after = text.partition(stripped) if stripped else ("", "", text)
    return f"{before}{escape(stripped)}{after}"


def table(headers: Sequence[str], rows: Iterable[Sequence[str | Sequence[str]]], text_columns: int = 1) -> str:
    """A Markdown table.

    Args:
        headers: One for each column.
        rows: Cells, each a text or the parts of one.
        text_columns: Number of columns from the left that are aligned left; the others are aligned right.
    """
    rule = ["---" if column < text_columns else "---:" for column in range(len(headers))]
    lines = [[inline(header) for header in headers], rule, *([inline(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts_table(header: str, facts: Facts) -> str | None:
    """A table of titles and values; None without any."""
    return table((header, "Value"), facts, text_columns=2) if facts else None


def fenced(text: str, language: str) -> str:
    """A block of code whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def link(text: str, address: str) -> str:
    """A link to an address that is known to be harmless."""
    return f"[{escape(text)}]({address})"


def images(figures: Mapping[str, str]) -> str | None:
    """Figures with their names, one in a paragraph; None without any.

    Args:
        figures: Paths relative to the card, by name.

    Raises:
        ArgumentError: A path is not relative.
    """
    shown = [f"![{escape(_words(name))}]({quote(_relative(path))})" for name, path in figures.items()]
    return "\n\n".join(shown) or None


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _relative(path: str) -> str:
    absolute = PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()
    if absolute or ".." in PurePosixPath(path).parts or "\\" in path:
        raise ArgumentError(f"A figure's path must be relative to the card, with slashes, found {path!r}.")
    return path


def lines(*parts: str | None) -> str | None:
    """Lines of one paragraph without those that are None or empty; None if none is left."""
    return "\n".join(part for part in parts if part) or None


def paragraphs(*parts: str | None) -> str | None:
    """Paragraphs without those that are None or empty; None if none is left."""
    return "\n\n".join(part for part in parts if part) or None


_METADATA = re.compile(r"\A---\n(.*?)\n---(?:\n|\Z)", re.DOTALL)


def metadata_of(card_text: str) -> dict[str, Any]:
    """The metadata at the beginning of a card.

    Raises:
        ArgumentError: They are missing, or not keys and values.
    """
    match = _METADATA.match(card_text)
    if match is None:
        raise ArgumentError("A model card must begin with its metadata between two lines of three dashes.")
    try:
        data = yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        raise ArgumentError(f"The card's metadata are not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ArgumentError(f"The card's metadata must be keys and values, found {type(data).__name__}.")
    return data
