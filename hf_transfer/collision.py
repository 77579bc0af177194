"""Detects that the retired Rust downloader `hf-transfer` shares, or has broken, our package folder.

Both distributions install `hf_transfer/__init__.py`. pip lets the later one overwrite the earlier one's without a
word, and uninstalling either deletes the file for both. This module reads the installed files only: it works whichever
`__init__.py` is in force, or none, and needs nothing but the standard library.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

OURS = "hf-transfer-learning"
DOWNLOADER = "hf-transfer"
NEITHER = "neither"

_INIT = PurePosixPath("hf_transfer/__init__.py")
# The downloader's file consists of this import of its compiled part; ours has no such line.
_DOWNLOADER_MARK = "from .hf_transfer import"


@dataclass(frozen=True)
class Collision:
    """Two distributions that claim the folder `hf_transfer`, or the damage that one of them left behind.

    Attributes:
        distributions: The distributions that are installed now, ours first.
        versions: Their versions, in the same order.
        init_in_force: Whose `hf_transfer/__init__.py` an `import hf_transfer` runs: the name of a distribution, or
            "neither" if the file is gone.
        repair: The shell command that leaves ours alone and whole.
    """

    distributions: tuple[str, ...]
    versions: tuple[str, ...]
    init_in_force: str
    repair: str

    def describe(self) -> str:
        """Say in two sentences what is wrong and what it does."""
        installed = " and ".join(f"{n} {v}" for n, v in zip(self.distributions, self.versions, strict=True))
        effect = {
            OURS: "ours is in force, but uninstalling the other one would delete it",
            DOWNLOADER: "the downloader's is in force, so `import hf_transfer` does not give this library",
            NEITHER: "the file is gone, so `import hf_transfer` gives an empty package",
        }[self.init_in_force]
        return f"Installed: {installed}. Ours and the retired downloader share hf_transfer/__init__.py: {effect}."

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain JSON types."""
        return {
            "distributions": list(self.distributions),
            "versions": list(self.versions),
            "init_in_force": self.init_in_force,
            "repair": self.repair,
        }


def detect(path: Sequence[str] | None = None) -> Collision | None:
    """Look for the retired downloader next to us, and for what its removal has broken.

    Args:
        path: Folders to look for installed distributions in, in import order. Default: `sys.path`.

    Returns:
        None when nothing is wrong: only ours is installed, with its `__init__.py`, or ours runs uninstalled and the
        downloader is not there.
    """
    search = list(sys.path if path is None else path)
    ours, downloader = _find(OURS, search), _find(DOWNLOADER, search)
    in_force = _init_in_force([found for found in (ours, downloader) if found], search)
    if downloader is None and (ours is None or not _owns_init(ours) or in_force == OURS):
        return None
    found = [(name, dist) for name, dist in ((OURS, ours), (DOWNLOADER, downloader)) if dist is not None]
    return Collision(
        distributions=tuple(name for name, _ in found),
        versions=tuple(dist.version for _, dist in found),
        init_in_force=in_force,
        repair=_repair(ours, downloader),
    )


def shorten_home(text: str) -> str:
    """Write the user's home folder as `~`, so that a report can be shown to others."""
    home = str(Path.home())
    # Not inside a longer name: /home/ann is no part of /home/anna.
    return text if home in ("", "/") else re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)


def _find(name: str, search: list[str]) -> metadata.Distribution | None:
    return next(iter(metadata.distributions(name=name, path=search)), None)


def _owns_init(distribution: metadata.Distribution) -> bool:
    """Whether a distribution placed the file itself: an editable installation only points at a source folder."""
    return any(PurePosixPath(file) == _INIT for file in distribution.files or ())


def _init_in_force(distributions: list[metadata.Distribution], search: list[str]) -> str:
    """Tell whose `__init__.py` comes first among the places where the distributions put one."""
    places = {Path(str(dist.locate_file(str(_INIT)))).resolve() for dist in distributions if _owns_init(dist)}
    for entry in search:
        file = (Path(entry) / _INIT).resolve()
        if file in places and file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            return DOWNLOADER if _DOWNLOADER_MARK in text else OURS
    return NEITHER


def _repair(ours: metadata.Distribution | None, downloader: metadata.Distribution | None) -> str:
    """Give the command that removes what is installed twice and puts ours back.

    Both are uninstalled before ours is installed: uninstalling the downloader afterwards would delete our file again.
    """
    if ours is None or not _owns_init(ours):
        return pip_command("uninstall", "-y", DOWNLOADER)
    install = pip_command("install", "--force-reinstall", "--no-deps", _requirement(ours))
    if downloader is None:
        return install
    return f"{pip_command('uninstall', '-y', DOWNLOADER, OURS)} && {install}"


def pip_command(command: str, *arguments: str) -> str:
    """Write a pip command for the running Python, or uv's where the environment has no pip.

    Args:
        command: "install" or "uninstall".
        *arguments: Options and requirements, unquoted.
    """
    if importlib.util.find_spec("pip") is None:
        options = [argument for argument in arguments if argument != "-y"]
        words = ["uv", "pip", command, "--python", sys.executable, *options]
    else:
        words = [sys.executable, "-m", "pip", command, *arguments]
    return " ".join(_shell_word(word) for word in words)


def _shell_word(word: str) -> str:
    """Quote a word for a shell; a leading `~/` stays outside of the quotes, where the shell expands it."""
    short = shorten_home(word)
    return f"~/{shlex.quote(short[2:])}" if short.startswith("~/") else shlex.quote(short)


def _requirement(ours: metadata.Distribution) -> str:
    """Say where ours came from (PEP 610): a local file or folder, a repository, or else the package index."""
    pinned = f"{OURS}=={ours.version}"
    origin = json.loads(ours.read_text("direct_url.json") or "{}")
    url = str(origin.get("url", ""))
    if url.startswith("file:"):
        from urllib.request import url2pathname  # Loads the whole HTTP client.

        place = Path(url2pathname(urlsplit(url).path))
        return str(place) if place.exists() else pinned
    if vcs := origin.get("vcs_info"):
        return f"{OURS} @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    return f"{OURS} @ {url}" if url else pinned
