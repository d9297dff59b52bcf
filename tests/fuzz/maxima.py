"""The costliest headers that are allowed, written piece by piece: making one takes less memory than reading it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ggufwriter import GgufWriter

from beastd.registry.cursor import MOST

SIZE_BYTES = 2**40
SHAPE, TENSOR_BYTES = (257, 259, 1, 1), 66592

g = GgufWriter()


@dataclass(frozen=True)
class Maximum:
    """A file on disk, mostly a hole."""

    path: Path
    size_bytes: int = SIZE_BYTES

    def open(self) -> BinaryIO:
        return self.path.open("rb", buffering=0)

    def save(self, path: Path) -> None:
        self.path.rename(path)


def write_maxima(folder: Path) -> Iterator[Maximum]:
    """Headers that hold as much as allowed: of everything at once, of bytes, of strings one after the other."""
    kinds = {"all": _everything(), "bytes": _bytes(), "strings": _far_strings()}
    for name, pieces in kinds.items():
        path = folder / f"maximum-{name}.gguf"
        with path.open("wb") as stream:
            for piece in pieces:
                if isinstance(piece, int):
                    stream.seek(piece, 1)
                else:
                    stream.write(piece)
            stream.truncate(SIZE_BYTES)
        yield Maximum(path)
        path.unlink(missing_ok=True)


Pieces = Iterable[bytes | int]
"""Bytes, and numbers of zeros."""


def _everything() -> Pieces:
    n_arrays, n_texts = MOST["kept elements"] // 1024, 7
    yield _head(MOST["tensors"], MOST["metadata entries"])
    yield b"".join(g.model())
    yield g.array("strings", "str", [], MOST["strings"])
    yield MOST["strings"] * 8
    for i in range(n_texts):
        yield g.pair(f"text{i}", "str", b"\xff" * (2**20 - 2**15))
    for i in range(n_arrays):
        yield g.array(f"words{i}", "str", ["é"] * 1024)
    for i in range(MOST["metadata entries"] - len(g.model()) - 1 - n_texts - n_arrays):
        yield g.pair(f"{i:04d}", "u8", 1)
    for i in range(MOST["tensors"]):
        yield g.tensor(f"{i:05d}" + "\N{GRINNING FACE}" * 14, SHAPE, 24, i * TENSOR_BYTES)


def _bytes() -> Pieces:
    yield _head(0, 1)
    yield g.raw("zeros", 9, struct.pack("<IQ", 0, MOST["header bytes"] - 2**10))


def _far_strings() -> Pieces:
    n, step = 1025, MOST["header bytes"] // 1026
    yield _head(0, 1)
    yield g.array("far", "str", [], n)
    for _ in range(n):
        yield struct.pack("<Q", step - 8)
        yield step - 8


def _head(n_tensors: int, n_pairs: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_pairs)
