"""The model card: `README.md`, written from a run's record and nothing else.

What the record does not know is left out; nothing is guessed, and no placeholder is ever written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import jinja2

from hf_transfer.errors import ArgumentError, OutputError
from hf_transfer.evaluation import EvaluationReport
from hf_transfer.reporting import card_tables as tables
from hf_transfer.reporting import card_training
from hf_transfer.reporting.card_metadata import (
    INHERITED_LICENSE,
    hub_base,
    hub_dataset,
    inherited_license,
    initial_weights,
    make_metadata,
    merge_metadata,
    origin_is_known,
    users_license,
    validate_metadata,
)
from hf_transfer.run_files import CARD_NAME
from hf_transfer.utils.files import write_atomically
from hf_transfer.utils.hub_ids import is_repo_id
from hf_transfer.utils.privacy import check_private

__all__ = ["CARD_NAME", "PublishedFacts", "adopt_edits", "render_card", "validate_metadata", "write_card"]

_USER_START, _USER_END = "<!-- user:start -->", "<!-- user:end -->"
_USER_BLOCK = f"{_USER_START}\n{_USER_END}"
_HUB = "https://huggingface.co/"
_NO_FIGURES: Mapping[str, str] = MappingProxyType({})
# Figures of the training and of the diagnosis; all others belong to the evaluation.
_TRAINING_FIGURES = ("layer_plan", "learning_rate_range", "learning_curves")
_DIAGNOSIS_FIGURES = ("accuracy_by_depth",)
_OTHER_FIGURES = (*_TRAINING_FIGURES, *_DIAGNOSIS_FIGURES)


@dataclass(frozen=True, kw_only=True)
class PublishedFacts:
    """What a card says of the repository, and not of the run.

    Attributes:
        revision: Tag or commit for the examples to pin; None pins none.
        checkpoint_step: Of the checkpoint in the folder "checkpoint"; None if there is none.
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
        record: As from `RunRecord.to_dict`.
        repo_id: Where the model will be on the Hub, for title and examples; without it the card speaks of a folder.
        figures: Paths of images, relative to the card, by name, such as `{"confusion_matrix":
            "figures/confusion_matrix.png"}`.
        license: The Hub's identifier of the model's licence; None takes the base model's.
        limitations: Markdown, for a section of that name.
        published: What is beside the model in the repository.

    Returns:
        The text of `README.md`; the same record always gives the same text.

    Raises:
        ArgumentError: `repo_id` or `license` has the wrong form, or a figure's path is not relative.
        DataError: An evaluation in the record is not one.
    """
    if repo_id is not None and not is_repo_id(repo_id):
        raise ArgumentError(f"repo_id must be an id on the Hub such as owner/name, found {repo_id!r}.")
    title = _title(record) if repo_id is None else repo_id.rpartition("/")[2]
    body = _template().render(
        record=record,
        title=title,
        repo_id=repo_id,
        revision=published.revision,
        source=repo_id or "path/to/this/folder",
        mode=tables.image_mode(record["preprocessing"]),
        timm_source=_timm_source(repo_id, published.revision),
        init=initial_weights(record),
        base_name=_base_name(record),
        lineage=None if record["base_model"]["on_hub"] else hub_base(record),
        data_name=_data_name(record),
        plan=record["training"]["plan"],
        labels=record["data"]["label_names"],
        reports=_reports(record),
        evaluation_figures=_images(
            {k: v for k, v in figures.items() if k not in (*_TRAINING_FIGURES, *_DIAGNOSIS_FIGURES)}
        ),
        training_figures=_images({k: figures[k] for k in _TRAINING_FIGURES if k in figures}),
        diagnosis=diagnosis_of(record),
        diagnosis_figures=_images({k: figures[k] for k in _DIAGNOSIS_FIGURES if k in figures}),
        limitations=(limitations or "").strip(),
        checkpoint_step=published.checkpoint_step,
        inherited_license=inherited_license(record) if license is None else None,
        user_block=_USER_BLOCK,
        t=tables,
        training=card_training,
    )
    # Sections that are left out leave their blank lines behind.
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return f"---\n{make_metadata(record, title, license, published.widget).strip()}\n---\n\n{body}\n"


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

    What stands in an existing card between `<!-- user:start -->` and `<!-- user:end -->` is kept, and so are the keys
    of its metadata that do not tell of the run; see `merge_metadata`.

    Args:
        folder: An existing folder.
        record: As in `render_card`, like all other arguments.
        repo_id: See there.
        figures: See there; those whose file is not in the folder are left out.
        license: See there.
        limitations: See there.
        published: See there.

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
    """Take what a user wrote into the published card over into the folder's, so that writing it again keeps that.

    Text between the marks is taken where the folder's card has none; metadata as `merge_metadata` does. A published
    card that was not written here is left alone.

    Args:
        folder: Its `README.md` is changed, or made.
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
        autoescape=False,  # HTML's escapes do not protect Markdown; every text goes through escape() or code()
    )
    environment.filters |= {"md": tables.escape, "code": tables.code, "fence": _fenced}
    return environment.get_template("card.md.j2")


def _title(record: Mapping[str, Any]) -> str:
    base = str(record["base_model"]["id"] if origin_is_known(record) else record["base_model"]["architecture"])
    base = base.rpartition("/")[2] if record["base_model"]["on_hub"] else base
    made = "fine-tuned" if origin_is_known(record) else "trained"
    made = "trained from scratch" if initial_weights(record) == "random" else made
    name = record["data"].get("name")
    return " ".join(f"{base} {made} on {name}".split()) if name else f"{base} {made}"


def diagnosis_of(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a diagnosis said of the recipe: "scenario", "recipe", "reasons"; None for a run that was told its plan."""
    found = record.get("diagnosis")
    return found if isinstance(found, Mapping) and found.get("reasons") else None


def _timm_source(repo_id: str | None, revision: str | None) -> str:
    if repo_id is None:
        return "local-dir:path/to/this/folder"
    return f"hf-hub:{repo_id}@{revision}" if revision else f"hf-hub:{repo_id}"


def _base_name(record: Mapping[str, Any]) -> str:
    base = record["base_model"]
    if not origin_is_known(record):
        return ""
    name = tables.escape(base["id"])
    return f"[{name}]({_HUB}{base['id']})" if base["on_hub"] and is_repo_id(base["id"]) else name


def _data_name(record: Mapping[str, Any]) -> str:
    name, hub_id = tables.escape(record["data"].get("name") or ""), hub_dataset(record)
    return f"[{name or tables.escape(hub_id)}]({_HUB}datasets/{hub_id})" if hub_id else name


def _reports(record: Mapping[str, Any]) -> list[EvaluationReport]:
    """Evaluations, that of the evaluation split first."""
    first = record["data"]["evaluation_split"]
    found = sorted(record["evaluation"].items(), key=lambda item: item[0] != first)
    return [EvaluationReport.from_dict(report) for _, report in found]


def _images(figures: Mapping[str, str]) -> list[str]:
    return [f"![{tables.escape(_words(name))}]({quote(_relative(path))})" for name, path in figures.items()]


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _relative(path: str) -> str:
    absolute = PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()
    if absolute or ".." in PurePosixPath(path).parts or "\\" in path:
        raise ArgumentError(f"A figure's path must be relative to the card, with slashes, found {path!r}.")
    return path


def _fenced(text: str, language: str) -> str:
    """A block of code whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


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
            f"The existing card {path} has {_USER_START} without {_USER_END} behind it, so that your text would be "
            "lost. Add the missing line, or move the card away."
        )
    return text if start else "\n"
