"""The faults of a Hub and a network: each ends published, or with a clear error and a command that then works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

import hf_transfer as ht
from hf_transfer.cli import main
from hf_transfer.errors import ArgumentError, PublishError
from hf_transfer.hub import retrying
from tests.helpers.fast import slow_but
from tests.helpers.hub_server import Fault, HubServer, Repository, Token
from tests.helpers.hub_server.fixtures import PUBLISHED, TOKEN, USER, finished_run

pytestmark = pytest.mark.usefixtures("verified_by_one_process")

REPOSITORY = "someone/pets"
STEPS = {
    "create": ("POST", "/api/repos/create"),
    "preupload": ("POST", "/preupload/"),
    "LFS batch": ("POST", "/objects/batch"),
    "PUT": ("PUT", "/lfs/"),
    "verify": ("POST", "/verify$"),
    "commit": ("POST", "/commit/"),
    "tag": ("POST", "/tag/"),
    "validate-yaml": ("POST", "/validate-yaml"),
    "whoami": ("GET", "/whoami"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def published_whole(hub: HubServer, commits: int = 2) -> None:
    """Everything is there, from one commit, and was verified after that."""
    made = hub.repositories[REPOSITORY]
    assert set(made.files()) == PUBLISHED and len(made.commits) == commits
    assert hub.verified == [made.refs["main"]]


@pytest.mark.parametrize("step", slow_but(("PUT", "commit", "tag"), STEPS))
def test_503_that_passes(hub: HubServer, tmp_path: Path, step: str) -> None:
    """One 503 at any step is survived, and leaves one commit."""
    folder = finished_run(tmp_path / "run")
    hub.faults = [Fault(*STEPS[step], status=503)]
    ht.publish(folder, REPOSITORY)
    assert hub.faults[0].hits == 1
    published_whole(hub)


def test_weights_that_are_up_are_not_sent_again(hub: HubServer, tmp_path: Path) -> None:
    """If only the check of the uploaded weights fails, the next attempt finds them there and commits."""
    hub.faults = [Fault(*STEPS["verify"], status=503, count=1000)]
    ht.publish(finished_run(tmp_path / "run"), REPOSITORY)
    published_whole(hub)
    assert len([path for method, path in hub.requests if method == "PUT"]) == 2


@pytest.mark.parametrize("step", slow_but(("PUT", "commit"), sorted(set(STEPS) - {"verify", "tag"})))
def test_503_that_stays(hub: HubServer, tmp_path: Path, step: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A service that stays away gives an error with a command; no half of it is there; later the command works."""
    folder = finished_run(tmp_path / "run")
    before = contents(folder)
    hub.faults = [Fault(*STEPS[step], status=503, count=1000)]
    with pytest.raises(PublishError, match="status 503") as caught:
        ht.publish(folder, REPOSITORY)
    assert contents(folder) == before
    made = hub.repositories.get(REPOSITORY)
    assert made is None or set(made.files()) == {".gitattributes"}
    hub.faults = []
    command = shlex.split(str(caught.value).partition("to try again: ")[2])
    assert command[0] == "hf-transfer"
    assert main(command[1:]) == 0
    published_whole(hub)


@pytest.mark.parametrize("step", ["PUT", "commit"])
def test_connection_dropped(hub: HubServer, tmp_path: Path, step: str) -> None:
    """A connection that breaks while sending weights or the commit is taken up again."""
    hub.faults = [Fault(*STEPS[step], drop=True)]
    ht.publish(finished_run(tmp_path / "run"), REPOSITORY)
    assert hub.faults[0].hits == 1
    published_whole(hub)


@pytest.mark.parametrize("pull_request", [False, True])
def test_answer_of_the_commit_lost(hub: HubServer, tmp_path: Path, pull_request: bool) -> None:
    """A commit that succeeded, but whose answer was lost, is found on the Hub: no second commit, no second request."""
    if pull_request:
        hub.repositories[REPOSITORY] = Repository(REPOSITORY, private=True)
        hub.repositories[REPOSITORY].put("notes.md", b"mine")
    hub.faults = [Fault(*STEPS["commit"], drop=True, after=True)]
    made = ht.publish(finished_run(tmp_path / "run"), REPOSITORY)
    theirs = hub.repositories[REPOSITORY]
    ref = "refs/pr/1" if pull_request else "main"
    assert made.revision == theirs.refs[ref] and theirs.pull_requests == int(pull_request)
    assert len([path for _, path in hub.requests if "/commit/" in path]) == 1
    assert set(theirs.files(ref)) >= PUBLISHED and hub.verified == [made.revision]


