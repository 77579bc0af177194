"""Publishing against the local Hub, by the unmodified client over real HTTP: what is sent, and what is refused."""

from __future__ import annotations

import socket
from pathlib import Path

import PIL.Image
import pytest

import hf_transfer as ht
from hf_transfer.cli import main
from hf_transfer.errors import ArgumentError, OutputError, PublishError
from hf_transfer.hub import verification
from tests.helpers.card_records import metadata
from tests.helpers.hub_server import HubServer, Repository
from tests.helpers.hub_server.fixtures import PUBLISHED, READ_TOKEN, TOKEN, finished_run


@pytest.mark.slow
@pytest.mark.parametrize("timm", [False, True], ids=["transformers", "timm"])
def test_published_and_verified(
    hub: HubServer, tmp_path: Path, timm: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allow-listed files alone arrive, in one commit, private; a fresh process gets the same logits from the Hub;
    nothing that was ever sent holds the token, or the machine's user, host or home."""
    monkeypatch.setenv("HOME", str(tmp_path / "homeofuserx"))
    monkeypatch.setenv("LOGNAME", "userxname")
    monkeypatch.setattr(socket, "gethostname", lambda: "hostxname")
    folder = finished_run(tmp_path / "run", timm)
    assert main(["publish", str(folder), "someone/pets"]) == 0
    made = hub.repositories["someone/pets"]
    wanted = PUBLISHED - ({"preprocessor_config.json"} if timm else set())
    assert made.private and set(made.files()) == wanted and len(made.commits) == 2
    said = capsys.readouterr().out
    assert "Verified in a fresh process" in said and made.refs["main"] in said and ("by timm" in said) == timm
    for secret in (TOKEN, "userxname", "hostxname", "homeofuserx", str(tmp_path)):
        assert secret.encode() not in hub.received
    assert all(made.files()[name].content in hub.received for name in ("run.json", "README.md", "model.safetensors"))
    card = made.files()["README.md"].content.decode()
    assert metadata(card)["library_name"] == "transformers" and 'model="someone/pets"' in card


def test_dry_run_sends_nothing(hub: HubServer, tmp_path: Path) -> None:
    """A dry run tells the files and only asks questions."""
    made = ht.publish(finished_run(tmp_path / "run"), "pets", dry_run=True)
    assert {*made.files, ".gitattributes"} == PUBLISHED and made.repo_id == "someone/pets"
    assert hub.writes() == [] and not hub.repositories


def test_public_repository_is_refused_for_private(hub: HubServer, tmp_path: Path) -> None:
    """An existing public repository with private=True is refused before anything is sent."""
    hub.repositories["someone/pets"] = Repository("someone/pets", private=False)
    with pytest.raises(PublishError, match="public"):
        ht.publish(finished_run(tmp_path / "run"), "someone/pets")
    assert hub.writes() == []


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        (READ_TOKEN, "someone/pets", "only read"),
        (TOKEN, "google/pets", "no right to publish under 'google'.*someone, lab"),
        ("hf_" + "x" * 34, "someone/pets", "wrong, expired or revoked"),
        (None, "someone/pets", "No login"),
        (TOKEN, "not/an/id", "id on the Hub"),
    ],
)
def test_login_and_rights(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, repo_id: str, message: str
) -> None:
    """No login, a read-only or unknown token, another's namespace, no id: each is told before anything is sent."""
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises((PublishError, ArgumentError), match=message) as caught:
        ht.publish(tmp_path, repo_id)
    assert hub.writes() == [] and (token or TOKEN) not in str(caught.value)


@pytest.mark.parametrize("repo_id", ["pets", "someone/pets"])
def test_dry_run_needs_no_login(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, repo_id: str
) -> None:
    """Nothing is sent, and so nobody need be logged in; what was not checked is told."""
    monkeypatch.delenv("HF_TOKEN")
    made = ht.publish(finished_run(tmp_path / "run"), repo_id, dry_run=True)
    assert (
        set(made.files) == PUBLISHED - {".gitattributes"} and made.repo_id.endswith("/pets") and made.revision is None
    )
    assert hub.writes() == [] and "not checked" in caplog.text


