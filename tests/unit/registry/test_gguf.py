"""What a header says of a sound file."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beastd.errors import BadModel
from beastd.registry.gguf import parse_header, read_header, shard_paths
from beastd.registry.header import Header, Omitted


def parse(raw: bytes) -> Header:
    return parse_header(BytesIO(raw), len(raw), "file.gguf")


def every_scalar(gguf) -> list[bytes]:
    integers = [gguf.pair(kind, kind, 7) for kind in ("u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64")]
    return [*integers, gguf.pair("f32", "f32", 0.5), gguf.pair("f64", "f64", 0.25), gguf.pair("bool", "bool", True)]


def test_all_scalar_types_are_read(gguf):
    """Each of GGUF's scalar types comes back as the Python value it was written from."""
    metadata = parse(gguf.file(every_scalar(gguf), [])).metadata
    assert metadata["bool"] is True
    assert (metadata["f32"], metadata["f64"]) == (0.5, 0.25)
    assert {metadata[kind] for kind in ("u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64")} == {7}


@pytest.mark.parametrize("version", [2, 3])
def test_versions_2_and_3_are_read(gguf, version):
    """Both versions in use parse alike."""
    assert parse(gguf.file(version=version)).version == version


@pytest.mark.parametrize("kind", ["i32", "str"])
def test_small_arrays_are_kept_and_large_ones_counted(gguf, kind):
    """A vocabulary costs no memory; a per-layer array is there."""
    item = "x" if kind == "str" else 1
    header = parse(gguf.file([gguf.array("small", kind, [item] * 3), gguf.array("large", kind, [item] * 2000)]))
    assert header.metadata["small"] == [item] * 3
    large = header.metadata["large"]
    assert isinstance(large, Omitted)
    assert large.n == 2000


def test_a_value_after_arrays_longer_than_the_window_is_found(gguf):
    """Walking strings across many reads of the file loses no byte."""
    words = [f"{i:04d}" * (i % 400) for i in range(3000)]
    header = parse(gguf.file([gguf.array("words", "str", words), gguf.pair("after", "str", "here")]))
    assert header.metadata["after"] == "here"


def test_a_string_longer_than_the_cap_is_counted_not_kept(gguf):
    """A megabyte of text in the metadata is not held in memory."""
    header = parse(gguf.file([gguf.pair("long", "str", "x" * (2**20 + 1)), gguf.pair("after", "u8", 1)]))
    assert header.metadata == {"long": Omitted("byte", 2**20 + 1), "after": 1}


def test_text_that_is_not_utf8_is_readable_still(gguf):
    """llama.cpp takes any bytes as a value, so they must not stop the header."""
    assert parse(gguf.file([gguf.pair("name", "str", b"a\xffb")])).metadata["name"] == "a�b"


def test_shape_of_a_model(gguf):
    """What the memory plan needs follows from the metadata and the tensors."""
    shape = parse(gguf.file()).shape()
    assert (shape.architecture, shape.n_layers, shape.n_embd, shape.n_ctx_train) == ("llama", 2, 64, 128)
    assert shape.n_params == 640
    assert shape.n_vocab == 10  # no tokenizer: the embedding's rows
    assert shape.kv_elements_per_token == 2 * 2 * (16 + 16)


def test_the_vocabulary_is_counted_by_its_tokens(gguf):
    """The tokenizer's list says the size, kept or not."""
    for n in (5, 2000):
        tokens = gguf.array("tokenizer.ggml.tokens", "str", ["t"] * n)
        assert parse(gguf.file([*gguf.model(), tokens])).shape().n_vocab == n


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"attention__head_count_kv": None}, 2 * 4 * 32),
        ({"attention__head_count_kv": [2, 0]}, 2 * 32),
        ({"attention__head_count": [0, 4], "attention__head_count_kv": [0, 1]}, 32),
        ({"attention__key_length": 20, "attention__value_length": 8}, 2 * 2 * 28),
        ({"attention__head_count": None}, 0),
    ],
)
def test_kv_elements_follow_heads_and_lengths(gguf, changes, expected):
    """Per-layer head counts, own head lengths and models without attention all count as llama.cpp counts them."""
    assert parse(gguf.file(gguf.model(**changes))).shape().kv_elements_per_token == expected