@pytest.mark.parametrize("lost", [False, True])
def test_tag_after_the_commit(hub: HubServer, tmp_path: Path, lost: bool) -> None:
    """If the tag cannot be set, the error says that all else is there, and the command sets it without a second
    commit; if only the answer was lost, there is no error."""
    folder = finished_run(tmp_path / "run")
    hub.faults = [
        Fault(*STEPS["tag"], drop=True, after=True) if lost else Fault(*STEPS["tag"], status=503, count=1000)
    ]
    if lost:
        assert ht.publish(folder, REPOSITORY).tag in hub.repositories[REPOSITORY].tags
        published_whole(hub)
        return
    with pytest.raises(PublishError, match=r"was published at revision \w+, but its tag") as caught:
        ht.publish(folder, REPOSITORY, license="mit", limitations="It's for pets.")
    assert set(hub.repositories[REPOSITORY].files()) == PUBLISHED
    hub.faults = []
    command = shlex.split(str(caught.value).partition("to try again: ")[2])
    assert main(command[1:]) == 0
    published_whole(hub)
    made = hub.repositories[REPOSITORY]
    assert list(made.tags.values()) == [made.refs["main"]] and not made.pull_requests


class _XetAuthenticationError(PermissionError):
    """As hf_xet's, which is no error of the client."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CAS: connection reset"),
        pytest.param(OSError("no route"), marks=pytest.mark.slow),
        pytest.param(ConnectionError("x"), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("stays", [False, True])
def test_upload_errors_of_xet(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, stays: bool
) -> None:
    """What hf_xet raises while the weights are sent is tried again; if it stays, there is a command that works."""
    failing = _commits_that_fail(monkeypatch, error, retrying.ATTEMPTS if stays else 1)
    folder = finished_run(tmp_path / "run")
    if stays:
        with pytest.raises(PublishError, match=re.escape(str(error))) as caught:
            ht.publish(folder, REPOSITORY)
        assert len(failing) == retrying.ATTEMPTS
        command = shlex.split(str(caught.value).partition("to try again: ")[2])
        assert main(command[1:]) == 0
    else:
        ht.publish(folder, REPOSITORY)
    published_whole(hub)


def test_xet_refuses_the_login(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused login is not tried again, and says what to do; the token is not repeated."""
    failing = _commits_that_fail(monkeypatch, _XetAuthenticationError(f"401 for {TOKEN}"), 1000)
    with pytest.raises(PublishError, match="hf auth login.*to try again: hf-transfer publish") as caught:
        ht.publish(finished_run(tmp_path / "run"), REPOSITORY)
    assert len(failing) == 1 and TOKEN not in str(caught.value)