def test_the_command_to_try_again_does_the_same(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run stays one, and a publication without verification, too."""
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(
        PublishError, match=r"to try again: hf-transfer publish \S+ someone/pets --dry_run --no_verify$"
    ):
        ht.publish(tmp_path, "someone/pets", dry_run=True, verify=False)


def test_pull_request_into_what_is_there(hub: HubServer, tmp_path: Path) -> None:
    """A repository that holds something gets a pull request; with create_pr=False, a commit that keeps foreign files
    and takes away the weights that an earlier publication left."""
    theirs = hub.repositories["someone/pets"] = Repository("someone/pets", private=True)
    theirs.put("notes.md", b"mine")
    theirs.put("model-00001-of-00002.safetensors", b"old")
    folder = finished_run(tmp_path / "run")
    made = ht.publish(folder, "someone/pets", verify=False)
    assert made.pull_request == 1 and made.url == f"{hub.url}/someone/pets/discussions/1"
    assert set(theirs.files("refs/pr/1")) == PUBLISHED | {"notes.md"} and "config.json" not in theirs.files()
    ht.publish(folder, "someone/pets", create_pr=False, verify=False)
    assert set(theirs.files()) == PUBLISHED | {"notes.md"}


def test_publishing_twice_makes_no_second_commit(hub: HubServer, tmp_path: Path) -> None:
    """The same folder again finds everything there: no commit, no pull request."""
    folder = finished_run(tmp_path / "run")
    made = [ht.publish(folder, "pets", create_pr=pr, verify=False) for pr in (None, None, False)]
    theirs = hub.repositories["someone/pets"]
    assert len({one.revision for one in made}) == 1 and len(theirs.commits) == 2 and not theirs.pull_requests


def test_publishing_twice_opens_no_second_pull_request(hub: HubServer, tmp_path: Path) -> None:
    """An open pull request of ours with the same content is found; a closed one, somebody else's, or one with other
    content is not."""
    theirs = hub.repositories["someone/pets"] = Repository("someone/pets", private=True)
    theirs.put("notes.md", b"mine")
    folder = finished_run(tmp_path / "run")

    def number(**options: str) -> int | None:
        return ht.publish(folder, "pets", verify=False, **options).pull_request  # type: ignore[arg-type]

    assert [number(), number()] == [1, 1] and theirs.pull_requests == 1
    assert number(license="mit") == 2
    theirs.closed.add(1)
    assert number() == 3
    theirs.authors[3] = "stranger"
    assert number() == 4


@pytest.mark.parametrize("timm", [False, True], ids=["transformers", "timm"])
def test_card_pins_what_was_published(hub: HubServer, tmp_path: Path, timm: bool) -> None:
    """The examples of the card pin a tag that is on the commit; other content has another tag, and the old one stays;
    a pull request, whose commit is not what main will be, has none."""
    folder = finished_run(tmp_path / "run", timm)
    dry = ht.publish(folder, "pets", dry_run=True)
    first = ht.publish(folder, "pets", verify=False)
    theirs = hub.repositories["someone/pets"]
    assert theirs.tags == {first.tag: first.revision} and dry.tag == first.tag
    card = theirs.files(str(first.tag))["README.md"].content.decode()
    assert f'    model="someone/pets",\n    revision="{first.tag}",\n)' in card
    assert (f'"hf-hub:someone/pets@{first.tag}"' in card) == timm
    second = ht.publish(folder, "pets", create_pr=False, verify=False, license="mit")
    assert theirs.tags == {first.tag: first.revision, second.tag: second.revision} and first.tag != second.tag
    asked = ht.publish(folder, "pets", verify=False, license="apache-2.0")
    assert asked.tag is None and "run-" not in theirs.files("refs/pr/1")["README.md"].content.decode()


def test_edits_on_the_hub_are_kept(hub: HubServer, tmp_path: Path) -> None:
    """What a user wrote into the published card, between the marks and into its metadata, is in the next one, too; the
    run's own text and results are new, and examples that are gone are not named."""
    folder = finished_run(tmp_path / "run")
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    ht.publish(folder, "pets", verify=False, widget_images=[tmp_path / "cat.png"])
    theirs = hub.repositories["someone/pets"]
    card = theirs.files()["README.md"].content.decode()
    card = card.replace("start -->\n<!--", "start -->\nMine.\n<!--").replace("---\n", "---\nthumbnail: t.png\n", 1)
    theirs.put("README.md", card.replace("## How to use", "## Changed").encode())
    ht.publish(folder, "pets", verify=False, create_pr=False)
    again = theirs.files()["README.md"].content.decode()
    assert "start -->\nMine.\n<!--" in again and metadata(again)["thumbnail"] == "t.png"
    assert "## How to use" in again and "widget" not in metadata(again)


def test_tag_on_other_files(hub: HubServer, tmp_path: Path) -> None:
    """A tag of that name which somebody set on other files is told, and not moved."""
    folder = finished_run(tmp_path / "run")
    tag = ht.publish(folder, "pets", dry_run=True).tag
    theirs = hub.repositories["someone/pets"] = Repository("someone/pets", private=True)
    theirs.tags[str(tag)] = theirs.refs["main"]
    with pytest.raises(PublishError, match="is on other files"):
        ht.publish(folder, "pets", verify=False)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{\n "a": "/home/anna/pictures/cat.jpg"\n}', "eval_results.json, line 2: an absolute local path"),
        ('{"a": "hf_' + "a" * 34 + '"}', "eval_results.json, line 1: an access token"),
        ('{"a": "userxname"}', "eval_results.json, line 1: the name of this machine's user"),
        ('{"a": "userxname_pets"}', "eval_results.json, line 1: the name of this machine's user"),
        ('{"a": "my-UserXname.jpg"}', "eval_results.json, line 1: the name of this machine's user"),
    ],
)
def test_private_content_is_refused(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, what: str
) -> None:
    """A local path, a token or the user's name is refused with file and line, and nothing is sent."""
    monkeypatch.setenv("LOGNAME", "userxname")
    folder = finished_run(tmp_path / "run")
    (folder / "eval_results.json").write_text(line)
    with pytest.raises(OutputError, match=what) as caught:
        ht.publish(folder, "pets")
    assert hub.writes() == [] and "aaaa" not in str(caught.value)


