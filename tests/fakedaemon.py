"""A daemon that answers what a test tells it to, over a real Unix socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = dict[str, Any] | Iterator[dict[str, Any]] | None
"""One JSON object, a stream of them, or an empty reply. An object with ``error`` comes with HTTP status 400."""


class FakeDaemon:
    """Routes such as ``"POST /api/pull"`` → a function of body and query that gives the answer."""

    def __init__(self) -> None:
        self.routes: dict[str, Callable[[dict[str, Any]], Answer]] = {"GET /healthz": lambda _: {"status": "ok"}}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        """What was asked, without health checks."""

    def says(self, route: str, *lines: dict[str, Any]) -> None:
        """Answer with one object, or with a stream when there are more."""
        self.routes[route] = lambda _: lines[0] if len(lines) == 1 else iter(lines)

    def asked(self, route: str) -> list[dict[str, Any]]:
        """Bodies (for a GET: the query) of the requests for a route."""
        return [body for asked, body in self.requests if asked == route]

    @contextmanager
    def serving(self, socket: Path) -> Iterator[None]:
        """Answer on ``socket`` while the block runs."""
        daemon = self

        class Handler(_Handler):
            fake = daemon

        with ThreadingUnixStreamServer(str(socket), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeDaemon

    def _answer(self) -> None:
        address = urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(data) if data else {name: value[0] for name, value in parse_qs(address.query).items()}
        route = f"{self.command} {address.path}"
        if route != "GET /healthz":
            self.fake.requests.append((route, body))
        if route not in self.fake.routes:
            self._send(404, {"error": f"the test has no {route}", "code": "model_not_found"})
            return
        answer = self.fake.routes[route](body)
        if answer is None or isinstance(answer, dict):
            self._send(400 if answer and "error" in answer else 200, answer)
        else:
            self._stream(answer)

    def _send(self, status: int, answer: dict[str, Any] | None) -> None:
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def _stream(self, lines: Iterator[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        try:
            for line in lines:
                data = json.dumps(line).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass  # the client left

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass
