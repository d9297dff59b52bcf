"""Replies as lines, over a socket that a test holds the other end of."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beastctl.client import Client, NoAnswer, NotRunning, Reply
from beastctl.wire import BadReply
from beastd.errors import BeastError, WorkerDied


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Reply]]:
    ours, theirs = socket.socketpair()
    with theirs, Reply(ours) as reply:
        yield theirs, reply


def reply_of(*values: Any, status: str = "200 OK") -> bytes:
    body = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_lines_come_one_object_at_a_time(ends: tuple[socket.socket, Reply]) -> None:
    """NDJSON becomes dicts."""
    ends[0].sendall(reply_of({"a": 1}, {"b": 2}))
    assert list(ends[1].lines()) == [{"a": 1}, {"b": 2}]


def test_waiting_gives_ticks(ends: tuple[socket.socket, Reply]) -> None:
    """A silent daemon leaves the screen its moments."""
    assert next(ends[1].lines()) is None


def test_an_error_line_becomes_its_class(ends: tuple[socket.socket, Reply]) -> None:
    """An error in mid-stream is raised as what it is, after what came before it."""
    ends[0].sendall(reply_of({"a": 1}, {"error": "gone", "code": "worker_died"}))
    lines = ends[1].lines()
    assert next(lines) == {"a": 1}
    with pytest.raises(WorkerDied, match="gone"):
        next(lines)


def test_an_error_status_with_foreign_body_is_an_error(ends: tuple[socket.socket, Reply]) -> None:
    """HTTP 404 without an error field does not pass as an answer."""
    ends[0].sendall(reply_of({"detail": "nope"}, status="404 Not Found"))
    with pytest.raises(BadReply, match="404"):
        list(ends[1].lines())


def test_text_that_is_no_json_is_an_error(ends: tuple[socket.socket, Reply]) -> None:
    """Garbage is named, not shown as an answer."""
    ends[0].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    with pytest.raises(BadReply, match="hello"):
        list(ends[1].lines())


def test_a_daemon_that_hangs_up_without_a_word_is_an_error(ends: tuple[socket.socket, Reply]) -> None:
    """No reply at all is not an empty reply."""
    ends[0].close()
    with pytest.raises(NoAnswer):
        list(ends[1].lines())


def test_a_cancelled_stream_ends_quietly(ends: tuple[socket.socket, Reply]) -> None:
    """Cancelling closes the stream for the daemon and raises nothing here."""
    ends[1].cancel()
    assert list(ends[1].lines()) == []
    assert ends[0].recv(1) == b""


def test_nobody_at_the_socket_is_not_running(tmp_path: Path) -> None:
    """A missing socket says that beastd is not running, and where it was looked for."""
    with pytest.raises(NotRunning, match=r"none\.sock"):
        Client(tmp_path / "none.sock").get("/healthz")


def test_errors_of_the_client_are_beast_errors() -> None:
    """The wall in main catches every one of them."""
    assert issubclass(NotRunning, BeastError)
    assert issubclass(NoAnswer, BeastError)
