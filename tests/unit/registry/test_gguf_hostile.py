"""Files made to harm their reader: each lie is refused, naming what is wrong. ``gguflies`` has them."""

from __future__ import annotations

import os
import struct
import tracemalloc
from io import BytesIO

import pytest
from gguflies import HUGE, corpus, rich, spent

from beastd.errors import BadModel
from beastd.registry.cursor import MOST
from beastd.registry.gguf import parse_header, read_header
from beastd.registry.header import Header, Omitted

HOSTILE = corpus()


def parse(raw: bytes, size_bytes: int | None = None) -> Header:
    return parse_header(BytesIO(raw), len(raw) if size_bytes is None else size_bytes, "hostile.gguf")


def ask(header: Header) -> None:
    """Everything the daemon derives from a header."""
    assert header.quantization
    assert header.bits_per_weight >= 0
    assert header.n_params >= 0
    header.shape()


def test_the_corpus_is_large():
    """At least 200 different files: a family that stops yielding would go unseen."""
    assert len({raw for raw, _ in HOSTILE.values()}) >= 700


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name):
    """Every lie ends in BadModel that names the file and the lie, in one plain line."""
    raw, problem = HOSTILE[name]
    with pytest.raises(BadModel, match=problem) as caught:
        ask(parse(raw))
    assert "hostile.gguf" in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


def test_the_sound_files_the_hostile_ones_are_made_from_are_read(gguf):
    """Otherwise they could all be refused for the same wrong reason."""
    for raw in (gguf.file(), b"".join(rich())):
        ask(parse(raw))


def test_a_file_cut_at_any_byte_is_refused():
    """Also inside every field."""
    whole = b"".join(rich())
    for n in range(len(whole)):
        with pytest.raises(BadModel, match=r"not a GGUF file|claimed|are left|cut short"):
            parse(whole[:n])


def sound(g) -> dict[str, bytes]:
    """Odd files that break no rule."""
    model = g.model()
    return {
        "data that ends with the last tensor": g.file(n_data=64 * 10 * 4),
        "an empty value": g.file([*model, g.pair("general.name", "str", "")]),
        "an empty array of each type": g.file([*model, g.array("w", "str", []), g.array("f", "f64", [])]),
        "not a number": g.file([*model, g.pair("llama.rope.scale", "f32", float("nan"))]),
        "infinity": g.file([*model, g.pair("x", "f64", float("-inf"))]),
        "text that is not UTF-8": g.file([*model, g.pair("general.name", "str", b"\xff\xc0\x80")]),
        "a key of 65535 bytes": g.file([*model, g.pair("k" * 65535, "u8", 1)]),
        "a tensor name of 63 bytes": g.file(tensors=[g.tensor("é" * 31 + "x", (4,))]),
        "a file type llama.cpp guessed": g.file([*model, g.pair("general.file_type", "u32", 1024 + 7)]),
        "a file type of the future": g.file([*model, g.pair("general.file_type", "u32", 2**32 - 1)]),
        "a single shard": g.file([*model, g.pair("split.count", "u16", 1), g.pair("split.no", "u16", 0)]),
        "a template that is a list": g.file([*model, g.array("tokenizer.chat_template", "str", ["a"])]),
        "a template of 2 MB": g.file([*model, g.pair("tokenizer.chat_template", "str", "x" * 2**21)]),
        "no tokens": g.file([*model, g.array("tokenizer.ggml.tokens", "str", [])]),
        "all four dimensions": g.file(tensors=[g.tensor("t", (32, 2, 3, 4), 8)]),
        "a dimension of the whole file": g.file(tensors=[g.tensor("t", (2**16,), 24)], n_data=2**16),
        "a heads array without attention": g.file(g.model(attention__head_count=[0, 0])),
        "the longest architecture": g.file(
            [g.pair("general.architecture", "str", "l" * 64)]
            + [g.pair(f"{'l' * 64}.{key}", "u32", 1) for key in ("block_count", "context_length", "embedding_length")]
        ),
        **{
            f"alignment {2**n}": g.file([*model, g.pair("general.alignment", "u32", 2**n)], alignment=2**n)
            for n in (0, 1, 3, 5, 12, 20)
        },
    }


def test_odd_files_are_read(gguf):
    """A strict reader must not refuse what llama.cpp runs."""
    for name, raw in sound(gguf).items():
        try:
            ask(parse(raw))
        except BadModel as e:
            pytest.fail(f"{name}: {e.message}")


# --- what all of a header costs together ---


