"""The quantizing tool on real files: llama-quantize's own bytes come out, or one clear error."""

from __future__ import annotations

import hashlib
import resource
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ggufwriter import GgufWriter
from toolrun import run_tool, started

from beastd.engine.imatrix import read_imatrix
from beastd.engine.quantize import quantize
from beastd.errors import BadModel, BadRequest, DiskFull, Unsupported
from beastd.quants import QUANT_TYPES
from beastd.registry.gguf import read_header
from beastd.registry.registry import BUILTIN_DIR
from beastd.tool import Done, Failed, Progress
from beastd.toolorders import QuantizeOrder

TOOL = "beastd.engine.quantize"
CUB = BUILTIN_DIR / "cub"
CUB_F16 = [str(CUB / f"cub-f16-0000{i}-of-00002.gguf") for i in (1, 2)]
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
SLOW = {"iq1_s", "iq1_m", "iq2_xs", "iq2_s", "iq2_m", "iq3_s", "iq3_m", "iq3_xs", "iq3_xxs"}
"""llama.cpp computes their tables for seconds, whatever the model."""


def tiny(path: Path, n_embd: int = 256, values: float | None = None) -> Path:
    """A one-layer llama in 32-bit floats, random or of one value everywhere."""
    writer = GgufWriter()
    shapes = {"token_embd.weight": (n_embd, 64), "output.weight": (n_embd, 64)}
    shapes |= {f"blk.0.{name}.weight": (n_embd, n_embd) for name in MATRICES}
    tensors, offset = [], 0
    for name, shape in shapes.items():
        tensors.append(writer.tensor(name, shape, 0, offset))
        offset += 4 * shape[0] * shape[1]
    pairs = writer.model(block_count=1, embedding_length=n_embd, feed_forward_length=n_embd, attention__head_count_kv=4)
    pairs.append(writer.pair("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5))
    weights = np.random.default_rng(0).standard_normal(offset // 4, np.float32)
    if values is not None:
        weights[:] = values
    path.write_bytes(writer.file(pairs, tensors, n_data=0) + weights.tobytes())
    return path


def gguf_imatrix(path: Path, n_embd: int = 256) -> Path:
    """An importance matrix for ``tiny`` as llama-imatrix writes it now: sums and counts."""
    writer, tensors, data = GgufWriter(), [], b""
    for name in MATRICES:
        for suffix, shape in ((".in_sum2", (n_embd, 1)), (".counts", (1, 1))):
            tensors.append(writer.tensor(f"blk.0.{name}.weight{suffix}", shape, 0, len(data)))
            values = np.linspace(8, 80, n_embd) if suffix == ".in_sum2" else np.array([8.0])
            data += values.astype(np.float32).tobytes()
            data += bytes(-len(data) % 32)
    pairs = [writer.array("imatrix.datasets", "str", ["text.txt"])]
    pairs += [writer.pair("imatrix.chunk_count", "u32", 2), writer.pair("imatrix.chunk_size", "u32", 4)]
    path.write_bytes(writer.file(pairs, tensors, n_data=0) + data)
    return path


def old_imatrix(path: Path, n_embd: int = 256) -> Path:
    """The same in the older format: means times the number of calls."""
    data = struct.pack("<i", len(MATRICES))
    for name in MATRICES:
        raw = f"blk.0.{name}.weight".encode()
        data += struct.pack("<i", len(raw)) + raw + struct.pack("<ii", 2, n_embd)
        data += (np.linspace(8, 80, n_embd).astype(np.float32) / 8 * 2).tobytes()
    path.write_bytes(data + struct.pack("<ii", 2, 8) + b"text.txt")
    return path


def order(source: Path, out: Path, kind: str, imatrix: Path | None = None, **fields: object) -> QuantizeOrder:
    given = {"sources": [str(source)], "label": "tiny:latest", "imatrix": imatrix and str(imatrix)} | fields
    return QuantizeOrder(out=str(out), type=kind, **given)  # type: ignore[arg-type]


def make(*args: object, **fields: object) -> dict[str, object]:
    """Quantize in this process."""
    return quantize(order(*args, **fields), lambda _: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", ["q8_0", "q4_k_m", "q2_k"])
def test_cub_comes_out_as_llama_quantize_makes_it(tmp_path, variant):
    """From the two shards of the f16 file, the bytes are those llama-quantize made of the whole one."""
    out = tmp_path / "out.gguf"
    cub = QuantizeOrder(sources=CUB_F16, label="cub:latest", out=str(out), type=variant)
    progress, ending = run_tool(TOOL, cub)
    assert isinstance(ending, Done)
    expected = hashlib.sha256((CUB / f"cub-{variant}.gguf").read_bytes()).hexdigest()
    assert hashlib.sha256(out.read_bytes()).hexdigest() == ending.result["digest"] == expected
    header = read_header(out)
    assert ending.result["size_bytes"] == out.stat().st_size
    assert ending.result["n_tensors"] == len(header.tensors)
    assert ending.result["bits_per_weight"] == pytest.approx(header.bits_per_weight, abs=0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
    steps = [told.completed for told in progress if told.total == len(header.tensors)]
    assert steps == sorted(steps)
    assert steps[-1] == len(header.tensors)


@pytest.mark.parametrize("kind", [kind for kind in QUANT_TYPES if QUANT_TYPES[kind].needs_imatrix])
def test_types_of_very_few_bits_want_an_importance_matrix(tmp_path, kind):
    """They are refused without, before anything is written."""
    with pytest.raises(BadRequest, match="importance matrix"):
        make(tiny(tmp_path / "tiny.gguf"), tmp_path / "out.gguf", kind)
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("kind", sorted(set(QUANT_TYPES) - SLOW))
def test_every_type_makes_a_file_that_says_so(tmp_path, kind):
    """Each type llama.cpp knows gives a sound file."""
    source, out = tiny(tmp_path / "tiny.gguf"), tmp_path / "out.gguf"
    imatrix = gguf_imatrix(tmp_path / "imatrix.gguf")
    result = make(source, out, kind, imatrix)
    header = read_header(out)
    assert len(header.tensors) == result["n_tensors"] == len(MATRICES) + 2
    if kind != "copy":
        assert header.metadata["general.file_type"] == QUANT_TYPES[kind].file_type
    assert header.metadata["quantize.imatrix.file"] == "imatrix.gguf", "no folder of this machine is told"
    assert header.metadata["quantize.imatrix.entries_count"] == len(MATRICES)


def test_both_formats_of_importance_matrices_mean_the_same(tmp_path):
    """The older file holds other numbers for the same weights."""
    new, old = gguf_imatrix(tmp_path / "new.gguf"), old_imatrix(tmp_path / "old.dat")
    ours, theirs = read_imatrix(new), read_imatrix(old)
    assert ours.weights.keys() == theirs.weights.keys()
    assert all(np.allclose(ours.weights[name], theirs.weights[name]) for name in ours.weights)
    assert (ours.n_chunks, ours.dataset) == (theirs.n_chunks, theirs.dataset) == (2, "text.txt")


def test_an_importance_matrix_changes_the_file(tmp_path):
    """The matrix is used, not merely read."""
    source = tiny(tmp_path / "tiny.gguf")
    plain = make(source, tmp_path / "plain.gguf", "q4_k_m")
    with_matrix = make(source, tmp_path / "better.gguf", "q4_k_m", gguf_imatrix(tmp_path / "imatrix.gguf"))
    tail = plain["size_bytes"] // 2  # type: ignore[operator]
    assert (tmp_path / "plain.gguf").read_bytes()[-tail:] != (tmp_path / "better.gguf").read_bytes()[-tail:]
    assert plain["digest"] != with_matrix["digest"]


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-31], lambda raw: raw[:40], lambda raw: b"", lambda raw: raw[::-1]]
)
@pytest.mark.parametrize("write", [gguf_imatrix, old_imatrix])
def test_a_broken_importance_matrix_is_refused(tmp_path, write, damage: Callable[[bytes], bytes]):
    """Cut short, empty or nonsense: the message says that it is the matrix."""
    path = write(tmp_path / "imatrix.bin")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadModel, match=r"imatrix\.bin"):
        make(tiny(tmp_path / "tiny.gguf"), tmp_path / "out.gguf", "q4_k_m", path)


def test_an_importance_matrix_of_another_model_is_refused(tmp_path):
    """Its rows have other lengths."""
    matrix = gguf_imatrix(tmp_path / "imatrix.gguf", n_embd=512)
    with pytest.raises(BadRequest, match="made for another model"):
        make(tiny(tmp_path / "tiny.gguf"), tmp_path / "out.gguf", "q4_k_m", matrix)


def test_a_missing_importance_matrix_is_named(tmp_path):
    """The path is quoted."""
    with pytest.raises(BadRequest, match=r"nowhere\.gguf"):
        make(tiny(tmp_path / "tiny.gguf"), tmp_path / "out.gguf", "q4_k_m", tmp_path / "nowhere.gguf")


def test_quantizing_twice_is_refused_unless_allowed(tmp_path):
    """A q8_0 gives a q4_0 only to who insists; before anything is written."""
    once = tmp_path / "once.gguf"
    make(tiny(tmp_path / "tiny.gguf"), once, "q8_0")
    with pytest.raises(BadRequest, match=r"quantized already \(q8_0\).*f16 or bf16"):
        make(once, tmp_path / "twice.gguf", "q4_0")
    assert not (tmp_path / "twice.gguf").exists()
    make(once, tmp_path / "twice.gguf", "q4_0", allow_requantize=True)
    assert read_header(tmp_path / "twice.gguf").quantization == "Q4_0"


def test_rows_that_blocks_do_not_divide_fall_back_and_are_counted(tmp_path):
    """Rows of 96 are no whole super-blocks of 256: llama.cpp takes another type, and the result says of how many."""
    result = make(tiny(tmp_path / "tiny.gguf", n_embd=96), tmp_path / "out.gguf", "q4_k_m")
    assert result["n_fallback"] == len(MATRICES) + 1, "all but the output, which q4_k_m has in another type"
    assert {tensor.type.name for tensor in read_header(tmp_path / "out.gguf").tensors} <= {"Q5_0", "Q5_1", "Q8_0"}


def test_a_type_without_fallback_is_refused(tmp_path):
    """Rows of 96 cannot become q1_0, and llama.cpp has nothing to take instead."""
    with pytest.raises(Unsupported, match="whole blocks"):
        make(tiny(tmp_path / "tiny.gguf", n_embd=96), tmp_path / "out.gguf", "q1_0")


def test_output_and_embeddings_may_have_types_of_their_own(tmp_path):
    """As the larger "_L" files on the hub have it."""
    out = tmp_path / "out.gguf"
    make(tiny(tmp_path / "tiny.gguf"), out, "q4_k_m", output_type="Q8_0", embedding_type="f16")
    types = {tensor.name: tensor.type.name for tensor in read_header(out).tensors}
    assert (types["output.weight"], types["token_embd.weight"]) == ("Q8_0", "F16")
    with pytest.raises(BadRequest, match="'q9' is no type"):
        make(tmp_path / "tiny.gguf", out, "q4_k_m", output_type="q9")


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    """A model full of NaN gives no file to trust."""
    with pytest.raises(BadModel, match=r"no numbers|invalid data"):
        make(tiny(tmp_path / "nan.gguf", values=np.nan), tmp_path / "out.gguf", "q8_0")


@pytest.mark.parametrize("content", [b"", b"hello", b"GGUF" + bytes(60)])
def test_a_source_that_is_no_model_is_refused(tmp_path, content):
    """Garbage gives an error, not a crash."""
    source = tmp_path / "garbage.gguf"
    source.write_bytes(content)
    with pytest.raises(BadModel, match="tiny:latest cannot be quantized"):
        make(source, tmp_path / "out.gguf", "q8_0")


def test_an_unknown_type_is_refused_with_the_nearest(tmp_path):
    """And with all known ones."""
    with pytest.raises(BadRequest, match=r"no quantization 'q4_km' \(did you mean 'q4_k_m'\?\).*iq2_xxs"):
        make(tiny(tmp_path / "tiny.gguf"), tmp_path / "out.gguf", "q4_km")


def test_a_disk_too_small_is_seen_before_the_work(tmp_path, monkeypatch):
    """What will not fit is not begun."""
    usage = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr("beastd.engine.quantize.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match=r"needs \d+ MB"):
        make(tiny(tmp_path / "tiny.gguf"), tmp_path / "out.gguf", "f16")
    assert not (tmp_path / "out.gguf").exists()


def test_a_disk_that_fills_up_is_told(tmp_path):
    """The file may not grow beyond a limit: the error is the system's, not a stream's."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    _, ending = run_tool(TOOL, order(tiny(tmp_path / "tiny.gguf"), tmp_path / "out.gguf", "f16"), limit)
    assert isinstance(ending, Failed)
    assert ending.failure.code == "disk_full"
    assert "out.gguf" in ending.failure.message


@pytest.mark.parametrize("ending", ["SIGKILL", "end of input"])
def test_a_tool_that_is_ended_leaves_only_its_own_files_and_the_next_run_works(tmp_path, ending):
    """At any moment; all it leaves begins with the name of ``out``, and no longer matters."""
    out = tmp_path / "work"
    cub = QuantizeOrder(sources=CUB_F16, label="cub:latest", out=str(out), type="q2_k")
    with started(TOOL, cub) as tool:
        for told in tool:
            if isinstance(told, Progress) and told.completed > 5:
                break
        if ending == "SIGKILL":
            tool.process.send_signal(signal.SIGKILL)
        else:
            assert tool.process.stdin
            tool.process.stdin.close()
        assert tool.process.wait(timeout=30) != 0
        assert not any(isinstance(told, Done) for told in tool)
    assert all(path.name.startswith("work") for path in tmp_path.iterdir())
    _, done = run_tool(TOOL, cub)
    assert isinstance(done, Done)
    assert done.result["digest"] == hashlib.sha256((CUB / "cub-q2_k.gguf").read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