@pytest.mark.parametrize("image", ["![x](figures/gone.png)", '<img src="cat.jpg">', "![y](./notes/a%20b.png)"])
def test_images_of_the_card_resolve(hub: HubServer, tmp_path: Path, image: str) -> None:
    """A card that shows an image which is not sent is refused; images on the web, and those that are sent, are not."""
    folder = finished_run(tmp_path / "run")
    (folder / "run.json").unlink()
    fine = "![a](figures/confusion_matrix.png) ![b](https://example.org/x.png)"
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n# x\n{fine}\n")
    assert "README.md" in ht.publish(folder, "pets", dry_run=True).files
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n# x\n{fine}\n{image}\n")
    with pytest.raises(PublishError, match="images that would not be published"):
        ht.publish(folder, "pets")
    assert hub.writes() == []


def test_links_are_not_followed(hub: HubServer, tmp_path: Path) -> None:
    """A link with an allowed name could lead to any file of the machine: it is left out."""
    folder = finished_run(tmp_path / "run")
    (tmp_path / "secret").write_text("{}")
    (folder / "all_results.json").symlink_to(tmp_path / "secret")
    assert "all_results.json" not in ht.publish(folder, "pets", dry_run=True).files


def test_token_as_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The command takes no token, and does not repeat it."""
    assert main(["publish", "run", "pets", "--token", TOKEN]) == 1
    said = capsys.readouterr().err
    assert "HF_TOKEN" in said and TOKEN not in said


def test_wrong_logits_are_an_error(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published model that answers otherwise than the folder is an error that names the revision."""
    folder = finished_run(tmp_path / "run")
    script = tmp_path / "script.py"
    script.write_text('print(\'{"difference": 0.25, "labels_agree": true, "results": 1}\')')
    monkeypatch.setattr(verification, "_SCRIPT", script)
    with pytest.raises(PublishError, match=r"differ by 2\.5e-01") as caught:
        ht.publish(folder, "pets")
    assert hub.repositories["someone/pets"].refs["main"] in str(caught.value)
