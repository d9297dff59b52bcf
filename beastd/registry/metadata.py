"""Reads a GGUF's key-value pairs: small values are kept, large ones only counted."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from beastd.registry.header import Omitted

if TYPE_CHECKING:
    from beastd.registry.cursor import Cursor
    from beastd.registry.header import Value

MAX_PAIRS = 2**14
MAX_KEY_BYTES = 2**16 - 1
MAX_STRING_BYTES = 2**20
"""A longer one is counted, not kept."""
MAX_ELEMENTS = 1024
"""An array with more is counted, not kept."""
MAX_KEPT_BYTES = 2**25
"""Keys and kept strings together."""
MAX_STRINGS = 2**23
"""Strings in all arrays together; the largest vocabularies have a million with their merges."""

_BOOL, _STRING = 7, 8
_SCALARS = {
    0: ("u8", Struct("<B")),
    1: ("i8", Struct("<b")),
    2: ("u16", Struct("<H")),
    3: ("i16", Struct("<h")),
    4: ("u32", Struct("<I")),
    5: ("i32", Struct("<i")),
    6: ("f32", Struct("<f")),
    _BOOL: ("bool", Struct("<B")),
    10: ("u64", Struct("<Q")),
    11: ("i64", Struct("<q")),
    12: ("f64", Struct("<d")),
}
_ARRAY = 9
_LEAST_PAIR_BYTES = 8 + 1 + 4 + 1


def read_metadata(cursor: Cursor, n_pairs: int) -> dict[str, Value]:
    """The pairs at the cursor. Raises BadModel."""
    cursor.check_count("metadata entries", n_pairs, MAX_PAIRS, _LEAST_PAIR_BYTES)
    return _Reader(cursor).pairs(n_pairs)


class _Reader:
    """Keeps count of what is kept and walked."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._n_kept_bytes = 0
        self._n_strings = 0

    def pairs(self, n: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for _ in range(n):
            key = self._cursor.text(MAX_KEY_BYTES, "a metadata key")
            if not key or key in found:
                raise self._cursor.broken(f"metadata key '{key[:80]}' is empty or given twice")
            self._keep(len(key))
            found[key] = self._value(key, self._cursor.u32())
        return found

    def _value(self, key: str, kind: int) -> Value:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(key, self._cursor.u32(), self._cursor.u64())
        if kind not in _SCALARS:
            raise self._cursor.broken(f"metadata '{key[:80]}' has type {kind}, which GGUF does not have")
        return self._scalar(kind)

    def _array(self, key: str, kind: int, n: int) -> Value:
        what = f"elements of metadata '{key[:80]}'"
        if kind == _STRING:
            self._n_strings += n
            self._cursor.check_count(what, n, MAX_STRINGS - self._n_strings + n, 8)
            return self._strings(n)
        if kind not in _SCALARS:
            raise self._cursor.broken(f"{what} have type {kind}, which llama.cpp does not read in arrays")
        n_bytes = _SCALARS[kind][1].size
        self._cursor.check_count(what, n, self._cursor.n_left, n_bytes)
        if n <= MAX_ELEMENTS:
            return [self._scalar(kind) for _ in range(n)]
        self._cursor.skip(n * n_bytes)
        return Omitted(_SCALARS[kind][0], n)

    def _strings(self, n: int) -> list[str | Omitted] | Omitted:
        if n <= MAX_ELEMENTS:
            return [self._string() for _ in range(n)]
        self._cursor.skip_strings(n)
        return Omitted("string", n)

    def _string(self) -> str | Omitted:
        n_bytes = self._cursor.u64()
        if n_bytes > MAX_STRING_BYTES:
            self._cursor.skip(n_bytes)
            return Omitted("byte", n_bytes)
        self._keep(n_bytes)
        return self._cursor.take(n_bytes).decode(errors="replace")

    def _scalar(self, kind: int) -> int | float | bool:
        value: int | float = self._cursor.unpack(_SCALARS[kind][1])
        if kind != _BOOL:
            return value
        if value > 1:
            raise self._cursor.broken(f"a yes-or-no value is {value}")
        return bool(value)

    def _keep(self, n_bytes: int) -> None:
        self._n_kept_bytes += n_bytes
        if self._n_kept_bytes > MAX_KEPT_BYTES:
            raise self._cursor.broken(f"more than {MAX_KEPT_BYTES} bytes of metadata text")