@pytest.mark.parametrize(
    ("architecture", "n_heads", "tensor", "expected"),
    [
        ("hy_v3", 1, "blk.1.nextn.eh_proj.weight", True),
        ("hy_v3", 2, "blk.1.nextn.eh_proj.weight", False),
        ("hy_v3", 0, "blk.1.nextn.eh_proj.weight", False),
        ("hy_v3", 1, "blk.1.attn_q.weight", False),
        ("llama", 1, "blk.1.nextn.eh_proj.weight", False),
    ],
)
def test_a_head_counts_where_it_is_there_and_known(gguf, architecture, n_heads, tensor, expected):
    """Some files name heads that were left out of them; some architectures llama.cpp knows no graph for."""
    pairs = [
        gguf.pair("general.architecture", "str", architecture),
        *(gguf.pair(f"{architecture}.{key}", "u32", n) for key, n in SIZES.items()),
        gguf.pair(f"{architecture}.nextn_predict_layers", "u32", n_heads),
    ]
    tensors = [gguf.tensor("token_embd.weight", (64, 10)), gguf.tensor(tensor, (64, 10), offset=64 * 10 * 4)]
    shape = parse(gguf.file(pairs, tensors)).shape()
    assert shape.has_head is expected
    assert not shape.is_recurrent


@pytest.mark.parametrize(
    ("architecture", "key", "is_plain"),
    [
        ("gemma3", "attention.sliding_window", False),
        ("phi3", "attention.sliding_window", True),
        ("gemma2", "attention.key_length", False),
        ("mamba", "ssm.conv_kernel", False),
        ("rwkv7", "wkv.head_size", False),
        ("lfm2", "shortconv.l_cache", False),
        ("qwen3", "attention.key_length", True),
    ],
)
def test_windows_and_recurrent_layers_are_told(gguf, architecture, key, is_plain):
    """Unless llama.cpp makes nothing of the window."""
    pairs = [
        gguf.pair("general.architecture", "str", architecture),
        *(gguf.pair(f"{architecture}.{name}", "u32", n) for name, n in SIZES.items()),
        gguf.pair(f"{architecture}.{key}", "u32", 32),
    ]
    assert parse(gguf.file(pairs)).shape().is_plain is is_plain


SIZES = {"block_count": 2, "embedding_length": 64, "context_length": 128, "attention.head_count": 2}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"block_count": None}, r"does not say its llama\.block_count"),
        ({"block_count": 0}, "not a positive number"),
        ({"block_count": 513}, "at most 512 layers"),
        ({"embedding_length": None}, r"llama\.embedding_length"),
        ({"context_length": [1, 2]}, r"llama\.context_length is \[1, 2\]"),
        ({"attention__head_count_kv": [1, 2, 3]}, "3 values for 2 layers"),
        ({"attention__head_count_kv": [-1, 2]}, "not a count"),
        ({"attention__key_length": 2**32 - 1}, "not a count"),
    ],
)
def test_a_model_that_does_not_say_its_shape_is_refused(gguf, changes, problem):
    """The error names the file and the key."""
    with pytest.raises(BadModel, match=problem) as caught:
        parse(gguf.file(gguf.model(**changes))).shape()
    assert "file.gguf" in caught.value.message


def test_adapters_and_vocabularies_are_not_models(gguf):
    """Each says what it is, instead of failing later in a worker."""
    adapter = parse(gguf.file([*gguf.model(), gguf.pair("general.type", "str", "adapter")]))
    assert adapter.is_adapter
    with pytest.raises(BadModel, match="is an adapter"):
        adapter.shape()
    with pytest.raises(BadModel, match="only a vocabulary"):
        parse(gguf.file(tensors=[])).shape()


