"""Read one HTTP/1.1 reply piece by piece, so that the command line can stream without importing an HTTP library.

``http.client`` costs about 40 ms to import on a small machine, a quarter of what a command may take to start.
"""

from __future__ import annotations

from beastd.errors import BeastError

MAX_HEAD_BYTES = 64 * 1024
"""A longer status line and headers, or chunk size line, is not beastd's."""


class BadReply(BeastError):
    """What answered on the socket does not speak HTTP as beastd does."""

    code = "bad_reply"


def request_bytes(method: str, path: str, body: bytes = b"") -> bytes:
    """A whole HTTP/1.1 request for one connection that the server closes after its reply."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: */*\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode("ascii") + b"\r\n" + body


class ReplyReader:
    """Bytes of a reply in, bytes of its body out; however the bytes are cut, the body is the same."""

    def __init__(self) -> None:
        self.status = 0
        """HTTP status; 0 until the head is complete."""
        self.is_complete = False
        """The whole body has come. A body without a length ends only with the connection."""
        self._buffer = b""
        self._is_chunked = False
        self._n_left: int | None = None
        """Bytes still to come of this chunk, or of the body; None when not known."""

    def feed(self, data: bytes) -> bytes:
        """Take what the socket gave; return the part of the body it completes.

        Raises:
            BadReply: this is not an HTTP/1.1 reply.
        """
        self._buffer += data
        if not self.status and not self._read_head():
            return b""
        return self._read_chunks() if self._is_chunked else self._read_plain()

    def _read_head(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            self._bound()
            return False
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, _, after = status_line.partition(" ")
        if not version.startswith("HTTP/1.") or not after[:3].isdigit():
            raise BadReply(f"the socket answered {status_line[:60]!r}, which is not HTTP: is another program using it?")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._is_chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        if not self._is_chunked and "content-length" in headers:
            self._n_left = _size(headers["content-length"], 10)
        self.status = int(after[:3])
        self._buffer = rest
        return True

    def _read_plain(self) -> bytes:
        body, self._buffer = self._buffer, b""
        if self._n_left is not None:
            body = body[: self._n_left]
            self._n_left -= len(body)
            self.is_complete = self._n_left == 0
        return body

    def _read_chunks(self) -> bytes:
        body = b""
        while not self.is_complete:
            if self._n_left is None:
                line, end, rest = self._buffer.partition(b"\r\n")
                if not end:
                    self._bound()
                    break
                self._n_left, self._buffer = _size(line.partition(b";")[0].decode("latin-1"), 16) + 2, rest
                self.is_complete = self._n_left == 2
            elif len(self._buffer) < self._n_left:
                # All but the line break that ends the chunk can go out at once.
                ready = min(len(self._buffer), self._n_left - 2) if self._n_left > 2 else 0
                body, self._buffer = body + self._buffer[:ready], self._buffer[ready:]
                self._n_left -= ready
                break
            else:
                body, self._buffer = body + self._buffer[: self._n_left - 2], self._buffer[self._n_left :]
                self._n_left = None
        return body

    def _bound(self) -> None:
        if len(self._buffer) > MAX_HEAD_BYTES:
            raise BadReply("the socket answered with endless headers: is another program using it?")


def _size(text: str, base: int) -> int:
    try:
        size = int(text, base)
    except ValueError:
        size = -1
    if size < 0:
        raise BadReply(f"the socket answered with a broken length {text[:40]!r}: is another program using it?")
    return size
