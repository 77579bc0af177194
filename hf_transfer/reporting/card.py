"""The model card: `README.md`, written from a run's record and nothing else.

What the record does not know is left out; nothing is guessed, and no placeholder is ever written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2

from hf_transfer.errors import ArgumentError, OutputError
from hf_transfer.reporting.base_model import initial_weights, origin_is_known
from hf_transfer.reporting.card_license import INHERITED_LICENSE, inherited_license, users_license
from hf_transfer.reporting.card_metadata import make_metadata, merge_metadata, validate_metadata
from hf_transfer.reporting.card_sections import introduction, sections
from hf_transfer.reporting.card_usage import probe_file_note
from hf_transfer.reporting.markdown import escape
from hf_transfer.run_files import CARD_NAME
from hf_transfer.utils.files import write_atomically
from hf_transfer.utils.hub_ids import is_repo_id
from hf_transfer.utils.privacy import check_private

__all__ = ["CARD_NAME", "PublishedFacts", "adopt_edits", "render_card", "validate_metadata", "write_card"]

_USER_START, _USER_END = "<!-- user:start -->", "<!-- user:end -->"
_USER_BLOCK = f"{_USER_START}\n{_USER_END}"
_NO_FIGURES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class PublishedFacts:
    """What a card says about the repository rather than the run.

    Attributes:
        revision: Tag or commit for the examples to pin; None pins none.
        checkpoint_step: Step of the checkpoint in the folder "checkpoint"; None if there is none.
        widget: Examples for the model page: "src" and "example_title".
    """

    revision: str | None = None
    checkpoint_step: int | None = None
    widget: tuple[Mapping[str, str], ...] = ()


_NOTHING_PUBLISHED = PublishedFacts()


def render_card(
    record: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    figures: Mapping[str, str] = _NO_FIGURES,
    license: str | None = None,
    limitations: str | None = None,
    published: PublishedFacts = _NOTHING_PUBLISHED,
) -> str:
    """Write a model card from the content of `run.json`.

    Args:
        record: Result of `RunRecord.to_dict`.
        repo_id: Where the model will be on the Hub, for title and examples; without it the card speaks of a folder.
        figures: Paths of images, relative to the card, by name, such as `{"confusion_matrix":
            "figures/confusion_matrix.png"}`.
        license: The Hub's identifier of the model's licence; None takes the base model's.
        limitations: Markdown, for a section of that name.
        published: What else is in the repository.

    Returns:
        The text of `README.md`; the same record always gives the same text.

    Raises:
        ArgumentError: `repo_id` or `license` has the wrong form, or a figure's path is not relative.
        DataError: An evaluation in the record is not one.
    """
    if repo_id is not None and not is_repo_id(repo_id):
        raise ArgumentError(f"repo_id must be an id on the Hub such as owner/name, found {repo_id!r}.")
    title = _title(record) if repo_id is None else repo_id.rpartition("/")[2]
    metadata = make_metadata(record, title, license, published.widget).strip()
    card = _template().render(
        metadata=metadata,
        title=escape(title),
        introduction=introduction(record),
        note=probe_file_note(record),
        user_block=_USER_BLOCK,
        inherited_license=inherited_license(record) if license is None else None,
        sections=sections(
            record, figures, (limitations or "").strip(), repo_id, published.revision, published.checkpoint_step
        ),
    )
    return f"{card.strip()}\n"


def write_card(
    folder: str | Path,
    record: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    figures: Mapping[str, str] = _NO_FIGURES,
    license: str | None = None,
    limitations: str | None = None,
    published: PublishedFacts = _NOTHING_PUBLISHED,
) -> Path:
    """Write `README.md` into a folder, whole or not at all.

    The text between `<!-- user:start -->` and `<!-- user:end -->` in an existing card is kept, and so are the keys of
    its metadata that do not describe the run; see `merge_metadata`.

    Args:
        folder: An existing folder.
        record: Content of `run.json`.
        repo_id: Where the model will be on the Hub; None for a folder.
        figures: Paths of images by name, as in `render_card`; those that are not in the folder are left out.
        license: The Hub's identifier of the model's licence; None keeps the user's, else takes the base model's.
        limitations: Markdown, for a section of that name.
        published: What else is in the repository.

    Returns:
        The path of the card.

    Raises:
        ArgumentError: An argument is invalid, or the Hub would refuse the metadata.
        OutputError: The record holds something private, the card cannot be written, or the user's text in the existing
            card has no end.
    """
    check_private(record)
    path = Path(folder) / CARD_NAME
    existing = _existing(path)
    users_text = _users_text(path, existing)
    present = {name: figure for name, figure in figures.items() if (path.parent / figure).is_file()}
    card = render_card(
        record,
        repo_id=repo_id,
        figures=present,
        license=license,
        limitations=limitations,
        published=published,
    )
    if existing:
        card = _merged(card, existing, keep_license=license is None)
    validate_metadata(card)
    write_atomically(path, card.replace(_USER_BLOCK, f"{_USER_START}{users_text}{_USER_END}", 1))
    return path


def adopt_edits(folder: str | Path, published: str) -> None:
    """Copy what a user wrote into the published card into the folder's card, so that it is kept when that is written.

    The text between the marks is copied if the folder's card has none; metadata are merged by `merge_metadata`. A
    published card that another program wrote is left alone.

    Args:
        folder: The folder whose `README.md` is changed or made.
        published: The whole published card.
    """
    path = Path(folder) / CARD_NAME
    if _USER_START not in published or _USER_END not in published:
        return
    existing = _existing(path) or published
    own, theirs = _users_text(path, existing), _users_text(path, published)
    if not own.strip() and theirs.strip() and _USER_START in existing:
        mine = f"{_USER_START}{own}{_USER_END}"
        existing = existing.replace(mine, f"{_USER_START}{theirs}{_USER_END}", 1)
    if existing.startswith("---\n"):
        existing = _merged(existing, published, keep_license=True)
    write_atomically(path, existing)


def _merged(card: str, existing: str, keep_license: bool) -> str:
    """A card with what `merge_metadata` takes over from another one, and the mark of a licence that is inherited."""
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    merged = merge_metadata(head + "\n", existing, keep_license)
    mark = INHERITED_LICENSE.search(body)
    if keep_license and users_license(existing) is not None:
        mark = None
    elif mark is None and users_license(card) is None:
        mark = INHERITED_LICENSE.search(existing)
    body = INHERITED_LICENSE.sub("", body)
    if mark is not None:
        body = body.replace(f"{_USER_END}\n", f"{_USER_END}\n{mark.group()}", 1)
    return f"---\n{merged.strip()}\n---\n{body}"


def _template() -> jinja2.Template:
    # By file: the retired downloader `hf-transfer` can hide this package's __init__, which PackageLoader needs.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # HTML's escapes do not protect Markdown; `markdown` has escaped every text
    )
    return environment.get_template("card.md.j2")


def _title(record: Mapping[str, Any]) -> str:
    base = str(record["base_model"]["id"] if origin_is_known(record) else record["base_model"]["architecture"])
    base = base.rpartition("/")[2] if record["base_model"]["on_hub"] else base
    made = "fine-tuned" if origin_is_known(record) else "trained"
    made = "trained from scratch" if initial_weights(record) == "random" else made
    name = record["data"].get("name")
    return " ".join(f"{base} {made} on {name}".split()) if name else f"{base} {made}"


def _existing(path: Path) -> str:
    """The card that will be replaced; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise OutputError(f"The existing card {path} cannot be read: {error}. Move it away.") from error


def _users_text(path: Path, card: str) -> str:
    """What an existing card holds between the two marks, with the line breaks around it."""
    _, start, rest = card.partition(_USER_START)
    text, end, _ = rest.partition(_USER_END)
    if bool(start) != bool(end):
        raise OutputError(
            f"The existing card {path} has {_USER_START} without {_USER_END} behind it, so your text would be "
            "lost. Add the missing line, or move the card away."
        )
    return text if start else "\n"
