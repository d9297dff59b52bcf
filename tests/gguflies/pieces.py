"""What all lies are made of."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO

from ggufwriter import LAYOUTS, GgufWriter

from beastd.registry.cursor import MOST, Resource
from beastd.registry.gguf import parse_header

Lies = Iterator[tuple[str, bytes, str]]

HUGE = {"2^31": 2**31, "2^32": 2**32, "2^63-1": 2**63 - 1, "2^63": 2**63, "2^64-1": 2**64 - 1}
"""Where counts and lengths of other readers turn negative, wrap, or overflow when something is added."""

NOT_UTF8 = {
    "lone continuation": b"\x80",
    "overlong NUL": b"\xc0\x80",
    "surrogate": b"\xed\xa0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "cut off": b"\xe2\x82",
}

g = GgufWriter()


def rich() -> list[bytes]:
    """Pieces of a sound header with everything in it; the last is the data."""
    pairs = [*g.model(), g.array("words", "str", ["a", "", "long" * 20]), g.array("heads", "u32", [1, 2, 3])]
    pairs += [g.pair(f"is.{kind}", kind, 1) for kind in LAYOUTS]
    tensors = [g.tensor("a", (256, 2), 12), g.tensor("b", (32, 2, 2, 2), 8, 288), g.tensor("c", (5,), 0, 576)]
    head = b"GGUF" + struct.pack("<I", 3)
    counts = [struct.pack("<Q", len(tensors)), struct.pack("<Q", len(pairs))]
    pieces = [head[:4], head[4:], *counts, *pairs, *tensors]
    n_padding = -sum(map(len, pieces)) % 32
    return [*pieces, bytes(n_padding), bytes(576 + 20)]


def spent(raw: bytes, resource: Resource) -> int:
    """How much of its allowance a sound file takes."""
    allowance = MOST.copy()
    parse_header(BytesIO(raw), len(raw), "sound.gguf", allowance)
    return MOST[resource] - allowance[resource]
