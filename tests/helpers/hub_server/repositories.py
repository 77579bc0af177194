"""Repositories of the local Hub: commits as plain dictionaries from path to blob."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

_counter = itertools.count(1)


@dataclass
class Token:
    """An access token: whose, with which right ("read", "write", "fineGrained"), in which organisations, for how many
    requests. A fine-grained one has permissions by (type, name): ("user", "someone"), ("org", "lab"),
    ("model", "someone/pets"); None leaves the details out of `whoami`, and may write everywhere."""

    user: str
    role: str = "write"
    organisations: tuple[str, ...] = ()
    requests_left: int | None = None
    scoped: Mapping[tuple[str, str], tuple[str, ...]] | None = None

    def may_write(self, owner: str, name: str | None = None) -> bool:
        """Whether it may write to a repository; without a name: make any of an owner."""
        if self.role != "fineGrained" or self.scoped is None:
            return self.role != "read" and owner in (self.user, *self.organisations)
        places = [("user", owner), ("org", owner), ("resource-group", owner)]
        places += [("model", f"{owner}/{name}")] if name else []
        return any("repo.write" in self.scoped.get(place, ()) for place in places)


@dataclass(frozen=True)
class Blob:
    """Content of one file."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass
class Repository:
    """A model repository with its commits, references and pull requests.

    Attributes:
        authors: Of pull requests, by number.
        closed: Numbers of the pull requests that are not open.
    """

    id: str
    private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    history: list[tuple[str, str]] = field(default_factory=list)
    lfs: dict[str, bytes] = field(default_factory=dict)
    pull_requests: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    authors: dict[int, str] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not self.commits:
            self.commit("main", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}, "initial commit")

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, pull request, tag or hash means."""
        return self.refs.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)

    def commit(self, ref: str, files: Mapping[str, Blob], title: str) -> str:
        """Make a commit that holds exactly these files."""
        oid = hashlib.sha1(f"{self.id} {next(_counter)}".encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.refs[ref] = oid
        self.history.append((ref, title))
        return oid

    def put(self, path: str, content: bytes, ref: str = "main") -> str:
        """A commit by somebody else that writes one file."""
        return self.commit(ref, {**self.files(ref), path: Blob(content, False)}, f"write {path}")

    def files(self, revision: str = "main") -> dict[str, Blob]:
        """Files at a revision."""
        oid = self.resolve(revision)
        assert oid is not None
        return self.commits[oid]

    def open_pull_request(self, author: str) -> str:
        """The reference of a new pull request, from main."""
        self.pull_requests += 1
        self.authors[self.pull_requests] = author
        ref = f"refs/pr/{self.pull_requests}"
        self.refs[ref] = self.refs["main"]
        return ref
