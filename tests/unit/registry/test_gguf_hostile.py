"""Files made to harm their reader: each lie is refused, naming what is wrong.

A new one is a line in HOSTILE: what it is called, how to write it, and what the error must say.
"""

from __future__ import annotations

import tracemalloc
from io import BytesIO

import pytest

from beastd.errors import BadModel
from beastd.registry.gguf import parse_header

HUGE = 2**63

HOSTILE = {
    "empty": (lambda g: b"", "not a GGUF file"),
    "other format": (lambda g: g.file(magic=b"PK\x03\x04"), "not a GGUF file"),
    "version 1": (lambda g: g.file(version=1), "version 1"),
    "version 4": (lambda g: g.file(version=4), "version 4"),
    "big endian": (lambda g: g.file(version=0x03000000), "big-endian"),
    "counts of 2^63": (lambda g: g.file(n_pairs=HUGE, n_tensors=0), "metadata entries are claimed"),
    "more pairs than bytes": (lambda g: g.file(n_pairs=16_000, n_data=0), "metadata entries are claimed"),
    "tensors of 2^63": (lambda g: g.file(n_tensors=HUGE), "tensors are claimed"),
    "more tensors than there are": (lambda g: g.file([], [], n_tensors=2), "no name"),
    "empty key": (lambda g: g.file([g.pair("", "u8", 1)]), "empty or given twice"),
    "key given twice": (lambda g: g.file([g.pair("k", "u8", 1), g.pair("k", "u8", 2)]), "'k' is empty or given twice"),
    "key of 2^63 bytes": (lambda g: g.file([g.text("k", HUGE)]), "claims 9223372036854775808 bytes"),
    "key not UTF-8": (lambda g: g.file([g.pair(b"\xff", "u8", 1)]), "not UTF-8"),
    "key with a NUL": (lambda g: g.file([g.pair("a\0b", "u8", 1)]), "NUL"),
    "unknown value type": (lambda g: g.file([g.text("k") + b"\x63\0\0\0" + bytes(8)]), "type 99"),
    "boolean of 2": (lambda g: g.file([g.text("k") + b"\x07\0\0\0\x02"]), "yes-or-no"),
    "string past the end": (lambda g: g.file([g.text("k") + b"\x08\0\0\0" + g.text("x", 10**6)]), "are left"),
    "string of 2^64-1": (lambda g: g.file([g.text("k") + b"\x08\0\0\0" + g.text("x", 2**64 - 1)]), "are left"),
    "array of 2^63": (lambda g: g.file([g.array("k", "u8", [], HUGE)]), "elements of metadata 'k'"),
    "array overflowing when multiplied": (lambda g: g.file([g.array("k", "u64", [], 2**61 + 1)]), "elements of"),
    "strings of 2^63": (lambda g: g.file([g.array("k", "str", [], HUGE)]), "elements of metadata 'k'"),
    "nested array": (lambda g: g.file([g.text("k") + b"\x09\0\0\0\x09\0\0\0" + bytes(8)]), "does not read in arrays"),
    "last string of many past the end": (
        lambda g: g.file([g.array("k", "str", ["x"] * 1500 + [b""], 1501)[:-8] + b"\xff" * 8]),
        "are left",
    ),
    "alignment 0": (lambda g: g.file([g.pair("general.alignment", "u32", 0)]), "general.alignment is 0"),
    "alignment 3": (lambda g: g.file([g.pair("general.alignment", "u32", 3)]), "not a power of two"),
    "alignment 2^31": (lambda g: g.file([g.pair("general.alignment", "u32", 2**31)]), "not a power of two"),
    "alignment true": (lambda g: g.file([g.pair("general.alignment", "bool", True)]), "not a power of two"),
    "alignment as text": (lambda g: g.file([g.pair("general.alignment", "str", "32")]), "not a power of two"),
    "tensor name too long": (lambda g: g.file(tensors=[g.tensor("t" * 64, (1,))]), "at most 63"),
    "tensor given twice": (lambda g: g.file(tensors=[g.tensor("t", (8,)), g.tensor("t", (8,), 0, 32)]), "twice"),
    "tensor without dimensions": (lambda g: g.file(tensors=[g.tensor("t", ())]), "0 dimensions"),
    "tensor of five dimensions": (lambda g: g.file(tensors=[g.tensor("t", (1,) * 5)]), "5 dimensions"),
    "tensor of no rows": (lambda g: g.file(tensors=[g.tensor("t", (4, 0))]), "can not have the shape"),
    "tensor of 2^63 rows": (lambda g: g.file(tensors=[g.tensor("t", (4, HUGE))]), "can not have the shape"),
    "dimensions that overflow": (lambda g: g.file(tensors=[g.tensor("t", (2**32, 2**32))]), "can not have the shape"),
    "row of half a block": (lambda g: g.file(tensors=[g.tensor("t", (16, 2), 8)]), "can not have the shape"),
    "unknown tensor type": (lambda g: g.file(tensors=[g.tensor("t", (4,), 999)]), "does not know"),
    "removed tensor type": (lambda g: g.file(tensors=[g.tensor("t", (4,), 31)]), "does not know"),
    "overlapping tensors": (
        lambda g: g.file(tensors=[g.tensor("a", (64,)), g.tensor("b", (64,), 0, 32)]),
        "overlapping",
    ),
    "tensors with a gap": (lambda g: g.file(tensors=[g.tensor("a", (8,)), g.tensor("b", (8,), 0, 64)]), "apart"),
    "offset of 2^63": (lambda g: g.file(tensors=[g.tensor("a", (8,), 0, HUGE)]), "apart"),
    "data cut short": (lambda g: g.file(n_data=64 * 10 * 4 - 1), "cut short"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(gguf, name):
    """Every lie ends in BadModel that names the file and the lie."""
    write, problem = HOSTILE[name]
    raw = write(gguf)
    with pytest.raises(BadModel, match=problem) as caught:
        parse_header(BytesIO(raw), len(raw), "hostile.gguf")
    assert "hostile.gguf" in caught.value.message


def test_the_sound_file_the_hostile_ones_are_made_from_is_read(gguf):
    """Otherwise they could all be refused for the same wrong reason."""
    raw = gguf.file()
    assert parse_header(BytesIO(raw), len(raw), "sound.gguf").shape().n_params == 640


def test_data_that_ends_with_the_last_tensor_is_whole(gguf):
    """The file need not be padded after its last tensor."""
    raw = gguf.file(n_data=64 * 10 * 4)
    assert parse_header(BytesIO(raw), len(raw), "sound.gguf").n_params == 640


def test_all_strings_together_are_bounded(gguf, monkeypatch):
    """Many arrays of many empty strings cost a bounded walk."""
    monkeypatch.setattr("beastd.registry.metadata.MAX_STRINGS", 5000)
    raw = gguf.file([gguf.array(f"k{i}", "str", [""] * 2000) for i in range(3)])
    with pytest.raises(BadModel, match="elements of metadata 'k2'"):
        parse_header(BytesIO(raw), len(raw), "hostile.gguf")


def test_kept_text_is_bounded(gguf):
    """Many strings just below the limit of one do not add up without limit."""
    raw = gguf.file([gguf.pair(f"k{i}", "str", "x" * 2**20) for i in range(33)])
    with pytest.raises(BadModel, match="bytes of metadata text"):
        parse_header(BytesIO(raw), len(raw), "hostile.gguf")


def test_a_large_vocabulary_is_walked_without_keeping_it(gguf):
    """150,000 tokens of a header leave less than a megabyte behind."""
    raw = gguf.file([gguf.array("tokenizer.ggml.tokens", "str", ["token"] * 150_000)])
    stream = BytesIO(raw)
    tracemalloc.start()
    try:
        parse_header(stream, len(raw), "large.gguf")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2**20
