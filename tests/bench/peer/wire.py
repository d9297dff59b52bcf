"""A streamed POST over a raw TCP connection: the client shares two cores with what it measures, so it does little."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

STALL_S = 600.0
"""A server that sends nothing for so long has failed the request."""
HOST = "127.0.0.1"

OnLine = Callable[[bytes, float], None]
"""Hears each line of a reply and when it came (``time.perf_counter``)."""


class Reply(asyncio.Protocol):
    """One HTTP reply, cut into lines as it comes. A connection serves one request."""

    def __init__(self, request: bytes, on_line: OnLine) -> None:
        self._request = request
        self._on_line = on_line
        self._raw = b""
        self._line = b""
        self._is_chunked: bool | None = None
        """None until the head has come."""
        self.status = 0
        self.heard_s = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.heard_s = time.perf_counter()
        self._raw += data
        if self._is_chunked is None and not self._take_head():
            return
        if self._is_chunked:
            self._take_chunks()
        else:
            self._take_text(self._raw)
            self._raw = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._line:
            self._on_line(self._line, self.heard_s)
        if not self.ended.done():
            is_cut = bool(self._is_chunked) or not self.status
            self.ended.set_exception(exc or ConnectionError("it hung up in mid-answer")) if is_cut else (
                self.ended.set_result(None)
            )

    def close(self) -> None:
        """Hang up."""
        self.ended.cancel()
        self._transport.close()

    def _take_head(self) -> bool:
        head, end, rest = self._raw.partition(b"\r\n\r\n")
        if not end:
            return False
        self.status = int(head.split(b" ", 2)[1])
        self._is_chunked = b"transfer-encoding: chunked" in head.lower()
        self._raw = rest
        return True

    def _take_chunks(self) -> None:
        while (size_end := self._raw.find(b"\r\n")) >= 0:
            start = size_end + 2
            end = start + int(self._raw[:size_end], 16)
            if len(self._raw) < end + 2:
                return
            chunk, self._raw = self._raw[start:end], self._raw[end + 2 :]
            if not chunk:
                if not self.ended.done():
                    self.ended.set_result(None)
                return
            self._take_text(chunk)

    def _take_text(self, text: bytes) -> None:
        *lines, self._line = (self._line + text).split(b"\n")
        for line in lines:
            self._on_line(line, self.heard_s)


async def post(port: int, path: str, body: object, on_line: OnLine) -> int:
    """Send the body as JSON, hear the reply's lines, and return its HTTP status.

    Cancelling hangs up. Raises OSError when the connection fails, TimeoutError when the server falls silent.
    """
    data = json.dumps(body, separators=(",", ":")).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
    return await _exchange(
        port, f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data, on_line
    )


async def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of a GET. Raises as ``post``."""
    lines: list[bytes] = []
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode()
    status = await _exchange(port, request, lambda line, _: lines.append(line))
    return status, b"\n".join(lines).decode()


async def _exchange(port: int, request: bytes, on_line: OnLine) -> int:
    loop = asyncio.get_running_loop()
    _, reply = await loop.create_connection(lambda: Reply(request, on_line), HOST, port)
    try:
        while not reply.ended.done():
            heard_s = reply.heard_s
            await asyncio.wait([reply.ended], timeout=STALL_S)
            if reply.heard_s == heard_s and not reply.ended.done():
                raise TimeoutError(f"silent for {STALL_S:.0f} s")
        reply.ended.result()
    finally:
        reply.close()
    return reply.status
