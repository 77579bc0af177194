"""The HTTP side of the local Hub: routes of the real API, for the unmodified `huggingface_hub`."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from tests.helpers.hub_server.faults import Fault
from tests.helpers.hub_server.repositories import Repository, Token
from tests.helpers.hub_server.routes import Answer, HttpError, Request, handle
from tests.helpers.hub_server.xet import XetStorage

_PACKED = re.compile(rb'"(?:content|sample)": ?"([A-Za-z0-9+/=]*)"')


class HubServer:
    """A Hub on a free port of 127.0.0.1.

    Attributes:
        tokens: Access tokens by their text.
        repositories: By id.
        faults: Tried in order, for each request.
        requests: Method and path of every request, in order.
        xet: Where large files go that the client sends by Xet; None for a Hub that has no such storage.
        verified: Revisions that a publication was verified at, in order, where the test asks one process for that.
        received: Every byte of every request but its `Authorization` header, in which the token must be; what came
            in base64, as small files do, also as it was before.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, Token] = {}
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.received = bytearray()
        self.xet: XetStorage | None = None
        self.verified: list[str] = []
        self.lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.hub = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[HubServer]:
        """Serve until the end of the block."""
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    def writes(self) -> list[tuple[str, str]]:
        """The requests that would change or send something."""
        return [(method, path) for method, path in self.requests if method not in ("GET", "HEAD")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        hub: HubServer = self.server.hub  # type: ignore[attr-defined]
        body = self._body()
        path = urlsplit(self.path).path
        with hub.lock:
            hub.requests.append((self.command, self.path))
            headers = "\n".join(f"{k}: {v}" for k, v in self.headers.items() if k.lower() != "authorization")
            hub.received += f"{self.command} {self.path}\n{headers}\n\n".encode() + body + b"\n"
            hub.received += b"".join(base64.b64decode(packed) + b"\n" for packed in _PACKED.findall(body))
            fault = next((f for f in hub.faults if f.matches(self.command, path)), None)
            if fault is not None and fault.action is not None:
                fault.action()
            if fault is not None and fault.drop and not fault.after:
                self._drop()
                return
            if fault is not None and fault.status is not None:
                self._answer(Answer(fault.status, {"error": "injected fault"}))
                return
            try:
                answer = handle(hub, self._request(body))
            except HttpError as error:
                headers_of_error = {"X-Error-Message": error.message} | (
                    {"X-Error-Code": error.code} if error.code else {}
                )
                answer = Answer(error.status, {"error": error.message}, headers_of_error)
        if fault is not None and fault.drop:
            self._drop()
            return
        self._answer(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _request(self, body: bytes) -> Request:
        split = urlsplit(self.path)
        parts = tuple(unquote(part) for part in split.path.strip("/").split("/"))
        return Request(self.command, parts, split.query, dict(self.headers.items()), body)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _answer(self, answer: Answer) -> None:
        content = answer.content if isinstance(answer.content, bytes) else json.dumps(answer.content).encode()
        status = answer.status
        headers = {"X-Request-Id": "local", **answer.headers}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and status == 200:
            start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
