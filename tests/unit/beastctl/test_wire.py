"""Reading an HTTP reply piece by piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastctl.wire import BadReply, ReplyReader, request_bytes

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"


def chunked(parts: list[bytes]) -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def feed_in_pieces(data: bytes, cuts: list[int]) -> tuple[bytes, ReplyReader]:
    reader, body, start = ReplyReader(), b"", 0
    for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        body += reader.feed(data[start:end])
        start = end
    return body, reader


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(min_value=0), max_size=12))
def test_a_chunked_body_is_the_same_however_it_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    """Chunks, their sizes and line breaks may arrive in any pieces."""
    body, reader = feed_in_pieces(chunked(parts), cuts)
    assert body == b"".join(parts)
    assert reader.is_complete
    assert reader.status == 200


@given(st.binary(max_size=80), st.lists(st.integers(min_value=0), max_size=6))
def test_a_body_with_a_length_ends_there(body: bytes, cuts: list[int]) -> None:
    """Nothing after Content-Length bytes is read as body."""
    data = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    got, reader = feed_in_pieces(data, cuts)
    assert got == body
    assert reader.is_complete


def test_a_chunk_is_released_before_it_is_whole() -> None:
    """A stream shows what has come, not what has come in whole chunks."""
    reader = ReplyReader()
    assert reader.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\nabc") == b"abc"
    assert not reader.is_complete


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        b"x" * 100_000,
    ],
)
def test_what_is_not_http_is_refused(data: bytes) -> None:
    """Another program on the socket ends in an error, not in a hang or a crash."""
    with pytest.raises(BadReply):
        ReplyReader().feed(data)


def test_a_request_carries_its_body_and_asks_to_close() -> None:
    """One connection, one request."""
    assert request_bytes("POST", "/api/show", b"{}").endswith(b"Content-Length: 2\r\n\r\n{}")
    assert b"Connection: close" in request_bytes("GET", "/healthz")
