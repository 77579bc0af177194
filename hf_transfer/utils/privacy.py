"""Privacy: find what identifies a machine, its user or an account, and keep it out of what may be published."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hf_transfer.errors import OutputError

# A label such as "/m/01g317" is no path: only these directories count, and those that this machine has.
_TOP_DIRECTORIES = re.compile(
    "home|Users|root|tmp|var|mnt|media|opt|srv|usr|etc|data|work|workspace|content|kaggle|scratch|private|Volumes|"
    "lustre|gpfs|nfs"
)
_HOME_ITSELF = re.compile(r"(?:[A-Za-z]:)?[\\/]+(?:home|Users)[\\/]+[^\\/]+[\\/]*|~[^\\/]*[\\/]*")
_PRIVATE = {
    "an access token": re.compile(
        r"hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}"
        r"|(?<![A-Za-z0-9])(?:gh[opsru]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|sk-(?:proj-|ant-)?[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16})"
    ),
    "a path in a home directory": re.compile(r"(?<![\w/~])~[\w.-]*[\\/][^\s\"',;]*"),
    "an absolute local path": re.compile(
        # A slash after "://" starts the host of a URL, not a path, except in file URLs.
        r"(?:(?<![\w.~/:-])/+|(?<=:)/(?!/)|\bfile:/+)(?P<top>[\w.@+-]{1,64})/+[^\s\"',;/][^\s\"',;]*"
    ),
    "an absolute Windows path": re.compile(
        r"(?<![A-Za-z0-9])[A-Za-z]:(?:\\+|/(?!/))[^\s\"',;\\/][^\s\"',;]*|\\\\[\w.-]+\\[\w$.-][^\s\"',;]*"
    ),
    "a user name with a host": re.compile(r"(?<![\w/.@+-])[A-Za-z_][\w.+-]*@[A-Za-z][\w-]*(?:\.[\w-]+)*"),
}
_SECRET_FLAG = re.compile(r"-.*(?:^|[-_])(?:token|secret|passwords?|passwd|api_?key|access_?key)", re.IGNORECASE)


def sanitise_command(argv: Sequence[str]) -> str:
    """The command as typed, without what is private.

    Absolute paths are reduced to their last component, flags such as `--hub_token` are dropped with their value, and
    anything else that `check_private` would refuse is masked.

    Args:
        argv: As `sys.argv`; `.../package/__main__.py` becomes `python -m package`.
    """
    if not argv:
        return ""
    program = PurePosixPath(argv[0].replace("\\", "/"))
    start = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return _masked(shlex.join([*start, *(_reduced(word) for word in _without_secrets(argv[1:]))]))


def check_private(data: Any, key: str = "") -> None:
    """Refuse data that identify this machine, its user or an account.

    Args:
        data: Plain data; keys of dictionaries are checked, too.
        key: Name of the data in messages.

    Raises:
        OutputError: A text holds a home directory, an absolute local path, `user@host` or an access token. The message
            names the key, and never shows a token.
    """
    if isinstance(data, Mapping):
        for name, value in data.items():
            check_private(name, f"a key of {key or 'the record'}")
            check_private(value, f"{key}.{name}" if key else str(name))
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            check_private(value, f"{key}[{index}]")
    elif isinstance(data, str) and (found := _private_part(data)) is not None:
        what, match = found
        shown = "" if what == "an access token" else f", {match.group()!r}"
        raise OutputError(
            f"{key or 'The text'} holds {what}{shown}: expected nothing private in what may be published. Use a name "
            "instead, and withdraw any token that was written down."
        )


def private_text(text: str) -> str | None:
    """What in a text identifies this machine, its user or an account, such as "an access token"; None if nothing."""
    found = _private_part(text)
    return None if found is None else found[0]


def _private_part(text: str) -> tuple[str, re.Match[str]] | None:
    """The first part of a text that is private, and what it is."""
    for what, pattern in _PRIVATE.items():
        for match in pattern.finditer(text):
            top = match.groupdict().get("top")
            if top is None or _TOP_DIRECTORIES.fullmatch(top) or Path(f"/{top}").is_dir():
                return what, match
    return None


def _without_secrets(words: Sequence[str]) -> Iterator[str]:
    skip_value = False
    for word in words:
        if skip_value and not word.startswith("-"):
            skip_value = False
            continue
        skip_value = False
        flag, equals, _ = word.partition("=")
        if _SECRET_FLAG.fullmatch(flag):
            skip_value = not equals
        else:
            yield word


def _reduced(word: str) -> str:
    """A word of the command whose path, if it is an absolute one, is cut down to its last component."""
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    local = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute() or value.startswith("~")
    return f"{flag}{equals}{_last_component(value)}" if local else word


def _last_component(path: str) -> str:
    if _HOME_ITSELF.fullmatch(path):  # its last component is the user's name
        return "home"
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1] or path


def _masked(text: str) -> str:
    while (found := _private_part(text)) is not None:
        what, match = found
        masks = {"an access token": "TOKEN", "a user name with a host": "USER"}
        shown = masks.get(what) or _last_component(match.group())
        text = text[: match.start()] + shown + text[match.end() :]
    return text
