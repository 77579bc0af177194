"""What the local Hub answers; errors as the real one words them."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import yaml

from tests.helpers.hub_server.repositories import Blob, Repository, Token

if TYPE_CHECKING:
    from tests.helpers.hub_server.server import HubServer

_LFS_ENDINGS = (".safetensors", ".parquet", ".png")


class HttpError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass
class Request:
    """One request, with its path in parts."""

    method: str
    parts: tuple[str, ...]
    query: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """One answer; content that is not bytes is sent as JSON."""

    status: int
    content: Any
    headers: dict[str, str] = field(default_factory=dict)


def handle(hub: HubServer, request: Request) -> Answer:
    """Answer a request."""
    match (request.method, request.parts):
        case ("GET", ("api", "whoami-v2")):
            return _whoami(_token(hub, request))
        case ("POST", ("api", "validate-yaml")):
            return _validate(request)
        case ("POST", ("api", "repos", "create")):
            return _create(hub, request)
        case ("PUT", ("lfs", owner, name, oid)):
            return _put(hub.repositories[f"{owner}/{name}"], oid, request.body)
        case ("POST", ("lfs", owner, name, "verify")):
            known = request.json()["oid"] in _repository(hub, request, owner, name).lfs
            return Answer(200 if known else 404, {})
        case ("POST", (owner, git, "info", "lfs", "objects", "batch")):
            return _batch(hub, _repository(hub, request, owner, git.removesuffix(".git"), write=True), request)
        case ("POST", ("api", "models", owner, name, "preupload", revision)):
            return _preupload(_repository(hub, request, owner, name, write=True), revision, request)
        case ("POST", ("api", "models", owner, name, "commit", revision)):
            return _commit(hub, _repository(hub, request, owner, name, write=True), revision, request)
        case ("POST", ("api", "models", owner, name, "tag", revision)):
            return _tag(_repository(hub, request, owner, name, write=True), revision, request.json()["tag"])
        case ("GET", ("api", "models", owner, name, "xet-write-token" | "xet-read-token" as kind, _)):
            _repository(hub, request, owner, name, write=kind == "xet-write-token")
            if hub.xet is not None:
                return Answer(200, hub.xet.token(), hub.xet.token_headers())
        case ("GET", ("api", "models", owner, name)):
            return _info(_repository(hub, request, owner, name), "main")
        case ("GET", ("api", "models", owner, name, "revision", revision)):
            return _info(_repository(hub, request, owner, name), revision)
        case ("GET", ("api", "models", owner, name, "tree", revision, *_)):
            repository = _repository(hub, request, owner, name)
            return Answer(200, [_entry(p, b) for p, b in repository.commits[_oid(repository, revision)].items()])
        case ("GET", ("api", "datasets", owner, name)):
            return _info(_repository(hub, request, f"datasets/{owner}", name), "main")
        case ("GET", ("api", "datasets", owner, name, "revision", revision)):
            return _info(_repository(hub, request, f"datasets/{owner}", name), revision)
        case ("GET", ("api", "datasets", owner, name, "tree", revision, *folder)):
            return _tree(_repository(hub, request, f"datasets/{owner}", name), revision, "/".join(folder))
        case ("POST", ("api", "datasets", owner, name, "paths-info", revision)):
            wanted = [value for key, value in parse_qsl(request.body.decode()) if key == "paths"]
            return _paths(_repository(hub, request, f"datasets/{owner}", name), revision, wanted)
        case ("GET", ("api", "models", owner, name, "refs")):
            return _refs(_repository(hub, request, owner, name))
        case ("GET", ("api", "models", owner, name, "discussions")):
            return _discussions(_repository(hub, request, owner, name), dict(parse_qsl(request.query)))
        case ("GET" | "HEAD", ("datasets", owner, name, "resolve", revision, *path)):
            return _file(_repository(hub, request, f"datasets/{owner}", name), revision, "/".join(path), hub)
        case ("GET" | "HEAD", (owner, name, "resolve", revision, *path)):
            return _file(_repository(hub, request, owner, name), revision, "/".join(path), hub)
    raise HttpError(404, f"no route for {request.method} /{'/'.join(request.parts)}")


def _token(hub: HubServer, request: Request) -> Token:
    text = next((v for k, v in request.headers.items() if k.lower() == "authorization"), "").removeprefix("Bearer ")
    token = hub.tokens.get(text)
    if token is not None and token.requests_left is not None:
        token.requests_left -= 1
        if token.requests_left < 0:
            token = None
    if token is None:
        raise HttpError(401, "Invalid username or password.")
    return token


def _repository(hub: HubServer, request: Request, owner: str, name: str, write: bool = False) -> Repository:
    repository = hub.repositories.get(f"{owner}/{name}")
    if repository is not None and not repository.private and not write:
        return repository
    token = _token(hub, request)
    mine = owner == token.user or owner in token.organisations or token.may_write(owner, name)
    if repository is None or (repository.private and not mine):
        raise HttpError(404, "Repository not found", "RepoNotFound")
    if write and not token.may_write(owner, name):
        raise HttpError(403, "Forbidden: this token has no right to write to this repository")
    return repository


def _oid(repository: Repository, revision: str) -> str:
    oid = repository.resolve(revision)
    if oid is None:
        raise HttpError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return oid


def _whoami(token: Token) -> Answer:
    organisations = [{"name": name, "type": "org", "roleInOrg": "write"} for name in token.organisations]
    access: dict[str, Any] = {"displayName": "test", "role": token.role}
    if token.scoped is not None:
        entities = [({"_id": "0", "type": kind, "name": name}, has) for (kind, name), has in token.scoped.items()]
        scoped = [{"entity": entity, "permissions": list(has)} for entity, has in entities]
        access["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
    user = {"type": "user", "name": token.user, "fullname": token.user, "orgs": organisations}
    return Answer(200, user | {"auth": {"type": "access_token", "accessToken": access}})


def _validate(request: Request) -> Answer:
    content = request.json()["content"]
    try:
        data = yaml.safe_load(content.split("---")[1]) if content.startswith("---") else {}
        wrong = [] if isinstance(data.get("license", ""), str) else ['"license" must be a string']
        wrong += [] if isinstance(data.get("widget", []), list) else ['"widget" must be an array']
        if str(data.get("base_model", "")).startswith("/"):
            wrong.append('"base_model" with value is not valid. Use a model id from https://hf.co/models.')
    except yaml.YAMLError as error:
        wrong = [str(error)]
    return Answer(400 if wrong else 200, {"errors": [{"message": text} for text in wrong], "warnings": []})


def _create(hub: HubServer, request: Request) -> Answer:
    token, wanted = _token(hub, request), request.json()
    owner = wanted.get("organization") or token.user
    if not token.may_write(owner):
        raise HttpError(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
    repo_id = f"{owner}/{wanted['name']}"
    url = f"{hub.url}/{repo_id}"
    if repo_id in hub.repositories:
        return Answer(409, {"error": "You already created this model repo", "url": url})
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    hub.repositories[repo_id] = Repository(repo_id, private=private)
    return Answer(200, {"url": url, "name": repo_id, "id": "0"})


def _preupload(repository: Repository, revision: str, request: Request) -> Answer:
    files = repository.commits[_oid(repository, revision)]
    answers = []
    for file in request.json()["files"]:
        mode = "lfs" if file["path"].endswith(_LFS_ENDINGS) else "regular"
        known = {"oid": files[file["path"]].etag} if file["path"] in files else {}
        answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False} | known)
    return Answer(200, {"files": answers})


def _batch(hub: HubServer, repository: Repository, request: Request) -> Answer:
    objects = []
    for wanted in request.json()["objects"]:
        actions = {
            "upload": {"href": f"{hub.url}/lfs/{repository.id}/{wanted['oid']}"},
            "verify": {"href": f"{hub.url}/lfs/{repository.id}/verify"},
        }
        objects.append(wanted | ({} if wanted["oid"] in repository.lfs else {"actions": actions}))
    return Answer(200, {"transfer": "basic", "objects": objects})


def _put(repository: Repository, oid: str, content: bytes) -> Answer:
    if hashlib.sha256(content).hexdigest() != oid:
        raise HttpError(400, "the content is not what was announced")
    repository.lfs[oid] = content
    return Answer(200, {})


def _commit(hub: HubServer, repository: Repository, revision: str, request: Request) -> Answer:
    lines = [json.loads(line) for line in request.body.splitlines() if line]
    header = next(line["value"] for line in lines if line["key"] == "header")
    head = _oid(repository, revision)
    if header.get("parentCommit") not in (None, head):
        raise HttpError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repository.commits[head])
    for line in lines:
        value = line["value"]
        match line["key"]:
            case "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            case "lfsFile":
                if value["oid"] not in repository.lfs and hub.xet is not None:
                    repository.lfs |= {value["oid"]: sent} if (sent := hub.xet.content(value["oid"])) else {}
                if value["oid"] not in repository.lfs:
                    raise HttpError(400, f"{value['path']}: its content was not uploaded")
                files[value["path"]] = Blob(repository.lfs[value["oid"]], lfs=True)
            case "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise HttpError(404, "A file with this name doesn't exist", "EntryNotFound")
    ref = repository.open_pull_request(_token(hub, request).user) if "create_pr=1" in request.query else revision
    oid = repository.commit(ref, files, header["summary"])
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{repository.id}/commit/{oid}"}
    if ref != revision:
        answer["pullRequestUrl"] = f"{hub.url}/{repository.id}/discussions/{repository.pull_requests}"
    return Answer(200, answer)


def _info(repository: Repository, revision: str) -> Answer:
    oid = _oid(repository, revision)
    siblings = [
        {"rfilename": path, "size": len(blob.content), "blobId": blob.git_oid}
        | ({"lfs": {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": 130}} if blob.lfs else {})
        for path, blob in repository.commits[oid].items()
    ]
    facts: dict[str, Any] = {
        "_id": "0",
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.split("/")[0],
        "sha": oid,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "lastModified": "2025-01-01T00:00:00.000Z",
        "createdAt": "2025-01-01T00:00:00.000Z",
        "siblings": siblings,
    }
    card = repository.commits[oid].get("README.md")
    if card is not None and card.content.startswith(b"---"):
        facts["cardData"] = yaml.safe_load(card.content.decode().split("---\n")[1])
    return Answer(200, facts)


def _tag(repository: Repository, revision: str, name: str) -> Answer:
    if name in repository.tags:
        raise HttpError(409, f"Tag {name} already exists")
    repository.tags[name] = _oid(repository, revision)
    return Answer(200, {})


def _refs(repository: Repository) -> Answer:
    def listed(names: list[str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": n, "targetCommit": repository.refs[n]} for n in names]

    pulls = [name for name in repository.refs if name.startswith("refs/pr/")]
    branches = [name for name in repository.refs if name not in pulls]
    tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in repository.tags.items()]
    return Answer(200, {"branches": listed(branches), "tags": tags, "converts": [], "pullRequests": listed(pulls)})


def _discussions(repository: Repository, wanted: dict[str, str]) -> Answer:
    found = [
        {
            "title": "",
            "num": number,
            "author": {"name": author},
            "createdAt": "2025-01-01T00:00:00.000Z",
            "status": "closed" if number in repository.closed else "open",
            "repo": {"name": repository.id, "type": "model"},
            "isPullRequest": True,
        }
        for number, author in repository.authors.items()
    ]
    found = [one for one in found if one["status"] == wanted.get("status", one["status"])]
    found = [one for one in found if one["author"] == {"name": wanted["author"]}] if "author" in wanted else found
    return Answer(200, {"count": len(found), "start": 0, "discussions": found})


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    size = len(blob.content)
    entry: dict[str, Any] = {"type": "file", "oid": blob.git_oid, "size": size, "path": path}
    return entry | ({"lfs": {"oid": blob.sha256, "size": size, "pointerSize": 130}} if blob.lfs else {})


def _tree(repository: Repository, revision: str, folder: str) -> Answer:
    """All that is below a folder, which the real Hub lists where it is asked to go down."""
    files = repository.commits[_oid(repository, revision)]
    inside = {path: blob for path, blob in files.items() if not folder or path.startswith(f"{folder}/")}
    if not inside:
        raise HttpError(404, "Entry not found", "EntryNotFound")
    return Answer(200, [_entry(path, blob) for path, blob in inside.items()])


def _paths(repository: Repository, revision: str, wanted: list[str]) -> Answer:
    files = repository.commits[_oid(repository, revision)]
    return Answer(200, [_entry(path, files[path]) for path in wanted if path in files])


def _file(repository: Repository, revision: str, path: str, hub: HubServer) -> Answer:
    oid = _oid(repository, revision)
    blob = repository.commits[oid].get(path)
    if blob is None:
        raise HttpError(404, "Entry not found", "EntryNotFound")
    headers = {"X-Repo-Commit": oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if blob.lfs:
        headers |= {"X-Linked-Size": str(len(blob.content)), "X-Linked-ETag": f'"{blob.sha256}"'}
        if hub.xet is not None and (found := hub.xet.hashes().get(blob.sha256)):
            route = f"{hub.url}/api/models/{repository.id}/xet-read-token/{oid}"
            headers |= {"X-Xet-Hash": found, "Link": f'<{route}>; rel="xet-auth"'}
    return Answer(200, blob.content, headers)
