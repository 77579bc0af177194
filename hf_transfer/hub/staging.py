"""What of a run's folder is published: an allow-list, copied into a folder of its own."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from huggingface_hub import HfApi

from hf_transfer.checkpoints.folders import checkpoint_steps, complete_checkpoints
from hf_transfer.checkpoints.portable import STATE_FILES, pack
from hf_transfer.errors import OutputError, PublishError
from hf_transfer.hub.extras import stage_widget_images, write_eval_results
from hf_transfer.reporting.card import PublishedFacts, adopt_edits, validate_metadata, write_card
from hf_transfer.reporting.record import RunRecord
from hf_transfer.run_files import (
    CARD_NAME,
    DIAGNOSIS_FILE,
    EVAL_RESULTS,
    RECORD,
    TRAINER_STATE,
    WIDGET_IMAGES,
    is_probe,
    matches,
    patterns,
    without_stale_weights,
)

ALLOWED = patterns(published=("always",))
"""Patterns of the files that are published; pickles, optimizer states, caches and whatever else lies in the folder are
not."""
EXAMPLES = patterns(published=("examples",))
"""What shows images of the data or their file names: published only if asked for."""
_MADE = (f"{WIDGET_IMAGES}?.png", f"{EVAL_RESULTS}*.yaml")

PROBE_IS_NOT_PUBLISHED = (
    "A result that is a probe file is not published: pipelines and the Hub's own page would run the checkpoint in the "
    "same folder, which is another classifier than the one that was evaluated."
)
CHECKPOINT = "checkpoint"
"""Folder in the repository for the state that a run can be resumed from."""
_CHECKPOINT_FILES = (
    *patterns(published=("checkpoint",)),
    *(f"{Path(name).stem}.{end}" for name in STATE_FILES for end in ("json", "safetensors")),
)

_IMAGE = re.compile(r"!\[[^\]]*\]\(<?([^)\s>]+)|<img[^>]*\bsrc=[\"']([^\"']+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What else of a run is published with model, card and record.

    Attributes:
        license: The licence that the user gave, as in `write_card`.
        limitations: Markdown for the section of that name.
        include_examples: Also `EXAMPLES`.
        include_checkpoint: Also the last checkpoint, as safetensors and JSON.
        widget_images: Image files to be examples on the model page.
        benchmark_task: Also results for the leaderboard of the data set, under this task of it.
    """

    license: str | None = None
    limitations: str | None = None
    include_examples: bool = False
    include_checkpoint: bool = False
    widget_images: tuple[str, ...] = ()
    benchmark_task: str | None = None

    def flags(self) -> list[str]:
        """The flags of `hf-transfer publish` that say the same."""
        words: list[str] = []
        for name, value in vars(self).items():
            if value is True:
                words.append(f"--{name}")
            elif isinstance(value, tuple):
                words += [f"--{name}", *value] if value else []
            elif value:
                words += [f"--{name}", str(value)]
        return words


@dataclass(frozen=True)
class Staged:
    """A folder that is ready to be sent.

    Attributes:
        folder: Holds the files.
        files: Relative to the folder, sorted.
        tag: A name for this content, made from a hash of all of it; None where the card was not made here.
        write: Writes the card, with a revision for its examples to pin.
    """

    folder: Path
    files: tuple[str, ...]
    tag: str | None
    write: Callable[[str | None], object]

    def pin(self, pinned: bool) -> str | None:
        """Write the card so that its examples pin `tag`, or nothing; returns what is pinned.

        The hash of a commit cannot stand in the commit itself. The name of a tag can, if it is known before: the tag
        is set on the commit afterwards, and the same content always has the same tag.
        """
        if self.tag is None:
            return None
        self.write(self.tag if pinned else None)
        return self.tag if pinned else None


def is_allowed(path: str, include_examples: bool = False) -> bool:
    """Whether a file, given relative to the folder with slashes, is one of those that are published."""
    return matches(path, (*ALLOWED, *EXAMPLES) if include_examples else ALLOWED)


