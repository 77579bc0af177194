"""Fine-grained tokens: what `whoami` tells of their permissions decides, before training and before sending."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import hf_transfer as ht
from hf_transfer.errors import PublishError
from hf_transfer.hub import check_target
from hf_transfer.hub.permissions import Rights, check_rights
from tests.helpers.hub_server import HubServer, Repository, Token
from tests.helpers.hub_server.fixtures import PUBLISHED, TOKEN, finished_run

WRITE, READ, DISCUSS = ("repo.content.read", "repo.write"), ("repo.content.read",), ("discussion.write",)
MODEL = ("model", "someone/pets")


def log_in(hub: HubServer, scoped: Mapping[tuple[str, str], tuple[str, ...]] | None) -> None:
    hub.tokens[TOKEN] = Token("someone", "fineGrained", organisations=("lab",), scoped=scoped)


@pytest.mark.parametrize(
    ("scoped", "repo_id", "exists"),
    [
        ({("user", "someone"): WRITE}, "someone/pets", False),
        ({("user", "someone"): READ, ("org", "lab"): WRITE}, "lab/pets", False),
        ({("user", "someone"): READ, MODEL: WRITE}, "someone/pets", True),
    ],
    ids=["all of the user's", "all of the organisation's", "that repository"],
)
def test_tokens_that_may_write(
    hub: HubServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    scoped: dict[tuple[str, str], tuple[str, ...]],
    repo_id: str,
    exists: bool,
) -> None:
    """A token that may write to all repositories of the owner, or to that one which is there, publishes, unwarned."""
    log_in(hub, scoped)
    if exists:
        hub.repositories[repo_id] = Repository(repo_id, private=True)
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        ht.publish(finished_run(tmp_path), repo_id, verify=False)
    assert set(hub.repositories[repo_id].files()) == PUBLISHED and not caplog.records


@pytest.mark.parametrize(
    ("scoped", "repo_id", "exists", "message"),
    [
        ({}, "someone/pets", False, "no permission to write to someone/pets: it has no permission for any repository"),
        (
            {("user", "someone"): READ},
            "someone/pets",
            False,
            r"it has user someone: repo\.content\.read\. Add .*Write",
        ),
        ({("user", "someone"): WRITE}, "lab/pets", False, "no permission to write to lab/pets.* for lab"),
        ({("user", "someone"): DISCUSS}, "someone/pets", False, "is not there, and .* may not make it"),
        ({("model", "someone/other"): WRITE}, "someone/pets", True, "no permission.*it has model someone/other"),
        ({("dataset", "someone/pets"): WRITE}, "someone/pets", True, "no permission.*it has dataset someone/pets"),
        ({MODEL: WRITE}, "someone/pets", False, "someone/pets is not there, and .* may not make it"),
        ({("user", "someone"): WRITE}, "google/pets", False, "no right to publish under 'google'.*fine-grained"),
    ],
)
def test_tokens_that_may_not_write(
    hub: HubServer,
    tmp_path: Path,
    scoped: dict[tuple[str, str], tuple[str, ...]],
    repo_id: str,
    exists: bool,
    message: str,
) -> None:
    """A token that may not write there is refused with what it has and what is missing, and nothing is sent."""
    log_in(hub, scoped)
    if exists:
        hub.repositories[repo_id] = Repository(repo_id, private=True)
    with pytest.raises(PublishError, match=message) as caught:
        ht.publish(finished_run(tmp_path), repo_id)
    assert hub.writes() == [] and TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "scoped", [None, {("resource-group", "someone"): WRITE}], ids=["no details", "resource group"]
)
def test_tokens_of_which_too_little_is_known(
    hub: HubServer, caplog: pytest.LogCaptureFixture, scoped: dict[tuple[str, str], tuple[str, ...]] | None
) -> None:
    """What cannot be told from `whoami`, or may do for a pull request alone, is let pass with a warning."""
    log_in(hub, scoped)
    hub.repositories["someone/pets"] = Repository("someone/pets", private=True)
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        assert check_target("someone/pets").repo_id == "someone/pets"
    assert "may write to someone/pets cannot be told" in caplog.text


@pytest.mark.parametrize(
    ("access", "known"),
    [
        ({"role": "write"}, True),
        ({"role": "admin"}, True),
        ({"role": "somethingNew"}, None),
        ({}, None),
        ({"role": "fineGrained", "fineGrained": {"scoped": "?"}}, None),
        (
            {"role": "fineGrained", "fineGrained": {"scoped": [{"entity": {"type": "org"}, "permissions": WRITE}]}},
            None,
        ),
    ],
)
def test_answers_of_other_forms(access: dict[str, Any], known: bool | None) -> None:
    """Roles that are not known, and details in another form than today's, are not taken for a refusal."""
    who = {"name": "someone", "orgs": [], "auth": {"accessToken": access}}
    assert check_rights(who, "someone/pets").writes is known


def test_login_without_a_token_of_its_own() -> None:
    """OAuth gives no access token: nothing is known, and nothing is refused."""
    who = {"name": "someone", "orgs": [], "auth": {"type": "oauth"}}
    assert check_rights(who, "someone/pets") == Rights(None)
