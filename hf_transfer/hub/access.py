"""Whether a repository may be written to: asked before training, and again before anything is sent."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hf_transfer.errors import ArgumentError, PublishError
from hf_transfer.hub.permissions import LOG_IN, check_may_create, check_rights
from hf_transfer.hub.retrying import TRANSIENT, UploadError, retried, status_of
from hf_transfer.utils.hub_ids import is_repo_id

logger = logging.getLogger(__name__)

_ALWAYS_THERE = (".gitattributes",)


@dataclass(frozen=True)
class Target:
    """Where to publish.

    Attributes:
        repo_id: "owner/name".
        private: The repository's visibility; the wanted one if it does not exist.
        exists: Whether the repository exists.
        files: Its files without those that the Hub itself adds.
        user: Name of the logged-in user.
    """

    repo_id: str
    private: bool
    exists: bool
    files: tuple[str, ...]
    user: str


def check_target(repo_id: str, private: bool = True, api: HfApi | None = None) -> Target:
    """Check login, rights, namespace and visibility; nothing is uploaded.

    Args:
        repo_id: "owner/name", or "name" for the logged-in user's.
        private: The visibility that is wanted.
        api: Client; None makes one.

    Raises:
        ArgumentError: `repo_id` has the wrong form.
        PublishError: There is no login, the token may not write to the repository, or the repository is public
            although a private one is wanted.
    """
    if not is_repo_id(repo_id):
        raise ArgumentError(f"The repository must be an id on the Hub such as owner/name, found {repo_id!r}.")
    if get_token() is None:
        raise PublishError(f"No login for the Hub was found. {LOG_IN}.")
    api = api or HfApi()
    try:
        who = retried(lambda: api.whoami(), "asking who is logged in")
        owner, _, name = repo_id.rpartition("/")
        repo_id = f"{owner or who['name']}/{name}"
        rights = check_rights(who, repo_id)
        target = look_at(api, repo_id, private, str(who["name"]))
        if not target.exists:
            check_may_create(rights, who, repo_id)
        return target
    except TRANSIENT as error:
        raise explained(error, repo_id) from error


def unchecked_target(repo_id: str, private: bool) -> Target:
    """A target for a dry run without a login: as if the repository did not exist.

    Raises:
        ArgumentError: `repo_id` has the wrong form.
    """
    if not is_repo_id(repo_id):
        raise ArgumentError(f"The repository must be an id on the Hub such as owner/name, found {repo_id!r}.")
    logger.warning("There is no login for the Hub: rights, and what %s holds already, are not checked.", repo_id)
    whole = repo_id if "/" in repo_id else f"OWNER/{repo_id}"
    return Target(whole, private, exists=False, files=(), user="")


def look_again(api: HfApi, made: Target, private: bool) -> Target:
    """Look at a repository that was just made, which the Hub's rules or somebody else may have made otherwise.

    Args:
        api: Client.
        made: What `check_target` returned before.
        private: The visibility that was wanted.

    Raises:
        PublishError: It is public although a private one is wanted.
    """
    try:
        found = look_at(api, made.repo_id, private, made.user)
    except TRANSIENT as error:
        raise explained(error, made.repo_id) from error
    return found if found.exists else replace(made, exists=True)


def warn_of_visibility(target: Target, private: bool) -> None:
    """Warn if a repository is private although a public one is wanted."""
    if target.exists and target.private and not private:
        logger.warning(
            "%s is private and stays so, although a public repository was asked for. Make it public in its settings "
            "on the Hub.",
            target.repo_id,
        )


def explained(error: Exception, repo_id: str) -> PublishError:
    """An error of the Hub or the network, with what to do about it and without any token."""
    status = status_of(error)
    if isinstance(error, RepositoryNotFoundError):
        return PublishError(
            f"The repository {repo_id} does not exist, was deleted meanwhile, or is hidden from this login."
        )
    if status == 401 or isinstance(error, PermissionError):
        return PublishError(f"The Hub does not accept the token: it is wrong, expired or revoked. {LOG_IN}.")
    if status == 403:
        return PublishError(f"The token may not write to {repo_id}. {LOG_IN}.")
    text = _without_token(error)
    if isinstance(error, UploadError):
        return PublishError(f"The upload to {repo_id} failed: {text}.")
    reached = f"answered with status {status}" if status else "could not be reached"
    return PublishError(f"The Hub {reached} for {repo_id}: {text}.")


def unforeseen(error: Exception, repo_id: str) -> PublishError:
    """An unexpected error while publishing, without any token."""
    return PublishError(f"Publishing to {repo_id} broke off with {type(error).__name__}: {_without_token(error)}.")


def _without_token(error: Exception) -> str:
    text, token = " ".join(str(error).split()), get_token()
    return (text.replace(token, "TOKEN") if token else text)[:300].rstrip(".") or type(error).__name__


def look_at(api: HfApi, repo_id: str, private: bool, user: str) -> Target:
    try:
        info = retried(lambda: api.model_info(repo_id), f"looking at {repo_id}")
    except RepositoryNotFoundError:
        return Target(repo_id, private, exists=False, files=(), user=user)
    except HfHubHTTPError as error:
        raise explained(error, repo_id) from error
    if private and info.private is False:
        raise PublishError(
            f"{repo_id} exists and is public, but a private repository is wanted; nothing was sent. Make it private "
            "in its settings on the Hub, choose another name, or say that it may be public (--public, or "
            "hub_private_repo=False in training)."
        )
    files = tuple(s.rfilename for s in info.siblings or [] if s.rfilename not in _ALWAYS_THERE)
    return Target(repo_id, private if info.private is None else info.private, exists=True, files=files, user=user)
