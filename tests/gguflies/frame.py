"""Lies about the file as a whole: its format, its end, and how much of everything there is."""

from __future__ import annotations

import struct

from ggufwriter import KINDS

from beastd.registry.cursor import MOST
from gguflies.pieces import HUGE, Lies, g, rich


def beginnings() -> Lies:
    """Other formats, versions and byte orders."""
    sound = g.file()
    for n in (0, 1, 3, 4, 7, 8, 12, 16, 23):
        yield f"{n} bytes", sound[:n], "not a GGUF file"
    magics = {
        "zip": b"PK\3\4",
        "ggml": b"lmgg",
        "ggjt": b"tjgg",
        "lower case": b"gguf",
        "reversed": b"FUGG",
        "0": bytes(4),
    }
    for name, magic in magics.items():
        yield f"magic of {name}", g.file(magic=magic), "not a GGUF file"
    yield "a safetensors file", struct.pack("<Q", 64) + b'{"a":{}}' * 8, "not a GGUF file"
    yield "a web page", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not a GGUF file"
    for version in (1, 4, 255, 2**31 + 3, 2**32 - 1):
        yield f"version {version}", g.file(version=version), f"GGUF version {version}"
    for version in (0, 2**16, 0x02000000, 0x03000000):
        yield f"version {version:#x}", g.file(version=version), "big-endian"


def cuts() -> Lies:
    """A file that ends where one of its pieces does, and one byte before and after."""
    pieces, end = rich(), 0
    whole = b"".join(pieces)
    for no, piece in enumerate(pieces[:-1]):
        end += len(piece)
        for n in (end - 1, end, end + 1):
            yield f"cut after piece {no}, at {n}", whole[:n], "not a GGUF|claimed|are left|cut short"
    yield "one byte of data missing", whole[:-1], "cut short"


def counts() -> Lies:
    """Numbers of pairs, tensors and elements that are not there."""
    for name, n in HUGE.items():
        yield f"{name} pairs", g.file(n_pairs=n), f"{n} metadata entries are claimed"
        yield f"{name} tensors", g.file(n_tensors=n), f"{n} tensors are claimed"
        for kind in KINDS:
            if kind != "array":
                yield f"{name} elements of {kind}", g.file([g.array("k", kind, [], n)]), f"{n} elements of metadata 'k'"
    roomy = {"n_data": 2**21}
    for resource, pieces in (("metadata entries", "n_pairs"), ("tensors", "n_tensors")):
        n = MOST[resource] + 1
        yield f"more {resource} than allowed", g.file(**{pieces: n}, **roomy), f"more than {n - 1} {resource}"
    pairs = g.model()
    yield "one pair too few", g.file(n_pairs=len(pairs) - 1), "tensor .* has type"
    yield "one pair too many", g.file(n_pairs=len(pairs) + 1), "tensor's name claims"
    yield "no pairs", g.file(n_pairs=0), "dimensions"
    yield "one tensor too many", g.file(n_tensors=2), "no name"
    yield "tensors in an empty file", g.file([], [], n_tensors=2), "no name"
    for width in (2, 4, 8):
        kind = {2: "u16", 4: "f32", 8: "i64"}[width]
        for n in (2**64 // width, 2**64 // width + 1, 2**63 // width):
            yield f"{n} x {width} bytes, which wraps", g.file([g.array("k", kind, [], n)]), f"{n} elements of"
    short = g.file([g.array("k", "u8", [7] * 32, 33)], [], n_data=0, alignment=1)
    yield "one element too many", short, "33 elements of metadata 'k' are claimed, but only 32"
