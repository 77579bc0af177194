"""Who may see the repository: never otherwise than was asked without a word, and told as it is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import hf_transfer as ht
from hf_transfer.cli import main
from hf_transfer.errors import PublishError
from hf_transfer.hub import TrainingPush
from tests.helpers.hub_server import Fault, HubServer, Repository
from tests.helpers.hub_server.fixtures import PUBLISHED, finished_run

REPOSITORY = "someone/pets"
CREATE = ("POST", "/api/repos/create")


def made_by_somebody(hub: HubServer, private: bool, content: bool = False) -> Fault:
    """While the repository is being made, it is made with another visibility."""

    def make() -> None:
        made = hub.repositories[REPOSITORY] = Repository(REPOSITORY, private=private)
        if content:
            made.put("notes.md", b"theirs")

    return Fault(*CREATE, action=make)


def test_public_is_told_and_made(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--public makes a public repository, and says so."""
    assert main(["publish", str(finished_run(tmp_path)), "pets", "--public", "--no_verify"]) == 0
    assert "someone/pets (public)" in capsys.readouterr().out and not hub.repositories[REPOSITORY].private


def test_public_does_not_change_what_is_private(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """--public into a repository that is private neither makes it public nor says so: a warning tells what to do."""
    hub.repositories[REPOSITORY] = Repository(REPOSITORY, private=True)
    assert main(["publish", str(finished_run(tmp_path)), "pets", "--public", "--no_verify"]) == 0
    said = capsys.readouterr()
    assert "someone/pets (private)" in said.out and hub.repositories[REPOSITORY].private
    assert "someone/pets is private and stays so" in said.err + caplog.text


def test_training_warns_of_what_stays_private(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    """hub_private_repo=False with a private repository is told before training."""
    hub.repositories[REPOSITORY] = Repository(REPOSITORY, private=True)
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        assert TrainingPush("pets", private=False).target.private
    assert "is private and stays so" in caplog.text


def test_a_repository_that_is_made_private_all_the_same(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a public repository was asked for, and a private one is made, as a rule of an organisation may have it,
    that is what is told."""
    hub.faults = [made_by_somebody(hub, private=True)]
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        made = ht.publish(finished_run(tmp_path), "pets", private=False, verify=False)
    assert made.private and set(hub.repositories[REPOSITORY].files()) == PUBLISHED
    assert "is private and stays so" in caplog.text


@pytest.mark.parametrize("training", [False, True])
def test_a_repository_that_is_made_public_all_the_same(hub: HubServer, tmp_path: Path, training: bool) -> None:
    """Where a private repository was asked for, and a public one is there when it should have been made, nothing is
    sent."""
    hub.faults = [made_by_somebody(hub, private=False)]
    with pytest.raises(PublishError, match="is public, but a private repository is wanted; nothing was sent"):
        TrainingPush("pets") if training else ht.publish(finished_run(tmp_path), "pets")
    assert hub.writes() == [("POST", "/api/repos/create")]


def test_a_repository_that_somebody_fills_meanwhile(hub: HubServer, tmp_path: Path) -> None:
    """A repository that was not there, and holds something when it should have been made, is not committed to."""
    hub.faults = [made_by_somebody(hub, private=True, content=True)]
    with pytest.raises(PublishError, match="somebody else at the same time.*to try again"):
        ht.publish(finished_run(tmp_path), "pets", verify=False)
    assert "config.json" not in hub.repositories[REPOSITORY].files()
    assert ht.publish(finished_run(tmp_path / "2"), "pets", verify=False).pull_request == 1