def is_ours(path: str) -> bool:
    """Whether a file in a repository is one that some publication could have put there."""
    folder, _, name = path.rpartition("/")
    if folder == CHECKPOINT:
        return matches(name, (*ALLOWED, *_CHECKPOINT_FILES))
    return matches(path, (*ALLOWED, *EXAMPLES, *_MADE))


def refuse_probe(folder: Path) -> None:
    """Refuse a folder whose result is a probe file.

    Raises:
        PublishError: It is one.
    """
    if is_probe(folder):
        raise PublishError(f"{PROBE_IS_NOT_PUBLISHED} Train without --allow_probe_file, or share the folder itself.")


def allowed_files(folder: Path, include_examples: bool = False) -> list[str]:
    """The files of a folder that are published, relative to it.

    Raises:
        PublishError: There is no model in the folder, or a shard of it is missing.
    """
    if not folder.is_dir():
        raise PublishError(f"There is no folder {folder} to publish. Give the --output_dir of a finished run.")
    refuse_probe(folder)
    here = [*folder.glob("*"), *folder.glob("figures/*")]
    # A link could lead to any file of the machine.
    names = sorted(p.relative_to(folder).as_posix() for p in here if p.is_file() and not p.is_symlink())
    try:
        found = without_stale_weights(folder, (name for name in names if is_allowed(name, include_examples)))
    except ValueError as error:
        raise PublishError(f"The model in {folder} is not whole: {error}. Save it again.") from error
    if "config.json" not in found or not any(name.endswith(".safetensors") for name in found):
        raise PublishError(
            f"{folder} holds no model to publish: expected config.json and model.safetensors, found "
            f"{', '.join(names[:8]) or 'no files'}. Give the --output_dir of a finished run."
        )
    return found


def stage(
    folder: Path, target: Path, repo_id: str, contents: Contents, api: HfApi, published_card: str = ""
) -> Staged:
    """Copy what is published into an empty folder, with a card for the repository that pins no revision yet.

    Args:
        folder: The run's folder; not changed.
        target: An empty folder.
        repo_id: For the card's title and examples.
        contents: What is published.
        api: The client, for what must be asked.
        published_card: The card that the repository has; what a user wrote into it is kept.

    Raises:
        PublishError: There is no model, no card or no checkpoint, a JSON file is broken, or the card shows an image
            that is not sent.
        OutputError: A file cannot be copied, or holds something private.
        ArgumentError: The card is not valid.
    """
    files = allowed_files(folder, contents.include_examples)
    has_record = RECORD in files
    if not has_record and (contents.widget_images or contents.benchmark_task):
        raise PublishError(f"{folder} has no run.json, without which widget_images and benchmark_task cannot be used.")
    try:
        _copy(folder, target, files)
        _check_json(target, files)
        extras, card = _stage_extras(folder, target, repo_id, contents, api)
    except OSError as error:
        raise OutputError(f"{folder} cannot be staged for publishing: {error}. Nothing was sent.") from error
    files += extras
    files, tag = sorted({*files, CARD_NAME}), None
    write = partial(_write_card, target, files, repo_id, contents, card)
    if has_record:
        adopt_edits(target, published_card)
        write(None)
        tag = _content_tag(target, files)
    elif not (target / CARD_NAME).is_file():
        raise PublishError(
            f"{folder} has neither run.json, from which a card is written, nor a README.md. Write a card there first."
        )
    _check_card(target / CARD_NAME, files)
    return Staged(target, tuple(files), tag, write)


def _stage_extras(
    folder: Path, target: Path, repo_id: str, contents: Contents, api: HfApi
) -> tuple[list[str], PublishedFacts]:
    """Write what is published only if asked for; returns the files, and what the card says of them."""
    files: list[str] = []
    card = PublishedFacts()
    if contents.include_checkpoint:
        step, names = stage_checkpoint(folder, target / CHECKPOINT)
        files += [f"{CHECKPOINT}/{name}" for name in names]
        card = replace(card, checkpoint_step=step)
    if contents.widget_images:
        widget = stage_widget_images(contents.widget_images, target, repo_id)
        files += [example["src"].partition("/resolve/main/")[2] for example in widget]
        card = replace(card, widget=tuple(widget))
    if contents.benchmark_task:
        record = RunRecord.load(target / RECORD).to_dict()
        files.append(write_eval_results(record, contents.benchmark_task, target, api))
    return files, card


