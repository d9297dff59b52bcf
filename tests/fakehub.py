"""A hub of our own for tests: it speaks the Hugging Face hub's API over HTTP, and fails as told.

Two listeners stand for the hub and for the CDN it redirects downloads to. Faults are queued for a file and used up one
a request; everything asked and every byte sent is counted.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter, defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE_BYTES = 16 * 1024

_INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_RANGE = re.compile(r"bytes=(?P<first>[0-9]+)-(?P<last>[0-9]*)")


@dataclass
class Fault:
    """What goes wrong with one answer."""

    status: int = 0
    """Answer with this instead of the file."""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    stall_after: int | None = None
    """Send nothing more after so many bytes, until ``FakeHub.go_on`` is set."""
    ignores_range: bool = False


@dataclass
class Repo:
    """A repository."""

    files: dict[str, bytes]
    card: dict[str, Any] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    announced: dict[str, str] = field(default_factory=dict)
    """False digests."""


@dataclass
class Asked:
    """One request."""

    is_cdn: bool
    method: str
    path: str
    headers: dict[str, str]

    @property
    def file(self) -> str:
        return unquote(urlsplit(self.path).path).rpartition("/")[2]

    @property
    def first_byte(self) -> int:
        match = _RANGE.fullmatch(self.headers.get("range", ""))
        return int(match["first"]) if match else 0


class FakeHub:
    """Use it as a context manager; ``endpoint`` is what HF_ENDPOINT should be."""

    token = "hf_right"

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.plain: dict[str, tuple[bytes, str]] = {}
        """Path on the CDN → content and ETag: an ordinary file server."""
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        """File (or "api") → what goes wrong with its next answers."""
        self.served: Counter[str] = Counter()
        """File → bytes of its content that were sent."""
        self.asked: list[Asked] = []
        self.pause_s = 0.0
        """Between two pieces: makes it slow."""
        self.go_on = threading.Event()
        self.stalled = threading.Event()
        """Set while an answer stalls."""
        self._hub = _Server(self, is_cdn=False)
        self._cdn = _Server(self, is_cdn=True)
        self.endpoint = f"http://127.0.0.1:{self._hub.server_port}"
        self.cdn = f"http://127.0.0.1:{self._cdn.server_port}"

    def __enter__(self) -> FakeHub:
        for server in (self._hub, self._cdn):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.go_on.set()
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    def downloads(self, file: str) -> list[Asked]:
        """The requests for a file's content."""
        return [asked for asked in self.asked if asked.is_cdn and asked.file == file]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: FakeHub, *, is_cdn: bool) -> None:
        self.hub = hub
        self.is_cdn = is_cdn
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed
            super().handle()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.hub.asked.append(Asked(self.server.is_cdn, self.command, self.path, headers))
        self._answer_cdn() if self.server.is_cdn else self._answer_hub()

    # --- the hub ---

    def _answer_hub(self) -> None:
        path = urlsplit(self.path).path
        if match := _INFO.fullmatch(path):
            self._info(match["repo"], unquote(match["revision"]))
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match["repo"], unquote(match["file"]))
        else:
            self._say(404, b"")

    def _info(self, name: str, revision: str) -> None:
        hub = self.server.hub
        if hub.faults["api"] and self._fails(hub.faults["api"].popleft()):
            return
        repo = hub.repos.get(name)
        if repo is None or (repo.private and not self._is_known()):
            self._say(404 if self._is_known() else 401, b"Repository not found", {"X-Error-Code": "RepoNotFound"})
        elif revision not in {"main", COMMIT}:
            self._say(404, b"Invalid rev id", {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [self._sibling(repo, file) for file in repo.files]
            body = {"id": name, "modelId": name, "sha": COMMIT, "private": repo.private, "siblings": siblings}
            body |= {"gated": "auto" if repo.gated else False, "cardData": repo.card, "tags": ["gguf"], "downloads": 7}
            self._say(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _sibling(self, repo: Repo, file: str) -> dict[str, Any]:
        data = repo.files[file]
        found: dict[str, Any] = {"rfilename": file, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
        if file.lower().endswith(".gguf"):
            digest = repo.announced.get(file) or hashlib.sha256(data).hexdigest()
            found["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 135}
        return found

    def _resolve(self, name: str, file: str) -> None:
        repo = self.server.hub.repos.get(name)
        if repo is None or (repo.private and not self._is_known()):
            self._say(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif repo.gated and not self._is_known():
            said = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {name} is restricted"}
            self._say(401, b"", said)
        elif file not in repo.files:
            self._say(404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})
        else:
            digest = hashlib.sha256(repo.files[file]).hexdigest()
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(repo.files[file]))}
            where = f"{self.server.hub.cdn}/repos/{name}/{file}?Signature=secret"
            self._say(302, b"", {"X-Repo-Commit": COMMIT, "Location": where, **linked})

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.hub.token}"

    # --- the CDN ---

    def _answer_cdn(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        _, _, user, name, file = (*path.split("/", 4), "", "", "", "")[:5]
        repo = hub.repos.get(f"{user}/{name}")
        if path in hub.plain:
            self._send(path.rpartition("/")[2], *hub.plain[path])
        elif repo and file in repo.files:
            self._send(file, repo.files[file], '"cdn"')
        else:
            self._say(404, b"")

    def _send(self, file: str, data: bytes, etag: str) -> None:
        hub = self.server.hub
        fault = hub.faults[file].popleft() if hub.faults[file] else Fault()
        if self._fails(fault):
            return
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match and not fault.ignores_range and self.headers.get("If-Range", etag) == etag:
            first, last = int(match["first"]), min(int(match["last"] or len(data) - 1), len(data) - 1)
            if first >= len(data):
                self._say(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status, said = 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        else:
            first, last, status, said = 0, len(data) - 1, 200, {}
        said |= {"ETag": etag} if etag else {}
        self._head(status, last - first + 1, {**said, **fault.headers})
        if self.command != "HEAD":
            self._pour(file, data[first : last + 1], fault)

    def _pour(self, file: str, body: bytes, fault: Fault) -> None:
        hub, sent = self.server.hub, 0
        while sent < len(body):
            if fault.stall_after is not None and sent >= fault.stall_after:
                hub.stalled.set()
                hub.go_on.wait(60)
                fault.stall_after = None
            limits = [len(body), sent + PIECE_BYTES, fault.cut_after, fault.stall_after]
            piece = body[sent : min(limit for limit in limits if limit is not None)]
            self.wfile.write(piece)
            sent += len(piece)
            hub.served[file] += len(piece)
            if fault.cut_after is not None and sent >= fault.cut_after:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if hub.pause_s:
                time.sleep(hub.pause_s)

    # --- answers ---

    def _fails(self, fault: Fault) -> bool:
        if fault.status:
            self._say(fault.status, b"no", fault.headers)
        return bool(fault.status)

    def _say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, n_bytes: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(n_bytes)} | headers).items():
            self.send_header(name, value)
        self.end_headers()
