"""What of a run's folder is published: an allow-list, copied into a folder of its own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from hf_transfer.card import CARD_NAME, validate_metadata, write_card
from hf_transfer.errors import OutputError, PublishError
from hf_transfer.run_record import RunRecord

ALLOWED = (
    "config.json",
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    CARD_NAME,
    "transfer_plan.json",
    "run.json",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "test_results.json",
    "figures/accuracy_by_depth.png",
    "figures/confusion_matrix.png",
    "figures/layer_plan.png",
    "figures/learning_curves.png",
)
"""Patterns of the files that are published; pickles, optimizer states, caches and whatever else lies in the folder are
not."""
EXAMPLES = ("figures/worst_mistakes.png", "predictions*.parquet", "report.html")
"""What shows images of the data or their file names: published only if asked for."""

_IMAGE = re.compile(r"!\[[^\]]*\]\(<?([^)\s>]+)|<img[^>]*\bsrc=[\"']([^\"']+)", re.IGNORECASE)


def is_allowed(path: str, include_examples: bool = False) -> bool:
    """Whether a file, given relative to the folder with slashes, is one of those that are published."""
    patterns = (*ALLOWED, *EXAMPLES) if include_examples else ALLOWED
    # fnmatch's star would match a slash.
    depth = path.count("/")
    return any(pattern.count("/") == depth and fnmatchcase(path, pattern) for pattern in patterns)


def allowed_files(folder: Path, include_examples: bool = False) -> list[str]:
    """The files of a folder that are published, relative to it.

    Raises:
        PublishError: There is no model in the folder.
    """
    if not folder.is_dir():
        raise PublishError(f"There is no folder {folder} to publish. Give the --output_dir of a finished run.")
    here = [*folder.glob("*"), *folder.glob("figures/*")]
    # A link could lead to any file of the machine.
    names = sorted(p.relative_to(folder).as_posix() for p in here if p.is_file() and not p.is_symlink())
    found = [name for name in names if is_allowed(name, include_examples)]
    if "config.json" not in found or not any(name.endswith(".safetensors") for name in found):
        raise PublishError(
            f"{folder} holds no model to publish: expected config.json and model.safetensors, found "
            f"{', '.join(names[:8]) or 'no files'}. Give the --output_dir of a finished run."
        )
    return found


def stage(
    folder: Path,
    target: Path,
    repo_id: str,
    *,
    license: str | None = None,
    limitations: str | None = None,
    include_examples: bool = False,
) -> list[str]:
    """Copy what is published into an empty folder, with the card written for the repository.

    Args:
        folder: Of the run; not changed.
        target: An empty folder.
        repo_id: For the card's title and examples.
        license: As in `write_card`.
        limitations: As in `write_card`.
        include_examples: Also publish `EXAMPLES`.

    Returns:
        The files, relative to `target`, sorted.

    Raises:
        PublishError: There is no model or no card, a JSON file is broken, or the card shows an image that is not sent.
        OutputError: A file cannot be copied, or holds something private.
        ArgumentError: The card is not valid.
    """
    files = allowed_files(folder, include_examples)
    try:
        for name in files:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, target / name)
    except OSError as error:
        raise OutputError(f"{folder} cannot be staged for publishing: {error}. Nothing was sent.") from error
    _check_json(target, files)
    if "run.json" in files:
        record = RunRecord.load(target / "run.json").to_dict()
        figures = {PurePosixPath(name).stem: name for name in files if name.startswith("figures/")}
        write_card(target, record, repo_id=repo_id, figures=figures, license=license, limitations=limitations)
    elif CARD_NAME not in files:
        raise PublishError(
            f"{folder} has neither run.json, from which a card is written, nor a README.md. Write a card there first."
        )
    card = (target / CARD_NAME).read_text(encoding="utf-8")
    validate_metadata(card)
    if missing := [name for name in local_images(card) if name not in files]:
        raise PublishError(
            f"The card shows images that would not be published: {', '.join(missing)}. Take them out of {CARD_NAME}, "
            "or link to a place on the web."
        )
    return sorted({*files, CARD_NAME})


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
                raise PublishError(f"{name} is no valid JSON: {error}. Mend it, or save the model again.") from error
