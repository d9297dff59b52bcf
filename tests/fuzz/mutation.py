"""Makes GGUF headers worth reading out of others: it knows where their counts, lengths and types are."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from random import Random
from struct import Struct
from typing import Any
from unittest.mock import patch

from gguflies import FAMILIES, rich

from beastd.errors import BadModel
from beastd.registry import gguf
from beastd.registry.cursor import Cursor

BUILTIN = Path(__file__).parents[2] / "beastd" / "builtin" / "cub"
REAL_BYTES = 512 * 1024
"""As much of a built-in file as holds its header."""
BOUNDARIES = [0, 1, 2, 7, 8, 9, 31, 32, 63, 64, 255, 256, 1023, 1024, 1025, 4096, 65535, 65536, 2**20, 2**20 + 1]
BOUNDARIES += [2**n + d for n in (15, 16, 21, 23, 27, 31, 32, 40, 61, 63, 64) for d in (-1, 0, 1)]

_CODES = re.compile(r"(\d*)([a-zA-Z?])")


@dataclass(frozen=True)
class Input:
    """A file: its beginning, and its size; what lies between is zeros."""

    head: bytes
    size_bytes: int
    places: list[tuple[int, int]] = field(default_factory=list, compare=False)
    """Where the reader found a number, and how many bytes it has."""

    def open(self) -> Sparse:
        return Sparse(self)

    def save(self, path: Path) -> None:
        path.write_bytes(self.head)
        os.truncate(path, self.size_bytes)


class Sparse(RawIOBase):
    """An Input as a stream."""

    def __init__(self, it: Input) -> None:
        super().__init__()
        self._it = it
        self._at = 0

    def read(self, n: int = -1) -> bytes:
        n = max(0, min(n, self._it.size_bytes - self._at))
        found = self._it.head[self._at : self._at + n]
        self._at += n
        return found + bytes(n - len(found))

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset
        return offset


def located(it: Input) -> Input:
    """The same, with the places of its numbers."""
    places: list[tuple[int, int]] = []

    class Noting(Cursor):
        def unpack(self, layout: Struct) -> tuple[Any, ...]:
            at = self.position
            for count, code in _CODES.findall(layout.format.lstrip("<")):
                for _ in range(int(count or 1)):
                    places.append((at, struct.calcsize(f"<{code}")))
                    at += places[-1][1]
            return super().unpack(layout)

    with patch.object(gguf, "Cursor", Noting), suppress(BadModel):
        gguf.parse_header(it.open(), it.size_bytes, "seed")
    return Input(it.head, it.size_bytes, [(at, n) for at, n in places if at + n <= len(it.head)])


def seeds() -> Iterator[Input]:
    """Sound files, every known lie, and the built-in models."""
    lies = (raw for family in FAMILIES for _, raw, _ in family())
    for raw in (b"".join(rich()), *lies):
        yield Input(raw.rstrip(b"\0"), len(raw))
    for path in sorted(BUILTIN.glob("*.gguf")):
        with path.open("rb") as stream:
            yield Input(stream.read(REAL_BYTES), path.stat().st_size)


def mutated(it: Input, other: Input, random: Random) -> Input:
    """One to eight changes."""
    head, size = bytearray(it.head), it.size_bytes
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        random.choice(_CHANGES)(head, it, other, random)
    if random.random() < 0.1:
        size = random.choice((len(head), len(head) + 32, size + random.randint(-40, 40), *BOUNDARIES))
    return Input(bytes(head), max(0, min(size, 2**62)))


def _boundary(head: bytearray, it: Input, _: Input, random: Random) -> None:
    """A number becomes one that other readers stumble over."""
    if it.places:
        at, n = random.choice(it.places)
        head[at : at + n] = (random.choice(BOUNDARIES) % 256**n).to_bytes(n, "little")


def _nudge(head: bytearray, it: Input, _: Input, random: Random) -> None:
    """A number becomes a little more or less."""
    if it.places:
        at, n = random.choice(it.places)
        value = int.from_bytes(head[at : at + n], "little") + random.choice((-32, -8, -1, 1, 8, 32))
        head[at : at + n] = (value % 256**n).to_bytes(n, "little")


def _move(head: bytearray, it: Input, other: Input, random: Random) -> None:
    """A number comes from elsewhere."""
    if it.places and other.places:
        (to, n), (at, _) = random.choice(it.places), random.choice(other.places)
        head[to : to + n] = other.head[at : at + n].ljust(n, b"\0")


def _flip(head: bytearray, _it: Input, _: Input, random: Random) -> None:
    if head:
        head[random.randrange(len(head))] ^= 1 << random.randrange(8)


def _insert(head: bytearray, it: Input, _: Input, random: Random) -> None:
    at = _somewhere(it, random)
    head[at:at] = random.randbytes(random.choice((1, 4, 8, 40)))


def _delete(head: bytearray, it: Input, _: Input, random: Random) -> None:
    at = _somewhere(it, random)
    del head[at : at + random.choice((1, 4, 8, 40))]


def _repeat(head: bytearray, it: Input, _: Input, random: Random) -> None:
    """A field, a pair or a tensor comes twice."""
    start, end = sorted((_somewhere(it, random), _somewhere(it, random)))
    head[end:end] = head[start : min(end, start + 4096)]


def _splice(head: bytearray, it: Input, other: Input, random: Random) -> None:
    """What follows comes from another file."""
    head[_somewhere(it, random) :] = other.head[_somewhere(other, random) :]


def _cut(head: bytearray, it: Input, _: Input, random: Random) -> None:
    del head[_somewhere(it, random) :]


def _somewhere(it: Input, random: Random) -> int:
    """Mostly where a number begins."""
    if it.places and random.random() < 0.8:
        return random.choice(it.places)[0]
    return random.randint(0, len(it.head))


_CHANGES = (
    _boundary,
    _boundary,
    _boundary,
    _nudge,
    _nudge,
    _move,
    _flip,
    _flip,
    _insert,
    _delete,
    _repeat,
    _splice,
    _cut,
)
