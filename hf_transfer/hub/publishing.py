"""`publish`: a run's folder becomes a repository on the Hub."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token

from hf_transfer.errors import ArgumentError, PublishError, TransferError
from hf_transfer.hub.access import (
    Target,
    check_target,
    look_again,
    unchecked_target,
    unforeseen,
    warn_of_visibility,
)
from hf_transfer.hub.scan import scan
from hf_transfer.hub.staging import Contents, Staged, is_ours, refuse_probe, stage
from hf_transfer.hub.upload import Commit, Upload, is_there, make_repository, published_card, send, set_tag
from hf_transfer.hub.verification import Verification, verify
from hf_transfer.run_files import SAMPLES, SAMPLES_INDEX

_PULL_REQUEST = re.compile(r"refs/pr/(\d+)")


@dataclass(frozen=True)
class Publication:
    """What was published, or, after a dry run, what would be.

    Attributes:
        repo_id: "owner/name".
        private: Whether the repository is private.
        files: What was uploaded.
        revision: Hash of the commit; None after a dry run.
        url: Address of the commit or pull request; None after a dry run.
        pull_request: Number of the pull request, if there is one.
        verification: None if it was not asked for.
        tag: Set on the commit, and pinned by the card's examples; None for a pull request, whose commit is not what
            will be on the main branch.
    """

    repo_id: str
    private: bool
    files: tuple[str, ...]
    revision: str | None = None
    url: str | None = None
    pull_request: int | None = None
    verification: Verification | None = None
    tag: str | None = None


def publish(
    folder: str | Path,
    repo_id: str,
    private: bool = True,
    create_pr: bool | None = None,
    dry_run: bool = False,
    verify: bool = True,
    *,
    license: str | None = None,
    limitations: str | None = None,
    include_examples: bool = False,
    include_checkpoint: bool = False,
    widget_images: Sequence[str | Path] = (),
    benchmark_task: str | None = None,
    commit_message: str = "Publish model and card",
    branch: str = "main",
) -> Publication:
    """Publish a finished run on the Hub, in one commit, and load it back from there.

    The examples of the card pin a tag that is named by a hash of the content and set on the commit. Nothing is
    uploaded twice: if the main branch, or an open pull request of the same user, holds the content already, only what
    is missing, such as the tag, is added.

    The login comes from `hf auth login` or `HF_TOKEN`. There is no argument for a token, which would end up in a
    command's history or a file. The folder is not changed. What users wrote between the marks of the repository's
    card, and into its metadata, is kept.

    Args:
        folder: `output_dir` of a run, or another folder with a model and a card.
        repo_id: "owner/name", or "name" for the logged-in user's.
        private: Make a private repository, and refuse an existing public one. An existing private one stays private.
        create_pr: Open a pull request. None opens one if the repository holds something already.
        dry_run: Check and stage everything, upload nothing. Without a login, what the Hub holds is not looked at.
        verify: Load the published model in a fresh process without hf_transfer, and compare logits: with the folder's
            model on made images, and with the trainer's own on the evaluation images that the run keeps, if any.
        license: The Hub's identifier of the licence; None keeps the card's, else takes the base model's.
        limitations: Markdown for the card's section of that name.
        include_examples: Also publish what shows images of the data or their names: the figure of the worst mistakes,
            the predictions and the report.
        include_checkpoint: Also publish the last checkpoint, from which others can resume: optimizer, schedule and
            random numbers as safetensors and JSON, without any pickle, in the folder "checkpoint".
        widget_images: Image files that everybody may see, as examples for the widget of the model page; their names
            are the titles.
        benchmark_task: Where the data set is a benchmark of the Hub, the task of its `eval.yaml` that the accuracy is
            reported for, in `.eval_results/`; results of others there are not touched.
        commit_message: Title of the commit.
        branch: Where to commit; "refs/pr/N" for an open pull request.

    Raises:
        ArgumentError: An argument or the card is not valid.
        OutputError: The files hold something private; the message names file and line.
        PublishError: The Hub refused or could not be reached, or the published model differs. The folder is whole, and
            the message has the command to try again.
    """
    # The command to try again knows no branch: what went to a pull request must not go to main then.
    folder, asked_pr = Path(folder), create_pr if branch == "main" else True
    refuse_probe(folder)
    contents = Contents(
        license=license,
        limitations=limitations,
        include_examples=include_examples,
        include_checkpoint=include_checkpoint,
        widget_images=tuple(map(str, widget_images)),
        benchmark_task=benchmark_task,
    )
    api, sending = HfApi(), False
    try:
        target = unchecked_target(repo_id, private) if dry_run and get_token() is None else None
        target = target or check_target(repo_id, private, api)
        with tempfile.TemporaryDirectory(prefix="hf_transfer_publish_") as temporary:
            card = published_card(api, target, branch)
            staged = stage(folder, Path(temporary), target.repo_id, contents, api, card)
            stale = tuple(path for path in target.files if is_ours(path) and path not in staged.files)
            upload = Upload(staged.folder, staged.files, commit_message, stale=stale)
            create_pr, tag = _settle_pull_request(api, target, staged, upload, branch, create_pr)
            scan(staged.folder, staged.files, target.repo_id)
            if dry_run:
                return Publication(target.repo_id, target.private, staged.files, tag=tag)
            if not target.exists:
                target = _made(api, target, private)
            warn_of_visibility(target, private)
            sending = True
            commit = send(api, target.repo_id, upload, branch, create_pr, target.user)
            if tag is not None:
                set_tag(api, target.repo_id, upload, tag, commit.revision)
            samples = folder / SAMPLES if (folder / SAMPLES / SAMPLES_INDEX).is_file() else None
            found = _verified(target, commit.revision, staged.folder, api.endpoint, samples) if verify else None
    except Exception as error:
        if not (sending or isinstance(error, PublishError)):
            raise
        command = retry_command(folder, repo_id, private, asked_pr, contents, dry_run, verify)
        advice = (
            f"The files in {folder} are whole; to try again: {command}" if folder.is_dir() else "Nothing was sent."
        )
        raise _advised(error, repo_id, advice) from error
    return _publication(target, staged, commit, api.endpoint, found, tag)


def _publication(
    target: Target, staged: Staged, commit: Commit, endpoint: str, found: Verification | None, tag: str | None
) -> Publication:
    pull = _PULL_REQUEST.fullmatch(commit.branch)
    place = f"discussions/{pull[1]}" if pull else f"tree/{commit.revision}"
    return Publication(
        target.repo_id,
        target.private,
        staged.files,
        commit.revision,
        f"{endpoint}/{target.repo_id}/{place}",
        int(pull[1]) if pull else None,
        found,
        tag,
    )


def _advised(error: Exception, repo_id: str, advice: str) -> PublishError | ArgumentError:
    """The error with the command to try again."""
    if isinstance(error, ArgumentError):  # the Hub refused the card
        return ArgumentError(f"{error} {advice}")
    known = error if isinstance(error, PublishError) else unforeseen(error, repo_id)
    return PublishError(f"{known} {advice}")


def _made(api: HfApi, target: Target, private: bool) -> Target:
    make_repository(api, target.repo_id, private)
    made = look_again(api, target, private)
    if made.files:
        raise PublishError(f"{made.repo_id} was made and filled by somebody else at the same time; nothing was sent.")
    return made


def _settle_pull_request(
    api: HfApi, target: Target, staged: Staged, upload: Upload, branch: str, create_pr: bool | None
) -> tuple[bool, str | None]:
    """Whether to open a pull request, and the tag that the card, which is written here, pins."""
    direct = branch == "main" and not create_pr
    tag = staged.pin(direct)
    # What is there already, as after a failure behind the commit, needs no pull request.
    if create_pr is None and direct and target.files and not is_there(api, target.repo_id, upload):
        return True, staged.pin(False)
    return bool(create_pr), tag


def retry_command(
    folder: Path,
    repo_id: str,
    private: bool = True,
    create_pr: bool | None = None,
    contents: Contents | None = None,
    dry_run: bool = False,
    verify: bool = True,
) -> str:
    """The command that publishes a folder."""
    words = ["hf-transfer", "publish", str(folder), repo_id]
    words += [] if private else ["--public"]
    words += ["--dry_run"] if dry_run else []
    words += [] if verify else ["--no_verify"]
    words += [] if create_pr is None else ["--create_pr", str(create_pr).lower()]
    return shlex.join(words + (contents.flags() if contents is not None else []))


def _verified(target: Target, revision: str, staged: Path, endpoint: str, samples: Path | None) -> Verification:
    try:
        return verify(target.repo_id, revision, staged, endpoint, samples)
    except TransferError:
        raise
    except OSError as error:
        raise PublishError(
            f"{target.repo_id} was published at revision {revision}, but not verified: no process could be started "
            f"({error})."
        ) from error
