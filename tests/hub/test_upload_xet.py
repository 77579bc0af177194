"""Uploads and downloads by Xet, as the client makes them by default: the real hf_xet, with a folder as its storage."""

from __future__ import annotations

from pathlib import Path

import pytest

import hf_transfer as ht
from hf_transfer.errors import PublishError
from tests.helpers.hub_server import Fault, HubServer
from tests.helpers.hub_server.fixtures import PUBLISHED, TOKEN, finished_run

REPOSITORY = "someone/pets"
WRITE_TOKEN = ("GET", "/xet-write-token/")


@pytest.mark.slow
def test_published_and_verified_by_xet(xet_hub: HubServer, tmp_path: Path) -> None:
    """The weights go to Xet storage and to nothing else, a fresh process gets them from there, and they are the
    folder's; the same again sends nothing; no byte of the token goes to the storage."""
    folder = finished_run(tmp_path / "run")
    made = ht.publish(folder, REPOSITORY)
    assert made.verification is not None and made.verification.difference == 0
    asked = [f"{method} {path}" for method, path in xet_hub.requests]
    assert any("/xet-write-token/" in line for line in asked) and any("/xet-read-token/" in line for line in asked)
    assert not [line for line in asked if "/objects/batch" in line or line.startswith("PUT")]
    assert not [line for line in asked if line.startswith("GET") and line.endswith("model.safetensors")]
    files = xet_hub.repositories[REPOSITORY].files()
    assert (
        set(files) == PUBLISHED and files["model.safetensors"].content == (folder / "model.safetensors").read_bytes()
    )
    assert ht.publish(folder, REPOSITORY, verify=False).revision == made.revision
    stored = [path.read_bytes() for path in (tmp_path / "xet").rglob("*") if path.is_file()]
    assert stored and not any(TOKEN.encode() in content for content in stored)


def test_xet_that_fails_once(xet_hub: HubServer, tmp_path: Path) -> None:
    """A failure to get the storage's token, which hf_xet tells by an error of its own, is tried again."""
    xet_hub.faults = [Fault(*WRITE_TOKEN, status=400)]
    ht.publish(finished_run(tmp_path / "run"), REPOSITORY, verify=False)
    assert xet_hub.faults[0].hits == 1 and set(xet_hub.repositories[REPOSITORY].files()) == PUBLISHED


@pytest.mark.parametrize("status", [400, 401, 403])
def test_xet_that_stays_away(xet_hub: HubServer, tmp_path: Path, status: int) -> None:
    """Storage that stays away or refuses is a clear error with the command to try again, which then works; nothing is
    committed before."""
    folder = finished_run(tmp_path / "run")
    xet_hub.faults = [Fault(*WRITE_TOKEN, status=status, count=1000)]
    with pytest.raises(PublishError, match="to try again: hf-transfer publish") as caught:
        ht.publish(folder, REPOSITORY, verify=False)
    assert TOKEN not in str(caught.value) and set(xet_hub.repositories[REPOSITORY].files()) == {".gitattributes"}
    xet_hub.faults = []
    ht.publish(folder, REPOSITORY, verify=False)
    assert set(xet_hub.repositories[REPOSITORY].files()) == PUBLISHED


def test_storage_that_answers_nonsense(xet_hub: HubServer, tmp_path: Path) -> None:
    """A folder that cannot be written, as a storage that breaks down amid the upload: no commit."""
    assert xet_hub.xet is not None
    xet_hub.xet.folder = tmp_path / "file"
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(PublishError, match="The upload to someone/pets failed.*to try again"):
        ht.publish(finished_run(tmp_path / "run"), REPOSITORY, verify=False)
    assert set(xet_hub.repositories[REPOSITORY].files()) == {".gitattributes"}