@pytest.mark.parametrize(
    ("resource", "pieces"),
    [
        ("strings", lambda g, i: g.array(f"k{i}", "str", ["x"] * 1025)),
        ("kept elements", lambda g, i: g.array(f"k{i}", "u16", [1] * 1024)),
        ("kept elements", lambda g, i: g.array(f"k{i}", "str", [""] * 1024)),
        ("kept text bytes", lambda g, i: g.pair(f"k{i}", "str", "x" * 1020)),
        ("kept text bytes", lambda g, i: g.array(f"k{i}", "str", ["x" * 510] * 2)),
        ("kept text bytes", lambda g, i: g.pair(f"{i:04d}" * 250, "u8", 1)),
    ],
)
def test_what_does_not_fit_the_allowance_is_refused(gguf, monkeypatch, resource, pieces):
    """Many values, each small enough, do not add up without limit; what fits exactly is read."""
    fits, too_many = ([pieces(gguf, i) for i in range(n)] for n in (4, 5))
    used = spent(gguf.file(fits), resource)
    monkeypatch.setitem(MOST, resource, used)
    parse(gguf.file(fits))
    with pytest.raises(BadModel, match=f"more than {used} {resource}"):
        parse(gguf.file(too_many))


@pytest.mark.parametrize("kind", ["str", "u8"])
def test_a_header_that_never_ends_is_refused(gguf, tmp_path, kind):
    """A file of many gigabytes (here: holes) that is all header is given up early."""
    text = struct.pack("<Q", 2**40)
    pair = gguf.raw("k", 8, text) if kind == "str" else gguf.raw("k", 9, struct.pack("<IQ", 0, 2**40))
    path = tmp_path / "endless.gguf"
    path.write_bytes(gguf.file([pair], n_pairs=2, n_data=0))
    os.truncate(path, 2**41)
    with pytest.raises(BadModel, match=f"more than {MOST['header bytes']} header bytes"):
        read_header(path)


def test_strings_a_quarter_megabyte_apart_do_not_make_the_reader_read_the_disk(gguf, tmp_path):
    """A million and a half long strings would have it read 400 GB, a window for each length."""
    path, step = tmp_path / "apart.gguf", 300_000
    head = gguf.file([gguf.array("k", "str", [], MOST["strings"])], [], n_data=0, alignment=1)
    with path.open("wb") as stream:
        stream.write(head)
        for i in range(1000):
            stream.seek(len(head) + i * step)
            stream.write(struct.pack("<Q", step - 8))
        stream.truncate(2**40)
    with pytest.raises(BadModel, match="header bytes"):
        read_header(path)


def test_a_large_vocabulary_is_walked_without_keeping_it(gguf):
    """300,000 tokens and 600,000 merges leave less than a megabyte behind."""
    tokens = gguf.array("tokenizer.ggml.tokens", "str", ["token"] * 300_000)
    raw = gguf.file([*gguf.model(), tokens, gguf.array("tokenizer.ggml.merges", "str", ["a b"] * 600_000)])
    stream = BytesIO(raw)
    header, peak_bytes = measured(stream, len(raw))
    assert header.shape().n_vocab == 300_000
    assert header.metadata["tokenizer.ggml.merges"] == Omitted("string", 600_000)
    assert peak_bytes < 2**20


def test_the_costliest_header_allowed_takes_less_than_100_mb(gguf):
    """Everything a header may hold at once, written so that it takes most memory in Python."""
    costly = "\N{GRINNING FACE}" + "x" * (2**20 - 4)  # one wide character widens all
    pairs = [gguf.pair(f"t{i}", "str", costly) for i in range(7)]
    pairs += [gguf.array(f"s{i}", "str", ["é"] * 1024) for i in range(16)]
    pairs += [gguf.array(f"f{i}", "f64", [1e300 + i] * 1024) for i in range(16)]
    n = MOST["tensors"]
    tensors = [gguf.tensor(f"{i:05d}" + "\N{GRINNING FACE}" * 14, (257, 259, 1, 1), 24, i * 66592) for i in range(n)]
    raw = gguf.file(pairs, tensors, n_data=0)
    header, peak_bytes = measured(BytesIO(raw), len(raw) + n * 66592)
    assert len(header.tensors) == n
    assert peak_bytes < 100 * 2**20


def measured(stream: BytesIO, size_bytes: int) -> tuple[Header, int]:
    """A header, and the most memory that reading it took."""
    tracemalloc.start()
    try:
        header = parse_header(stream, size_bytes, "large.gguf")
        return header, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- adapters ---


def test_an_adapter_is_read_and_is_no_model(gguf):
    """Its header says what it is; asking it for a model's shape is refused."""
    pairs = [gguf.pair("general.architecture", "str", "llama"), gguf.pair("general.type", "str", "adapter")]
    pairs += [gguf.pair("adapter.type", "str", "lora"), gguf.pair("adapter.lora.alpha", "f32", 16.0)]
    header = parse(gguf.file([*pairs, gguf.array("adapter.alora.invocation_tokens", "u32", [1, 2])]))
    assert header.is_adapter
    with pytest.raises(BadModel, match="is an adapter, not a model"):
        header.shape()


@pytest.mark.parametrize("n", HUGE.values(), ids=HUGE)
def test_an_adapter_with_more_invocation_tokens_than_bytes_is_refused(gguf, n):
    """llama.cpp copies as many as the header says."""
    with pytest.raises(BadModel, match=f"{n} elements of metadata 'adapter.alora.invocation_tokens'"):
        parse(gguf.file([gguf.array("adapter.alora.invocation_tokens", "u32", [1], n)]))
