"""One commit that holds everything, made once and only once."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import ModelInfo

from hf_transfer.errors import ArgumentError, PublishError
from hf_transfer.hub.access import Target, explained
from hf_transfer.hub.retrying import ATTEMPTS, TRANSIENT, UploadError, may_pass, retried, status_of, wait
from hf_transfer.run_files import CARD_NAME

_CONFLICT = 412
_EXISTS = 409


@dataclass(frozen=True)
class Commit:
    """A commit on the Hub.

    Attributes:
        revision: Its hash.
        branch: The branch or "refs/pr/N" that it is the head of.
    """

    revision: str
    branch: str


@dataclass(frozen=True)
class Upload:
    """Files to be committed together.

    Attributes:
        folder: Holds the files.
        files: Paths in the folder.
        message: Title of the commit.
        stale: Paths in the repository that an earlier publication left behind; the same commit removes them.
    """

    folder: Path
    files: Sequence[str]
    message: str
    stale: Sequence[str] = ()

    def hashes(self) -> dict[str, tuple[str, str]]:
        """By path: the hashes by which git, and by which large-file storage, know the content."""
        return {name: _hashes((self.folder / name).read_bytes()) for name in self.files}


def send(
    api: HfApi, repo_id: str, upload: Upload, branch: str = "main", create_pr: bool = False, author: str | None = None
) -> Commit:
    """Commit the files, and retry after a transient failure.

    Each attempt first reads the head. If it holds the files already, an earlier attempt succeeded and only its answer
    was lost: no second commit is made. The head becomes the commit's parent, so that a commit of somebody else in
    between is noticed. It is kept, unless it changed the very files that are sent.

    Args:
        api: The client.
        repo_id: An existing repository.
        upload: What to commit.
        branch: Where to; "refs/pr/N" for an open pull request.
        create_pr: Open a pull request.
        author: Whose open pull request is taken instead of a new one, if it holds exactly this; None takes none.

    Raises:
        PublishError: The Hub refused, or could not be reached in several attempts; nothing was changed there.
        ArgumentError: The Hub refused the card.
    """
    try:
        if create_pr and author is not None:
            for pull in _open_pull_requests(api, repo_id, author):
                if (done := _Sending(api, repo_id, upload, pull).done()) is not None:
                    return done
        known = _pull_requests(api, repo_id) if create_pr else None
        sending = _Sending(api, repo_id, upload, branch, known)
        first = _head(api, repo_id, branch)
        for number in range(ATTEMPTS):
            made = sending.attempt(first, is_last=number == ATTEMPTS - 1)
            if isinstance(made, Commit):
                return made
            wait(0 if _is_conflict(made) else number, f"the commit to {repo_id}", made)
    except TRANSIENT as error:
        raise explained(error, repo_id) from error
    raise AssertionError("the last attempt returns a commit or raises")


@dataclass(frozen=True)
class _Sending:
    """The same files for the same place, over all attempts.

    Attributes:
        api: The client.
        repo_id: The repository.
        upload: What to commit.
        branch: Where to.
        known: The pull requests before the first attempt, where a new one is opened; else None.
    """

    api: HfApi
    repo_id: str
    upload: Upload
    branch: str
    known: frozenset[str] | None = None

    @cached_property
    def hashes(self) -> dict[str, tuple[str, str]]:
        """As `Upload.hashes`, read once."""
        return self.upload.hashes()

    def attempt(self, first: ModelInfo, is_last: bool) -> Commit | Exception:
        """Commit once.

        Args:
            first: The head before the first attempt.
            is_last: A failure is raised, unless the commit was made nevertheless.

        Returns:
            The commit, or a failure after which another attempt may succeed.
        """
        if (done := self.done()) is not None:
            return done
        head = _head(self.api, self.repo_id, self.branch)
        _check_untouched(first, head, self.hashes, self.repo_id)
        try:
            return _commit(self.api, self.repo_id, self.upload, self.branch, self.known is not None, head)
        except RepositoryNotFoundError:
            raise
        except TRANSIENT as error:
            if not is_last and (_is_conflict(error) or may_pass(error)):
                return error
            if (done := self.done()) is None:
                raise
            return done

    def done(self) -> Commit | None:
        """The commit that holds all files: the head of the branch, or that of a pull request that was not known."""
        opened = None if self.known is None else sorted(_pull_requests(self.api, self.repo_id) - self.known)
        for name in [self.branch] if opened is None else opened:
            head = _head(self.api, self.repo_id, name)
            remote = _remote_hashes(head)
            same = all(remote.get(path) in pair for path, pair in self.hashes.items())
            if same and not set(self.upload.stale) & set(remote) and head.sha:
                return Commit(head.sha, name)
        return None


def _is_conflict(error: Exception) -> bool:
    """Whether somebody else committed meanwhile."""
    return status_of(error) == _CONFLICT


def is_there(api: HfApi, repo_id: str, upload: Upload, revision: str = "main") -> bool:
    """Whether a branch or tag holds exactly these files, and none of the stale ones.

    Raises:
        PublishError: The Hub refused or could not be reached.
    """
    try:
        return _Sending(api, repo_id, upload, revision).done() is not None
    except TRANSIENT as error:
        raise explained(error, repo_id) from error


def set_tag(api: HfApi, repo_id: str, upload: Upload, tag: str, revision: str) -> None:
    """Set a tag on a commit; one that is there must hold the same files.

    Raises:
        PublishError: The Hub refused, could not be reached, or the tag holds something else.
    """
    try:
        retried(lambda: api.create_tag(repo_id, tag=tag, revision=revision), f"setting the tag {tag}")
    except TRANSIENT as error:
        if status_of(error) != _EXISTS:
            raise PublishError(
                f"{repo_id} was published at revision {revision}, but its tag {tag}, which the card pins, is missing: "
                f"{explained(error, repo_id)}"
            ) from error
        if not is_there(api, repo_id, upload, tag):
            raise PublishError(
                f"{repo_id} was published at revision {revision}, but its tag {tag}, which the card pins, is on other "
                "files. Delete that tag."
            ) from error


def published_card(api: HfApi, target: Target, branch: str) -> str:
    """The card in a repository; empty if there is none.

    Raises:
        PublishError: The Hub refused or could not be reached.
    """
    if CARD_NAME not in target.files:
        return ""
    with tempfile.TemporaryDirectory(prefix="hf_transfer_card_") as cache:
        try:
            path = retried(
                lambda: api.hf_hub_download(target.repo_id, CARD_NAME, revision=branch, cache_dir=cache),
                f"reading the card of {target.repo_id}",
            )
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except TRANSIENT as error:
            raise explained(error, target.repo_id) from error
        except LocalEntryNotFoundError as error:  # what a download raises if the network fails
            raise explained(error, target.repo_id) from error


def make_repository(api: HfApi, repo_id: str, private: bool) -> None:
    """Create a repository.

    Raises:
        PublishError: The Hub refused or could not be reached.
    """
    try:
        retried(lambda: api.create_repo(repo_id, private=private, exist_ok=True), f"making the repository {repo_id}")
    except TRANSIENT as error:
        raise explained(error, repo_id) from error


def _commit(api: HfApi, repo_id: str, upload: Upload, branch: str, create_pr: bool, head: ModelInfo) -> Commit:
    there = {sibling.rfilename for sibling in head.siblings or []}
    # New objects for each attempt: create_commit marks those of a failed one as uploaded.
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, upload.folder / name) for name in upload.files
    ]
    operations += [CommitOperationDelete(path) for path in upload.stale if path in there]
    try:
        info = api.create_commit(
            repo_id,
            operations,
            commit_message=upload.message,
            revision=branch,
            create_pr=create_pr,
            parent_commit=head.sha,
        )
    except TRANSIENT:
        raise
    except PermissionError as error:  # hf_xet's XetAuthenticationError, which another attempt would not change
        raise explained(error, repo_id) from error
    except (RuntimeError, OSError) as error:  # hf_xet's, or huggingface_hub's own around one large file
        if isinstance(error.__cause__, TRANSIENT):
            raise error.__cause__ from None
        raise UploadError(f"{type(error).__name__}: {error}") from error
    except ValueError as error:  # the Hub's validation of the card's metadata
        raise ArgumentError(f"The Hub refused the files for {repo_id}: {' '.join(str(error).split())}") from error
    return Commit(info.oid, f"refs/pr/{info.pr_num}" if info.pr_num else branch)


def _head(api: HfApi, repo_id: str, branch: str) -> ModelInfo:
    return retried(
        lambda: api.model_info(repo_id, revision=branch, files_metadata=True), f"reading the head of {repo_id}"
    )


def _check_untouched(first: ModelInfo, head: ModelInfo, hashes: Mapping[str, tuple[str, str]], repo_id: str) -> None:
    before, now = _remote_hashes(first), _remote_hashes(head)
    changed = [path for path in hashes if before.get(path) != now.get(path)]
    if changed:
        raise PublishError(
            f"Somebody else changed {', '.join(changed[:5])} in {repo_id} at the same time; their commit is kept and "
            "yours was not made. Look at it, then publish again, by pull request (--create_pr) if in doubt."
        )


def _pull_requests(api: HfApi, repo_id: str) -> frozenset[str]:
    refs = retried(
        lambda: api.list_repo_refs(repo_id, include_pull_requests=True), f"listing pull requests of {repo_id}"
    )
    return frozenset(pull.ref for pull in refs.pull_requests or [])


def _open_pull_requests(api: HfApi, repo_id: str, author: str) -> list[str]:
    """References of an author's open pull requests, the newest first."""
    found = retried(
        lambda: list(
            api.get_repo_discussions(repo_id, author=author, discussion_type="pull_request", discussion_status="open")
        ),
        f"listing open pull requests of {repo_id}",
    )
    return [f"refs/pr/{number}" for number in sorted((pull.num for pull in found), reverse=True)]


def _remote_hashes(info: ModelInfo) -> dict[str, str | None]:
    return {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings or []}


def _hashes(content: bytes) -> tuple[str, str]:
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return git.hexdigest(), hashlib.sha256(content).hexdigest()
