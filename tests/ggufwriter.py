"""Writes small GGUF files, sound or broken at one place."""

from __future__ import annotations

import struct
from typing import Any

KINDS = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "array": 9}
KINDS |= {"u64": 10, "i64": 11, "f64": 12}
LAYOUTS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?"}
LAYOUTS |= {"u64": "Q", "i64": "q", "f64": "d"}


class GgufWriter:
    """Pieces of a GGUF file as bytes; ``file`` puts them together."""

    def text(self, value: str | bytes, n: int | None = None) -> bytes:
        """A string; ``n`` is a false length."""
        raw = value.encode() if isinstance(value, str) else value
        return struct.pack("<Q", len(raw) if n is None else n) + raw

    def value(self, kind: str, value: Any) -> bytes:
        return self.text(value) if kind == "str" else struct.pack("<" + LAYOUTS[kind], value)

    def pair(self, key: str | bytes, kind: str, value: Any) -> bytes:
        return self.text(key) + struct.pack("<I", KINDS[kind]) + self.value(kind, value)

    def raw(self, key: str | bytes, kind: int, value: bytes = bytes(8)) -> bytes:
        """A pair of any type and value, sound or not."""
        return self.text(key) + struct.pack("<I", kind) + value

    def array(self, key: str, kind: str, values: list[Any], n: int | None = None) -> bytes:
        """An array; ``n`` is a false count."""
        head = struct.pack("<IIQ", KINDS["array"], KINDS[kind], len(values) if n is None else n)
        return self.text(key) + head + b"".join(self.value(kind, it) for it in values)

    def tensor(self, name: str | bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
        return self.text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)

    def model(self, **changes: Any) -> list[bytes]:
        """The metadata of a two-layer llama, some of it changed (None leaves a key out; dots as double underscores)."""
        pairs = {"block_count": 2, "context_length": 128, "embedding_length": 64, "attention__head_count": 4}
        pairs |= {"attention__head_count_kv": 2} | changes
        found = [self.pair("general.architecture", "str", "llama")]
        for key, value in pairs.items():
            name = f"llama.{key.replace('__', '.')}"
            if isinstance(value, list):
                found.append(self.array(name, "i32", value))
            elif value is not None:
                found.append(self.pair(name, "u32", value))
        return found

    def file(
        self,
        pairs: list[bytes] | None = None,
        tensors: list[bytes] | None = None,
        *,
        magic: bytes = b"GGUF",
        version: int = 3,
        n_pairs: int | None = None,
        n_tensors: int | None = None,
        alignment: int = 32,
        n_data: int = 64 * 1024,
    ) -> bytes:
        """A file; without arguments a sound model of one tensor. Counts may be false."""
        pairs = self.model() if pairs is None else pairs
        tensors = [self.tensor("token_embd.weight", (64, 10))] if tensors is None else tensors
        counts = (len(tensors) if n_tensors is None else n_tensors, len(pairs) if n_pairs is None else n_pairs)
        head = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs + tensors)
        return head + bytes(-len(head) % alignment) + bytes(n_data)
