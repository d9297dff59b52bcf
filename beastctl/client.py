"""Talk to beastd over its Unix socket: one JSON reply, or a stream of JSON lines."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from beastctl.wire import BadReply, ReplyReader, request_bytes
from beastd.errors import BeastError, from_code

TICK_S = 0.1
"""How often a stream that waits gives the screen a chance to move."""

CONNECT_S = 10.0
"""A daemon that does not take a request for this long is as good as none."""


class NotRunning(BeastError):
    """Nothing listens on the daemon's socket."""

    code = "not_running"


class NoAnswer(BeastError):
    """The daemon took the request and gave no (whole) reply."""

    code = "no_answer"
    retryable = True


class HungUp(NoAnswer):
    """The daemon closed the connection without a reply, as one does that is about to end."""


class Reply:
    """A streamed reply. Close it (or leave the ``with``) before its end, and beastd cancels the request."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(TICK_S)
        self._reader = ReplyReader()
        self._is_cancelled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def cancel(self) -> None:
        """End the stream now; safe from a signal handler. The loop over ``lines`` ends quietly."""
        self._is_cancelled = True
        with suppress(OSError):  # it may have ended by itself
            self._connection.shutdown(socket.SHUT_RDWR)

    @property
    def is_bare_success(self) -> bool:
        """The daemon did what it was asked for; where that is all it says, its reply has no line."""
        return self._reader.is_complete and 200 <= self._reader.status < 300

    def lines(self) -> Iterator[dict[str, Any] | None]:
        """JSON objects as they come, and None each ``TICK_S`` seconds that pass without one.

        Raises:
            BeastError: the daemon answered with an error, before or inside the stream, or stopped answering.
        """
        pending = b""
        while not self._reader.is_complete:
            data = self._receive()
            if data is None:
                yield None
                continue
            if not data:
                break
            *lines, pending = (pending + self._reader.feed(data)).split(b"\n")
            yield from (self._decode(line) for line in lines if line.strip())
        if pending.strip():
            yield self._decode(pending)
        if not self._is_cancelled and not self._reader.status:
            raise HungUp("beastd closed the connection without an answer; see `beast status` and its log")

    def _receive(self) -> bytes | None:
        try:
            return self._connection.recv(65536)
        except TimeoutError:
            return None
        except OSError:
            return b""

    def _decode(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise BadReply(f"beastd answered {line[:80]!r}, which is not a JSON object")
        if "error" in value:
            raise from_code(str(value.get("code", "")), str(value["error"]))
        if self._reader.status >= 400:
            raise BadReply(f"beastd answered HTTP {self._reader.status}: {line[:200]!r}")
        return value


class Client:
    """Requests to the daemon at ``path``; each opens its own connection."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, path: str, *, timeout_s: float = 10.0) -> dict[str, Any]:
        """The JSON object at ``path``.

        Raises:
            NotRunning: nothing listens.
            NoAnswer: no reply within ``timeout_s`` seconds.
            BeastError: the daemon's own error.
        """
        return self._whole(request_bytes("GET", path), timeout_s)

    def post(
        self, path: str, body: dict[str, Any], *, timeout_s: float = 10.0, on_tick: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """The JSON object that answers ``body``, empty when the daemon has nothing to say; raises as ``get`` does.

        ``on_tick`` is called each ``TICK_S`` seconds until it is there.
        """
        return self._whole(request_bytes("POST", path, json.dumps(body).encode()), timeout_s, on_tick)

    def delete(self, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = 10.0) -> dict[str, Any]:
        """The JSON object that answers a DELETE; raises as ``get`` does."""
        return self._whole(request_bytes("DELETE", path, json.dumps(body).encode() if body else b""), timeout_s)

    def stream(self, path: str, body: dict[str, Any] | None) -> Reply:
        """Send ``body`` (None: only ask for ``path``) and return the streamed reply at once; raises NotRunning."""
        asked = request_bytes("GET", path) if body is None else request_bytes("POST", path, json.dumps(body).encode())
        return Reply(self._send(asked))

    def _send(self, request: bytes) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_S)
        try:
            connection.connect(str(self._path))
            connection.sendall(request)
        except OSError as error:
            connection.close()
            raise NotRunning(f"beastd is not running (nothing answers at {self._path})") from error
        return connection

    def _whole(self, request: bytes, timeout_s: float, on_tick: Callable[[], None] | None = None) -> dict[str, Any]:
        n_ticks = 0
        with Reply(self._send(request)) as reply:
            for line in reply.lines():
                if line is not None:
                    return line
                n_ticks += 1
                if on_tick:
                    on_tick()
                if n_ticks * TICK_S >= timeout_s:
                    break
            if reply.is_bare_success:
                return {}
        raise NoAnswer(f"beastd did not answer within {timeout_s:.0f} s; see `beast status` and its log")
