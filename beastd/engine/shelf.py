"""Which entries of the KV tiers begin as a prompt does. Pure.

Tokens are compared as bytes (32 bits each, big-endian), in whose order prefixes are neighbours: whatever shares most
with a prompt stands next to the place where the prompt would stand.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from beastd.engine.kvstate import State
from beastd.kvfile import Meta

TOKEN_BYTES = 4
_MAX_LOOKS = 64
"""Entries looked at on either side of a prompt: beyond them nearly as good ones would have to be found by luck."""


@dataclass(slots=True, eq=False)
class Entry:
    """KV of a prefix, in memory or on disk."""

    meta: Meta
    tokens: bytes
    """Of the whole prefix; the state holds those from ``meta.start`` on."""
    n_bytes: int
    """Of the state."""
    state: State | None = None
    name: str = ""
    """Of its file, once there is one."""
    replaces: tuple[Entry, ...] = ()
    """Those with files that it makes superfluous once it has one."""
    is_queued: bool = False
    """Waits to be written."""
    is_gone: bool = False
    """Never to be used again, whoever still knows it."""

    @property
    def n_tokens(self) -> int:
        """Of the whole prefix."""
        return len(self.tokens) // TOKEN_BYTES


def packed(tokens: Sequence[int]) -> bytes:
    """Tokens as bytes that sort as they do."""
    return np.array(tokens, ">u4").tobytes()


class Shelf:
    """The entries of one model and one set of adapters; no two have the same tokens."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._entries: dict[bytes, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, entry: Entry) -> None:
        """One with other tokens than all that are here."""
        assert entry.tokens not in self._entries, "the same tokens twice"
        self._entries[entry.tokens] = entry
        insort(self._keys, entry.tokens)

    def remove(self, entry: Entry) -> None:
        """One that is here."""
        there = self._entries.pop(entry.tokens)
        assert there is entry
        del self._keys[bisect_left(self._keys, entry.tokens)]

    def same(self, tokens: bytes) -> Entry | None:
        """The entry of exactly these tokens."""
        return self._entries.get(tokens)

    def furthest(self, prompt: bytes, n_have: int) -> tuple[Entry, int] | None:
        """The entry of which the longest beginning is of use after ``n_have`` tokens, and how many tokens that is."""
        place = bisect_right(self._keys, prompt)
        before = self._nearest(reversed(self._keys[max(0, place - _MAX_LOOKS) : place]), prompt, n_have)
        after = self._nearest(islice(self._keys, place, place + _MAX_LOOKS), prompt, n_have)
        return max((found for found in (before, after) if found), key=_worth, default=None)

    def _nearest(self, keys: Iterable[bytes], prompt: bytes, n_have: int) -> tuple[Entry, int] | None:
        """The best of keys that share less and less with the prompt."""
        best: tuple[Entry, int] | None = None
        for key in keys:
            n = common_tokens(key, prompt)
            if n <= n_have or (best and n < best[1]):
                break
            found = (self._entries[key], n)
            if found[0].meta.start <= n_have and (best is None or _worth(found) > _worth(best)):
                best = found
        return best

    def beginnings(self, tokens: bytes) -> Iterator[Entry]:
        """The entries whose tokens these begin with, or are; the longest first."""
        while tokens and (place := bisect_right(self._keys, tokens)):
            key = self._keys[place - 1]
            n = common_tokens(key, tokens) * TOKEN_BYTES
            if n == len(key):
                yield self._entries[key]
                n -= TOKEN_BYTES
            tokens = tokens[:n]

    def continuations(self, tokens: bytes) -> Iterator[Entry]:
        """The entries that begin with these tokens, or are these."""
        for key in islice(self._keys, bisect_left(self._keys, tokens), None):
            if not key.startswith(tokens):
                return
            yield self._entries[key]


def common_tokens(one: bytes, other: bytes) -> int:
    """Tokens at the beginning of both."""
    n = min(len(one), len(other)) // TOKEN_BYTES
    differ = np.frombuffer(one, np.uint32, n) != np.frombuffer(other, np.uint32, n)
    first = int(differ.argmax()) if n else 0
    return first if n and differ[first] else n


def _worth(found: tuple[Entry, int]) -> tuple[int, bool, int]:
    """Of as many tokens, what is in memory comes sooner than a file, and a small state than a large one."""
    entry, n = found
    return n, entry.state is not None, -entry.n_bytes
