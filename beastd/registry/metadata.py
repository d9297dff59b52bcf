"""Reads a GGUF's key-value pairs: small values are kept, large ones only counted."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from beastd.registry.header import Omitted

if TYPE_CHECKING:
    from beastd.registry.cursor import Cursor
    from beastd.registry.header import Value

MAX_KEY_BYTES = 2**16 - 1
MAX_STRING_BYTES = 2**20
"""A longer one is counted, not kept."""
MAX_ELEMENTS = 1024
"""An array with more is counted, not kept."""

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
_LEAST_STRING_BYTES = 8

_TYPES = {
    "adapter.alora.invocation_tokens": "array of u32",
    "adapter.lora.alpha": "f32",
    "adapter.type": "string",
    "general.alignment": "u32",
    "general.architecture": "string",
    "general.file_type": "u32",
    "general.type": "string",
    "split.count": "u16",
    "split.no": "u16",
    "split.tensors.count": "i32",
    "tokenizer.ggml.tokens": "array of string",
}
"""Keys that llama.cpp reads as one type alone. In adapters and shards it asserts it: another would end the worker."""


def read_metadata(cursor: Cursor, n_pairs: int) -> dict[str, Value]:
    """The pairs at the cursor. Raises BadModel."""
    cursor.check_fit("metadata entries", n_pairs, _LEAST_PAIR_BYTES)
    cursor.spend("metadata entries", n_pairs)
    found: dict[str, Value] = {}
    for _ in range(n_pairs):
        key = cursor.text(MAX_KEY_BYTES, "a metadata key")
        if not key or key in found:
            raise cursor.broken(f"metadata key '{key[:80]}' is empty or given twice")
        cursor.spend("kept text bytes", len(key))
        found[key] = _value(cursor, key)
    return found


def _value(cursor: Cursor, key: str) -> Value:
    kind = cursor.u32()
    if kind == _ARRAY:
        return _array(cursor, key, cursor.u32(), cursor.u64())
    if kind != _STRING and kind not in _SCALARS:
        raise cursor.broken(f"metadata '{key[:80]}' has type {kind}, which GGUF does not have")
    _check_type(cursor, key, _name(kind))
    return _string(cursor) if kind == _STRING else _scalar(cursor, key, kind)


def _array(cursor: Cursor, key: str, kind: int, n: int) -> Value:
    what = f"elements of metadata '{key[:80]}'"
    if kind != _STRING and kind not in _SCALARS:
        raise cursor.broken(f"{what} have type {kind}, which llama.cpp does not read in arrays")
    _check_type(cursor, key, f"array of {_name(kind)}")
    n_bytes = _LEAST_STRING_BYTES if kind == _STRING else _SCALARS[kind][1].size
    cursor.check_fit(what, n, n_bytes)
    if n <= MAX_ELEMENTS:
        cursor.spend("kept elements", n)
        return [_string(cursor) if kind == _STRING else _scalar(cursor, key, kind) for _ in range(n)]
    if kind == _STRING:
        cursor.spend("strings", n)
        cursor.skip_strings(n)
    else:
        cursor.skip(n * n_bytes)
    return Omitted(_name(kind), n)


def _check_type(cursor: Cursor, key: str, found: str) -> None:
    wanted = _TYPES.get(key, found)
    if found != wanted:
        raise cursor.broken(f"metadata '{key}' is of type {found}; llama.cpp reads it as {wanted} only")


def _name(kind: int) -> str:
    return "string" if kind == _STRING else _SCALARS[kind][0]


def _string(cursor: Cursor) -> str | Omitted:
    n_bytes = cursor.u64()
    if n_bytes > MAX_STRING_BYTES:
        cursor.skip(n_bytes)
        return Omitted("byte", n_bytes)
    cursor.spend("kept text bytes", n_bytes)
    return cursor.take(n_bytes).decode(errors="replace")


def _scalar(cursor: Cursor, key: str, kind: int) -> int | float | bool:
    value: int | float = cursor.unpack(_SCALARS[kind][1])[0]
    if kind != _BOOL:
        return value
    if value > 1:
        raise cursor.broken(f"metadata '{key[:80]}' is yes or no, but has the value {value}")
    return bool(value)
