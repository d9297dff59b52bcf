"""Lies in keys and values."""

from __future__ import annotations

import struct

from ggufwriter import LAYOUTS

from gguflies.pieces import HUGE, NOT_UTF8, Lies, g


def keys() -> Lies:
    """Keys and the types of their values."""
    yield "empty key", g.file([g.pair("", "u8", 1)]), "'' is empty or given twice"
    yield "key given twice", g.file([g.pair("k", "u8", 1), g.pair("k", "str", "x")]), "'k' is empty or given twice"
    yield "key given thrice, apart", g.file([g.pair(k, "u8", 1) for k in "abcb"]), "'b' is empty or given twice"
    yield "key of 65536 bytes", g.file([g.pair("k" * 2**16, "u8", 1)]), "claims 65536 bytes"
    for name, n in HUGE.items():
        yield f"key of {name} bytes", g.file([g.text("k", n)]), f"metadata key claims {n} bytes"
    yield "key beyond the end", g.file([g.text("k", 60_000)], [], n_data=100), "60000 more bytes are claimed"
    for name, raw in NOT_UTF8.items():
        yield f"key with {name}", g.file([g.pair(b"k" + raw, "u8", 1)]), "a metadata key is not UTF-8"
    for key in ("\0", "a\0b", "general.type\0"):
        yield f"key with a NUL: {key!r}", g.file([g.pair(key, "u8", 1)]), "a metadata key holds a NUL"
    yield "key that steers a terminal", g.file([g.raw("\x1b[2J\n\r", 99)]), "metadata '�"
    for kind in (13, 14, 99, 256, 2**31, 2**32 - 1):
        yield f"value of type {kind}", g.file([g.raw("k", kind)]), f"'k' has type {kind}"
        yield f"array of type {kind}", g.file([g.raw("k", 9, struct.pack("<IQ", kind, 1))]), f"have type {kind}"
    for n in (0, 1, 2**63):
        yield f"array of {n} arrays", g.file([g.raw("k", 9, struct.pack("<IQ", 9, n))]), "have type 9"
    nested = struct.pack("<IQ", 9, 1) * 5000
    yield "array nested 5000 deep", g.file([g.raw("k", 9, nested)]), "have type 9"


def values() -> Lies:
    """Values that are too long, or none of their type."""
    for name, n in {**HUGE, "2^64-8": 2**64 - 8, "10^6": 10**6}.items():
        yield f"string of {name}", g.file([g.raw("k", 8, g.text("x", n))]), "are left"
        yield f"string of {name} in an array", g.file([g.array("k", "str", [], 1) + g.text("x", n)]), "are left"
        many = g.array("k", "str", ["x"] * 1500, 1501) + struct.pack("<Q", n)
        yield f"string of {name} after many", g.file([many]), "are left"
    for value in (2, 127, 128, 255):
        yield f"boolean of {value}", g.file([g.raw("k", 7, bytes([value]))]), f"'k' is yes or no, .* {value}"
        one = g.raw("k", 9, struct.pack("<IQB", 7, 1, value))
        yield f"boolean of {value} in an array", g.file([one]), f"'k' is yes or no, .* {value}"


TYPES = {
    "adapter.alora.invocation_tokens": "array of u32",
    "adapter.lora.alpha": "f32",
    "adapter.type": "str",
    "general.alignment": "u32",
    "general.architecture": "str",
    "general.file_type": "u32",
    "general.type": "str",
    "split.count": "u16",
    "split.no": "u16",
    "split.tensors.count": "i32",
    "tokenizer.ggml.tokens": "array of str",
}


def types() -> Lies:
    """Every type but the right one for each key that llama.cpp reads as one type alone."""
    for key, right in TYPES.items():
        others = [g.model()[0]] if key != "general.architecture" else []
        for kind in [*LAYOUTS, "str"]:
            value = "32" if kind == "str" else 1
            written = {kind: g.pair(key, kind, value), f"array of {kind}": g.array(key, kind, [value])}
            for name, pair in written.items():
                if name != right:
                    yield (
                        f"{key} of {name}",
                        g.file([*others, pair]),
                        f"'{key}' is of type {name}.* reads it as {right}",
                    )