def test_any_error_behind_the_repository_has_advice(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even an error that nobody thought of gives the command to try again, once the repository was made."""
    _commits_that_fail(monkeypatch, LookupError(f"odd {TOKEN}"), 1)
    with pytest.raises(PublishError, match="LookupError: odd.*to try again: hf-transfer publish") as caught:
        ht.publish(finished_run(tmp_path / "run"), REPOSITORY)
    assert TOKEN not in str(caught.value)


def _commits_that_fail(monkeypatch: pytest.MonkeyPatch, error: Exception, count: int) -> list[Exception]:
    failed: list[Exception] = []
    real = HfApi.create_commit

    def create_commit(self: HfApi, *args: Any, **options: Any) -> Any:
        if len(failed) < count:
            failed.append(error)
            raise error
        return real(self, *args, **options)

    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    return failed


def test_token_expires_midway(hub: HubServer, tmp_path: Path) -> None:
    """A token that expires while sending: an error that says so, nothing committed, and a second run succeeds."""
    folder = finished_run(tmp_path / "run")
    hub.tokens[TOKEN] = Token(USER, requests_left=6)
    with pytest.raises(PublishError, match="expired") as caught:
        ht.publish(folder, REPOSITORY)
    assert TOKEN not in str(caught.value) and set(hub.repositories[REPOSITORY].files()) == {".gitattributes"}
    hub.tokens[TOKEN] = Token(USER)
    ht.publish(folder, REPOSITORY)
    published_whole(hub)


def test_token_loses_its_right(hub: HubServer, tmp_path: Path) -> None:
    """A token that may not write to this repository, which only the upload finds out: an error that says so."""
    hub.faults = [Fault(*STEPS["preupload"], status=403, count=9)]
    with pytest.raises(PublishError, match="may not write"):
        ht.publish(finished_run(tmp_path / "run"), REPOSITORY)


def test_hub_that_goes_away_before_the_verification(hub: HubServer, tmp_path: Path) -> None:
    """What cannot be downloaded is not verified: the error says that it was published, and at which revision; later
    the command verifies it without a second commit."""
    hub.faults = [Fault("GET", "/resolve/.*/model.safetensors", status=404, count=1000)]
    with pytest.raises(PublishError, match=r"was published at revision \w+, but could not be verified") as caught:
        ht.publish(finished_run(tmp_path / "run"), REPOSITORY)
    assert hub.repositories[REPOSITORY].refs["main"] in str(caught.value) and hub.verified == []
    hub.faults = []
    assert main(shlex.split(str(caught.value).partition("to try again: ")[2])[1:]) == 0
    published_whole(hub)


def test_race_on_other_files(hub: HubServer, tmp_path: Path) -> None:
    """Somebody commits another file between reading the head and our commit (412): theirs and ours are both there."""
    hub.faults = [Fault(*STEPS["commit"], action=lambda: hub.repositories[REPOSITORY].put("notes.md", b"x") and None)]
    ht.publish(finished_run(tmp_path / "run"), REPOSITORY)
    assert set(hub.repositories[REPOSITORY].files()) == PUBLISHED | {"notes.md"} and len(hub.verified) == 1


def test_race_on_the_same_file(hub: HubServer, tmp_path: Path) -> None:
    """Somebody commits one of our files meanwhile: theirs stays, and the error names it."""
    hub.faults = [Fault(*STEPS["commit"], action=lambda: hub.repositories[REPOSITORY].put("README.md", b"x") and None)]
    with pytest.raises(PublishError, match=r"Somebody else changed README\.md"):
        ht.publish(finished_run(tmp_path / "run"), REPOSITORY)
    assert hub.repositories[REPOSITORY].files()["README.md"].content == b"x"


def test_invalid_card(hub: HubServer, tmp_path: Path) -> None:
    """A card without a run's record that the Hub would refuse is refused here, before anything is sent."""
    folder = finished_run(tmp_path / "run")
    (folder / "run.json").unlink()
    (folder / "README.md").write_text("---\nlicense: mit\nwidget: nothing\n---\n# Pets\n")
    with pytest.raises(ArgumentError, match="widget"):
        ht.publish(folder, REPOSITORY)
    assert hub.writes() == []


def test_card_that_only_the_hub_refuses(hub: HubServer, tmp_path: Path) -> None:
    """What our validator lets pass and the Hub's does not: its words are shown, and nothing is committed."""
    hub.faults = [Fault(*STEPS["validate-yaml"], status=400, count=9)]
    with pytest.raises((ArgumentError, PublishError)):
        ht.publish(finished_run(tmp_path / "run"), REPOSITORY)
    assert set(hub.repositories[REPOSITORY].files()) == {".gitattributes"}


def test_repository_deleted_meanwhile(hub: HubServer, tmp_path: Path) -> None:
    """The repository vanishes while sending: a clear error; the second run makes it anew."""
    folder = finished_run(tmp_path / "run")
    hub.faults = [Fault(*STEPS["preupload"], action=lambda: hub.repositories.pop(REPOSITORY) and None)]
    with pytest.raises(PublishError, match="deleted meanwhile"):
        ht.publish(folder, REPOSITORY)
    ht.publish(folder, REPOSITORY)
    published_whole(hub)