def stage_checkpoint(folder: Path, target: Path) -> tuple[int, list[str]]:
    """Copy the last complete checkpoint of a run, with its state as safetensors and JSON.

    Args:
        folder: The run's folder.
        target: Is made.

    Returns:
        The checkpoint's step, and the names of the files.

    Raises:
        PublishError: There is no checkpoint that can be resumed.
    """
    last = next((path for path in complete_checkpoints(folder) if _is_of_run(path, folder / RECORD)), None)
    if last is None:
        raise PublishError(
            f"{folder} holds no complete checkpoint of this run to include. Publish without include_checkpoint, or "
            "train with --save_strategy epoch."
        )
    step = next(number for number, path in checkpoint_steps(folder).items() if path == last)
    names = [name for name in allowed_files(last) if name != CARD_NAME and "/" not in name]
    others = (name for name in patterns(published=("checkpoint",)) if name != TRAINER_STATE)  # `pack` writes that
    names += [name for name in others if (last / name).is_file()]
    target.mkdir()
    _copy(last, target, names)
    if DIAGNOSIS_FILE not in names and (folder / DIAGNOSIS_FILE).is_file():  # a checkpoint itself has none
        _copy(folder, target, [DIAGNOSIS_FILE])
        names.append(DIAGNOSIS_FILE)
    return step, [*names, *pack(last, target)]


def _is_of_run(checkpoint: Path, record: Path) -> bool:
    """Whether a checkpoint belongs to the run of a record, which then holds what was logged before it."""
    if not record.is_file():
        return True
    try:
        state = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
    except ValueError:  # cut short: nothing could be resumed from it
        return False
    run = RunRecord.load(record)
    losses, of_run = _losses(state.get("log_history", [])), _losses(run.log_history)
    return state.get("global_step", 0) <= run.training.get("steps", math.inf) and losses.items() <= of_run.items()


def _losses(log: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Finite logged losses by step; a record has no number for the others."""
    logged = ((entry.get("step"), entry.get("loss")) for entry in log)
    return {step: loss for step, loss in logged if step is not None and loss is not None and math.isfinite(loss)}


def _write_card(
    folder: Path, files: Sequence[str], repo_id: str, contents: Contents, card: PublishedFacts, revision: str | None
) -> None:
    write_card(
        folder,
        RunRecord.load(folder / RECORD).to_dict(),
        repo_id=repo_id,
        figures={PurePosixPath(name).stem: name for name in files if name.startswith("figures/")},
        license=contents.license,
        limitations=contents.limitations,
        published=replace(card, revision=revision),
    )


def _content_tag(folder: Path, files: Iterable[str]) -> str:
    """A name for the content of files: the same for the same content, so that it is set once and never moved."""
    content = hashlib.sha256()
    for name in sorted(files):
        with (folder / name).open("rb") as file:
            content.update(f"{name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"run-{content.hexdigest()[:12]}"


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _check_card(path: Path, files: Iterable[str]) -> None:
    card = path.read_text(encoding="utf-8")
    validate_metadata(card)
    if missing := [name for name in local_images(card) if name not in files]:
        raise PublishError(
            f"The card shows images that would not be published: {', '.join(missing)}. Take them out of {CARD_NAME}, "
            "or link to a place on the web."
        )


def local_images(card: str) -> list[str]:
    """The images that a card shows from its own repository."""
    shown = [markdown or html for markdown, html in _IMAGE.findall(card)]
    return [unquote(name).removeprefix("./") for name in shown if not re.match(r"[a-z]+:", name)]


def _check_json(folder: Path, files: Iterable[str]) -> None:
    for name in files:
        if name.endswith(".json"):
            try:
                json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise PublishError(
                    f"{name} is not valid JSON: {error}. Repair it, or save the model again."
                ) from error