def test_quantization_is_the_declared_one_or_the_commonest(gguf):
    """A file that does not say its type is named after most of its weights."""
    assert parse(gguf.file([gguf.pair("general.file_type", "u32", 15)])).quantization == "Q4_K_M"
    tensors = [gguf.tensor("norm", (32,)), gguf.tensor("big", (256, 2), 12, 128)]
    header = parse(gguf.file([], tensors))
    assert header.quantization == "Q4_K"
    assert header.bits_per_weight == pytest.approx(8 * (128 + 288) / (32 + 512))
    assert parse(gguf.file([], [])).quantization == "unknown"


# --- files and shards ---


def shard(gguf, no: int, n: int, name: str, n_tensors: int = 2) -> bytes:
    split = [gguf.pair("split.no", "u16", no), gguf.pair("split.count", "u16", n)]
    split.append(gguf.pair("split.tensors.count", "i32", n_tensors))
    return gguf.file([*(gguf.model() if no == 0 else []), *split], [gguf.tensor(name, (64, 10))])


def test_shards_are_read_as_one_model(gguf, tmp_path):
    """Weights, sizes and tensors of all shards count together."""
    for no in range(2):
        (tmp_path / f"m-0000{no + 1}-of-00002.gguf").write_bytes(shard(gguf, no, 2, f"t{no}"))
    header = read_header(tmp_path / "m-00001-of-00002.gguf")
    assert [tensor.name for tensor in header.tensors] == ["t0", "t1"]
    assert header.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert header.shape().n_params == 1280


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (None, "00002-of-00002.gguf does not exist"),
        ((0, 2, "t1"), "is not shard 2 of 2"),
        ((1, 3, "t1"), "is not shard 2 of 2"),
        ((1, 2, "t0"), "the same tensor"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(gguf, tmp_path, second, problem):
    """A missing, misplaced or doubled shard is named before a worker is started."""
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(shard(gguf, 0, 2, "t0"))
    if second:
        (tmp_path / "m-00002-of-00002.gguf").write_bytes(shard(gguf, *second))
    with pytest.raises(BadModel, match=problem):
        read_header(tmp_path / "m-00001-of-00002.gguf")


def test_shards_with_fewer_tensors_than_the_first_says_are_refused(gguf, tmp_path):
    """A shard of an older conversion fits by name, not by content."""
    for no in range(2):
        (tmp_path / f"m-0000{no + 1}-of-00002.gguf").write_bytes(shard(gguf, no, 2, f"t{no}", n_tensors=3))
    with pytest.raises(BadModel, match="hold 2 tensors"):
        read_header(tmp_path / "m-00001-of-00002.gguf")


def test_a_renamed_first_shard_is_refused(gguf, tmp_path):
    """Its siblings are found by its name alone, so the error says which name it needs."""
    (tmp_path / "model.gguf").write_bytes(shard(gguf, 0, 2, "t0"))
    with pytest.raises(BadModel, match=r"NAME-00001-of-00002\.gguf"):
        read_header(tmp_path / "model.gguf")


def test_another_shard_than_the_first_is_refused():
    """The message names the file to use."""
    with pytest.raises(BadModel, match=r"name m-00001-of-00003\.gguf"):
        shard_paths(Path("m-00002-of-00003.gguf"))


@given(st.text(alphabet="ab-0123456789of.guf", max_size=40))
def test_any_file_name_has_shards_or_is_refused(name):
    """No spelling of a name makes anything but a list that begins with itself, or BadModel."""
    path = Path("folder", name or "x")
    try:
        assert shard_paths(path)[0] == path
    except BadModel:
        assert "-of-" in name


def test_missing_files_and_folders_are_bad_models(tmp_path):
    """An OSError never leaves the library."""
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(BadModel, match="does not exist or is not a file"):
            read_header(path)


# --- real files ---


def test_the_built_in_headers_say_what_the_card_says(builtin_dir):
    """Real files of every variant agree on the shape, and differ in quantization."""
    names = {"q8_0": "Q8_0", "q4_k_m": "Q4_K_M", "q2_k": "Q2_K", "f16-00001-of-00002": "F16"}
    headers = {want: read_header(builtin_dir / "cub" / f"cub-{name}.gguf") for name, want in names.items()}
    assert {want: header.quantization for want, header in headers.items()} == {want: want for want in headers}
    shapes = {header.shape().kv_elements_per_token for header in headers.values()}
    assert shapes == {10 * 4 * 128}
    assert {header.shape().n_params for header in headers.values()} == {31_730_176}
    assert headers["F16"].shape().weights_bytes > 63_000_000
    assert "<|im_start|>" in (headers["Q2_K"].chat_template or "")


@pytest.fixture(scope="module")
def real(builtin_dir) -> tuple[bytes, int]:
    """The beginning of a real file (its whole header), and the file's size."""
    path = builtin_dir / "cub" / "cub-q2_k.gguf"
    with path.open("rb") as stream:
        return stream.read(512 * 1024), path.stat().st_size


@given(n=st.integers(0, 512 * 1024))
@settings(max_examples=60, deadline=None)
def test_a_truncated_real_file_is_refused(real, n):
    """Wherever the file ends, in the header or in the weights, the answer is BadModel."""
    raw, _ = real
    with pytest.raises(BadModel):
        parse_header(BytesIO(raw[:n]), n, "cut.gguf")


@given(n=st.integers(0, 100_000))
@settings(max_examples=20, deadline=None)
def test_a_file_that_shrinks_while_it_is_read_is_refused(real, n):
    """The size was believed when the reading began; the end comes earlier."""
    raw, size = real
    with pytest.raises(BadModel, match="became shorter"):
        parse_header(BytesIO(raw[:n]), size, "shrinking.gguf")


@given(flips=st.lists(st.tuples(st.integers(0, 400_000), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_real_header_with_flipped_bytes_parses_or_is_refused(real, flips):
    """No damage leads to another error than BadModel."""
    raw, size = real
    examine(damaged(raw, flips), size)


@given(flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), min_size=1, max_size=6))
@settings(max_examples=500, deadline=None)
def test_a_small_header_with_flipped_bytes_parses_or_is_refused(gguf, flips):
    """The same where nearly every byte is a count, a length, a type or an offset."""
    pairs = [*gguf.model(), *every_scalar(gguf), gguf.array("words", "str", ["a", "b"]), gguf.array("n", "f32", [1.0])]
    raw = gguf.file(pairs, [gguf.tensor("a", (256, 2), 12), gguf.tensor("b", (32, 2, 2, 2), 8, 288)], n_data=4096)
    examine(damaged(raw, flips), len(raw))


@given(st.binary(max_size=400))
def test_any_bytes_after_the_magic_parse_or_are_refused(tail):
    """Noise is BadModel."""
    raw = b"GGUF\x03\0\0\0" + tail
    examine(raw, len(raw))


def damaged(raw: bytes, flips: list[tuple[int, int]]) -> bytes:
    changed = bytearray(raw)
    for at, mask in flips:
        changed[at % len(changed)] ^= mask
    return bytes(changed)


def examine(raw: bytes, size: int) -> None:
    """Ask a header everything; only BadModel may be raised."""
    with suppress(BadModel):
        header = parse_header(BytesIO(raw), size, "damaged.gguf")
        assert sum(tensor.n_bytes for tensor in header.tensors) <= size
        assert header.bits_per_weight >= 0
        assert header.chat_template is None or isinstance(header.chat_template, str)
        assert header.quantization
        assert header.shape().kv_elements_per_token >= 0
