"""The last look before anything is sent: secrets, local paths, and the names of the machine and its user."""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import get_token

from hf_transfer.errors import OutputError
from hf_transfer.utils.privacy import private_text

_TEXT = (".json", ".md", ".html", ".txt", ".yaml")
_TOKEN = re.compile(rb"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{30,}")
# Names that say nothing about anybody, and are words of CSS or of labels.
_COMMON = frozenset(
    {"root", "user", "users", "admin", "ubuntu", "debian", "home", "host", "localhost", "runner", "test"}
)
_SHORTEST_NAME = 4


def scan(folder: Path, files: Iterable[str], repo_id: str) -> None:
    """Refuse files that identify this machine, its user or an account.

    Args:
        folder: Holds the files.
        files: Relative to the folder.
        repo_id: The name of its owner may be that of the machine's user.

    Raises:
        OutputError: The message names each place by file and line, and never shows a secret.
    """
    names = _machine_names(repo_id)
    found = [place for name in files for place in _places(folder / name, name, names)]
    if found:
        raise OutputError(
            f"Nothing was uploaded, because the files hold private data: {'; '.join(found[:10])}"
            f"{f'; and {len(found) - 10} more' if len(found) > 10 else ''}. Take it out of the files, and withdraw "
            "any token that was written down."
        )


def check_names(text: str, repo_id: str) -> None:
    """Refuse, before a long training, text that `scan` would refuse when it is published.

    Args:
        text: Such as a run's command and labels.
        repo_id: The name of its owner may be that of the machine's user.

    Raises:
        OutputError: It names the machine or its user.
    """
    if found := _named(text, _machine_names(repo_id)):
        raise OutputError(
            f"The command, the labels or the name of the data hold {' and '.join(found)}, which would be published "
            "with the model. Rename them, or train without --push_to_hub."
        )


def _named(text: str, names: dict[str, str]) -> list[str]:
    """Which names a text holds; an underscore, dash or dot ends a word."""
    text = text.lower()
    return [what for what, name in names.items() if re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", text)]


def _places(path: Path, name: str, names: dict[str, str]) -> Iterator[str]:
    content = path.read_bytes()
    token, home = get_token(), str(Path.home())
    if path.suffix not in _TEXT:
        if _TOKEN.search(content) or (token and token.encode() in content):
            yield f"{name}: an access token"
        if home not in ("/", "/root") and home.encode() in content:
            yield f"{name}: the home directory"
        return
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        if token and token in line:
            yield f"{name}, line {number}: an access token"
        elif (what := private_text(line)) is not None:
            yield f"{name}, line {number}: {what}"
        else:
            yield from (f"{name}, line {number}: {what}" for what in _named(line, names))


def _machine_names(repo_id: str) -> dict[str, str]:
    """Names that must not be published, by what they are."""
    found = {}
    with contextlib.suppress(OSError, KeyError):  # a container may run under a number without a name
        found["the name of this machine's user"] = getpass.getuser().lower()
    found["the name of this machine"] = socket.gethostname().lower()
    public = _COMMON | set(repo_id.lower().split("/"))
    return {what: name for what, name in found.items() if len(name) >= _SHORTEST_NAME and name not in public}
