"""Whether a token may write to a repository, as far as `whoami` tells."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hf_transfer.errors import PublishError

logger = logging.getLogger(__name__)

LOG_IN = "Log in by `hf auth login` with a token that may write, or set HF_TOKEN in the environment"
_WRITE_ROLES = ("write", "admin")
# "repo.write" is what the Hub calls "Write access to contents/settings of repos".
_WRITES = frozenset({"repo.write", "repo.content.write"})
_PROPOSES = "discussion.write"
_NAMESPACES = ("user", "org")
# Repositories of other kinds, and what holds none.
_ELSEWHERE = ("dataset", "space", "bucket", "kernel", "collection", "oauth-app")


@dataclass(frozen=True)
class Rights:
    """What a token may do with a repository, as far as is known.

    Attributes:
        writes: Whether it may write there; None if that cannot be told.
        may_create: False if it may only write to that repository or open pull requests, and so cannot create it.
        granted: The token's permissions, for messages; empty if it is not fine-grained.
    """

    writes: bool | None
    may_create: bool = True
    granted: str = ""


def check_rights(who: Mapping[str, Any], repo_id: str) -> Rights:
    """Refuse a token that may not write to a repository; warn if that cannot be told.

    Args:
        who: Answer of `whoami`.
        repo_id: "owner/name".

    Raises:
        PublishError: The token may only read, may not write there, or the owner is somebody else.
    """
    name, owner = who["name"], repo_id.split("/")[0]
    access = who.get("auth", {}).get("accessToken") or {}
    role = access.get("role")
    if role == "read":
        raise PublishError(f"The token of {name} may only read. {LOG_IN}.")
    rights = Rights(True) if role in _WRITE_ROLES else Rights(None)
    if role == "fineGrained":
        rights = _of_scopes(access.get("fineGrained"), repo_id)
    organisations = [organisation["name"] for organisation in who.get("orgs", [])]
    if owner not in (name, *organisations) and not (rights.granted and rights.writes):
        limits = " A fine-grained token sees the organisations alone that it has permissions for." * bool(
            rights.granted
        )
        raise PublishError(
            f"{name} has no right to publish under {owner!r}. Choose one of: "
            f"{', '.join([name, *organisations])}.{limits}"
        )
    if rights.writes is False:
        raise PublishError(
            f"The fine-grained token of {name} has no permission to write to {repo_id}: it has {rights.granted}. Add "
            f'"Write access to contents/settings of all repos" for {owner}, or of that repository, in the settings of '
            "the token on the Hub (Access Tokens), or log in with another token."
        )
    if rights.writes is None:
        kind = "fine-grained token" if role == "fineGrained" else "login"
        logger.warning(
            "Whether this %s of %s may write to %s cannot be told beforehand (%s); publishing will show it.",
            kind,
            name,
            repo_id,
            rights.granted or f"role {role!r}",
        )
    return rights


def check_may_create(rights: Rights, who: Mapping[str, Any], repo_id: str) -> None:
    """Refuse a token that may not create a repository that does not exist.

    Raises:
        PublishError: The token may not create it.
    """
    if not rights.may_create:
        raise PublishError(
            f"{repo_id} is not there, and the fine-grained token of {who['name']} may not make it: it has "
            f"{rights.granted}. Create the repository on the Hub first, or add the permission to write to all "
            f"repositories of {repo_id.split('/')[0]} in the settings of the token."
        )


def _of_scopes(details: Any, repo_id: str) -> Rights:
    """What the scopes of a fine-grained token say; `whoami` names them "type", "name" and "permissions"."""
    try:
        scopes = list(_scopes(details))
    except (AttributeError, KeyError, TypeError):
        return Rights(None)
    granted = "; ".join(f"{kind} {name or '?'}: {', '.join(sorted(has)) or 'nothing'}" for kind, name, has in scopes)
    granted = granted or "no permission for any repository"
    owner, writing = repo_id.split("/")[0], [(kind, name) for kind, name, has in scopes if has & _WRITES]
    if any(kind in _NAMESPACES and name == owner for kind, name in writing):
        return Rights(True, granted=granted)
    if ("model", repo_id) in writing:
        return Rights(True, may_create=False, granted=granted)
    proposing = [(kind, name) for kind, name, has in scopes if _PROPOSES in has]
    if {("user", owner), ("org", owner), ("model", repo_id)} & set(proposing):
        return Rights(None, may_create=False, granted=granted)  # by pull request, if the Hub allows it
    # A resource group may hold the repository; nothing is known about a scope without a name.
    known = (*_NAMESPACES, "model", *_ELSEWHERE)
    if any(kind not in known or name is None for kind, name in writing):
        return Rights(None, granted=granted)
    return Rights(False, granted=granted)


def _scopes(details: Any) -> Iterator[tuple[str, str | None, frozenset[str]]]:
    for scope in details["scoped"]:
        entity = scope["entity"]
        yield str(entity["type"]), entity.get("name"), frozenset(map(str, scope["permissions"]))
    if details.get("global"):
        yield "everything", "public", frozenset(map(str, details["global"]))
