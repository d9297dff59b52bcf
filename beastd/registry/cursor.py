"""Bounded sequential reads from files nobody vouches for: every length is checked before it is believed."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, BinaryIO, Literal

from beastd.errors import BadModel

if TYPE_CHECKING:
    from typing import Any

WINDOW_BYTES = 256 * 1024

Resource = Literal["header bytes", "metadata entries", "kept text bytes", "kept elements", "strings", "tensors"]
"""What reading a header costs. Text and elements are kept in memory; strings of large arrays are only walked past."""

MOST: dict[Resource, int] = {
    "header bytes": 2**27,
    "metadata entries": 2**12,
    "kept text bytes": 2**23,
    "kept elements": 2**15,
    "strings": 3 * 2**19,
    "tensors": 2**15,
}
"""What one model may ask for, all its shards together: reading all of it takes under a second and 100 MB.

The largest models have a million strings (tokens and merges), 10,000 tensors, 100 entries and 40 MB of header.
"""

_U32 = Struct("<I")
_U64 = Struct("<Q")


class Cursor:
    """A place in a stream of known size. What lies beyond the size, or is cut off, is BadModel.

    The stream is read in windows, not mapped: a mapped file that shrinks under its reader is a SIGBUS.
    """

    def __init__(self, stream: BinaryIO, size_bytes: int, what: str, allowance: dict[Resource, int]) -> None:
        self.size_bytes = size_bytes
        self.what = what
        """Names the file in messages."""
        self._stream = stream
        self._allowance = allowance
        """What is left of MOST; shared by the cursors of all shards."""
        self._window = b""
        self._window_start = 0
        self._at = 0
        """Index in the window of the next byte."""

    @property
    def position(self) -> int:
        """Bytes from the start of the file to the next one."""
        return self._window_start + self._at

    @property
    def n_left(self) -> int:
        """Bytes from here to the end."""
        return self.size_bytes - self.position

    def broken(self, problem: str) -> BadModel:
        """The error to raise for a problem at this place. What the file put into its text can steer no terminal."""
        shown = "".join(it if it.isprintable() else "\N{REPLACEMENT CHARACTER}" for it in problem)
        return BadModel(f"{self.what}: {shown} (near byte {self.position}); get or make the file again")

    def take(self, n_bytes: int) -> bytes:
        """The next bytes; the caller bounds how many it will hold."""
        self._fill(n_bytes)
        start, self._at = self._at, self._at + n_bytes
        return self._window[start : self._at]

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """The next values, laid out so."""
        self._fill(layout.size)
        start, self._at = self._at, self._at + layout.size
        return layout.unpack_from(self._window, start)

    def u32(self) -> int:
        """The next little-endian 32-bit count."""
        return int(self.unpack(_U32)[0])

    def u64(self) -> int:
        """The next little-endian 64-bit count."""
        return int(self.unpack(_U64)[0])

    def check_fit(self, what: str, n: int, least_bytes: int) -> None:
        """Refuse a claim of more things than fit here when each takes at least so many bytes."""
        if n * least_bytes > self.n_left:
            raise self.broken(f"{n} {what} are claimed, but only {self.n_left} bytes are left")

    def spend(self, resource: Resource, n: int) -> None:
        """Take so much from the model's allowance, or refuse."""
        left = self._allowance[resource] = self._allowance[resource] - n
        if left < 0:
            raise self.broken(f"the model has more than {MOST[resource]} {resource}, the most Beast reads")

    def text(self, most_bytes: int, what: str) -> str:
        """The next length-prefixed string: UTF-8, no NUL, at most so many bytes."""
        n_bytes = self.u64()
        if n_bytes > most_bytes:
            raise self.broken(f"{what} claims {n_bytes} bytes, at most {most_bytes} are taken")
        try:
            found = self.take(n_bytes).decode()
        except UnicodeDecodeError as e:
            raise self.broken(f"{what} is not UTF-8") from e
        if "\0" in found:
            raise self.broken(f"{what} holds a NUL")
        return found

    def skip(self, n_bytes: int) -> None:
        """Move on without reading."""
        self._check(n_bytes)
        self._at += n_bytes
        if self._at > len(self._window):
            self._move_window()
            self._stream.seek(self._window_start)

    def skip_strings(self, n: int) -> None:
        """Move past length-prefixed strings without making an object of any: 150,000 in 25 ms."""
        length_of = _U64.unpack_from
        while n:
            self._fill(_U64.size)
            window, at, last = self._window, self._at, len(self._window) - _U64.size
            while n and at <= last:
                at += _U64.size + length_of(window, at)[0]
                n -= 1
            self.skip(at - self._at)

    def _fill(self, n_bytes: int) -> None:
        if len(self._window) - self._at >= n_bytes:
            return
        self._check(n_bytes)
        rest = self._window[self._at :]
        self._move_window()
        self._window = rest + self._stream.read(min(max(n_bytes, WINDOW_BYTES), self.n_left) - len(rest))
        if len(self._window) < n_bytes:
            raise self.broken("the file became shorter while it was read")

    def _check(self, n_bytes: int) -> None:
        if n_bytes > self.n_left:
            raise self.broken(f"{n_bytes} more bytes are claimed, {self.n_left} are left")

    def _move_window(self) -> None:
        """Begin an empty window here. A jump costs no less than a read: both are bounded by the header's length."""
        self.spend("header bytes", self._at)
        self._window_start, self._window, self._at = self.position, b"", 0
