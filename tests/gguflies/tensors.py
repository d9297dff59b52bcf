"""Lies about tensors: their names, shapes, types and places."""

from __future__ import annotations

import struct

from beastd.registry.ggml import TENSOR_TYPES
from gguflies.pieces import HUGE, NOT_UTF8, Lies, g


def alignments() -> Lies:
    """Alignments that divide by zero, wrap, or reach beyond any file."""
    for n in (0, 3, 31, 33, 48, 2**20 + 1, 2**21, 2**31, 2**32 - 1):
        yield f"alignment {n}", g.file([g.pair("general.alignment", "u32", n)]), f"alignment is {n}, not a power of two"
    coarse = [g.pair("general.alignment", "u32", 4096)]
    yield "offset of another alignment", g.file(coarse, [g.tensor("a", (8,)), g.tensor("b", (8,), 0, 32)]), "apart"
    yield "data of another alignment", g.file(coarse, n_data=64 * 10 * 4), "cut short"


def tensor_names() -> Lies:
    """Names that are none, or somebody else's."""
    yield "tensor without a name", g.file(tensors=[g.tensor("", (4,))]), "no name"
    yield "tensor name of 64 bytes", g.file(tensors=[g.tensor("t" * 64, (4,))]), "claims 64 bytes, at most 63"
    for name, n in HUGE.items():
        lie = g.text("t", n) + bytes(64)
        yield f"tensor name of {name} bytes", g.file(tensors=[lie]), f"tensor's name claims {n} bytes"
    for name, raw in NOT_UTF8.items():
        yield f"tensor name with {name}", g.file(tensors=[g.tensor(raw, (4,))]), "name is not UTF-8"
    yield "tensor name with a NUL", g.file(tensors=[g.tensor("a\0", (4,))]), "name holds a NUL"
    twice = [g.tensor("t", (8,)), g.tensor("t", (8,), 0, 32)]
    yield "tensor given twice", g.file(tensors=twice), "'t' is given twice"
    yield "tensor name that steers a terminal", g.file(tensors=[g.tensor("\x1b]0;x\a\n", (0,))]), "tensor '�"


def tensor_shapes() -> Lies:
    """Dimensions that are none, overflow, exceed the file or split a block."""
    for n_dims in (0, 5, 255, 2**31, 2**32 - 1):
        lie = g.text("t") + struct.pack("<I", n_dims) + bytes(64)
        yield f"{n_dims} dimensions", g.file(tensors=[lie]), f"{n_dims} dimensions"
    for at in range(4):
        for name, n in {"0": 0, **HUGE}.items():
            shape = tuple(n if i == at else 4 for i in range(4))
            yield f"dimension {at} of {name}", g.file(tensors=[g.tensor("t", shape)]), "can not have the shape"
    products = {"2^32 x 2^32": (2**32,) * 2, "2^16 four times": (2**16,) * 4, "2^63 x 2": (2**63, 2)}
    products |= {"2^62 x 4": (2**62, 4), "2^64-1 four times": (2**64 - 1,) * 4, "2^40": (2**40,)}
    for name, shape in products.items():
        yield f"shape of {name}", g.file(tensors=[g.tensor("t", shape)]), "can not have the shape"
    for number, kind in TENSOR_TYPES.items():
        for row in {kind.n_block - 1, kind.n_block + 1, kind.n_block // 2} - {0}:
            if row % kind.n_block:
                lie = g.tensor("t", (row, 2), number)
                yield f"row of {row} in {kind.name}", g.file(tensors=[lie]), f"can not have the shape .* in {kind.name}"
    for number in (4, 5, 31, 32, 33, 36, 37, 38, 43, 999, 2**31, 2**32 - 1):
        yield f"tensor type {number}", g.file(tensors=[g.tensor("t", (4,), number)]), f"has type {number}"


def tensor_places() -> Lies:
    """Data that overlaps, leaves gaps or lies outside."""
    for offset in (1, 31, 32, 64, 2**31, 2**32, 2**63, 2**64 - 32, 2**64 - 1):
        yield f"first tensor at {offset}", g.file(tensors=[g.tensor("t", (8,), 0, offset)]), f"'t' is at {offset}, over"
    for offset in (0, 4, 32, 252, 255, 257, 260, 288, 2**32, 2**64 - 256):
        pair = [g.tensor("a", (64,)), g.tensor("b", (64,), 0, offset)]
        yield f"second of 256 bytes at {offset}", g.file(tensors=pair), f"'b' is at {offset}, overlapping or apart"
    three = [g.tensor("a", (8,), 0, 32), g.tensor("b", (8,)), g.tensor("c", (8,), 0, 64)]
    yield "tensors out of order", g.file(tensors=three), "'a' is at 32"
    yield "data one byte short", g.file(n_data=64 * 10 * 4 - 1), "cut short"
    yield "no data", g.file(n_data=0), "can not have the shape|cut short"
    fit = [g.tensor("a", (2**13,)), g.tensor("b", (2**13,), 0, 2**15)]
    yield "each fits, both do not", g.file(tensors=fit, n_data=2**16 - 1), "cut short"
