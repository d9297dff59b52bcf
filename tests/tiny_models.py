"""Writes models of a few hundred kilobytes with random weights, one of each kind of memory that llama.cpp has.

Their vocabulary is the 256 bytes and the marks of a chat; they answer with small letters only and never end by
themselves. Every answer depends on all of its prompt: wrong KV makes another answer.
"""

from __future__ import annotations

import functools
import string
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ggufwriter import GgufWriter

KINDS = ("plain", "window", "recurrent", "hybrid", "delta", "mtp")
"""One cache of all tokens; layers of which each second sees the last ``WINDOW`` tokens only; a state in place of a
cache; layers of both; the same with states that llama.cpp can take some tokens back from, and a head that predicts the
token after the next; and one cache with such a head."""

WINDOW = 32
N_EMBD = 64
N_FF = 96
N_HEAD = 2
N_HEAD_KV = 1
HEAD = N_EMBD // N_HEAD
N_LAYER = 4
D_INNER, D_STATE, D_CONV, DT_RANK = 2 * N_EMBD, 16, 4, 4

_ARCHITECTURE = {"plain": "llama", "window": "gemma3", "recurrent": "mamba", "hybrid": "jamba"}
_ARCHITECTURE |= {"delta": "qwen35", "mtp": "hy_v3"}
_HAS_HEAD = ("delta", "mtp")
_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_NORMAL, _CONTROL = 1, 3
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_FOCUS = 3.0
"""Spread of what attention weighs by its exponential: a few tokens count, near or far."""
_EMBEDDING = 0.4
"""Size of a token beside what the layers find out about those before it."""

FloatArray = npt.NDArray[np.float32]


def write(kind: str, path: Path, *, seed: int = 0, n_ctx: int = 4096, heads: str = "ignorant") -> Path:
    """Write a model of this kind. Other seeds make other models.

    ``heads``, of the kind that has any: "ignorant" ones say anything; "right" ones say what the model will say, which
    depends on its last token alone then; "echo" says what the model just said, as only its states tell.
    """
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    tensors = dict(_tensors(kind, _Weights(rng), heads))
    writer = GgufWriter()
    pairs = [*_metadata(kind, writer, n_ctx), *_vocabulary(writer)]
    offset, infos = 0, []
    for name, values in tensors.items():
        infos.append(writer.tensor(name, values.shape[::-1], offset=offset))
        offset += len(_padded(values))
    path.write_bytes(writer.file(pairs, infos, n_data=0) + b"".join(map(_padded, tensors.values())))
    return path


def _padded(values: FloatArray) -> bytes:
    data = values.tobytes()
    return data + bytes(-len(data) % 32)


# --- what they are ---


def _metadata(kind: str, writer: GgufWriter, n_ctx: int) -> Iterator[bytes]:
    name = _ARCHITECTURE[kind]
    yield writer.pair("general.architecture", "str", name)
    yield writer.pair("general.name", "str", f"tiny {kind}")
    numbers = {"context_length": n_ctx, "embedding_length": N_EMBD, "feed_forward_length": N_FF}
    numbers |= {"block_count": N_LAYER + (kind in _HAS_HEAD), "attention.head_count": N_HEAD}
    if kind == "delta":
        numbers |= {"ssm.conv_kernel": D_CONV, "ssm.inner_size": N_EMBD, "full_attention_interval": 2}
        numbers |= {"ssm.state_size": HEAD, "ssm.time_step_rank": N_HEAD, "ssm.group_count": N_HEAD}
        numbers |= {"rope.dimension_count": HEAD}
        yield writer.array(f"{name}.rope.dimension_sections", "i32", [HEAD // 2, 0, 0, 0])
    if kind in ("recurrent", "hybrid"):
        numbers |= {"ssm.conv_kernel": D_CONV, "ssm.inner_size": D_INNER}
        numbers |= {"ssm.state_size": D_STATE, "ssm.time_step_rank": DT_RANK}
    if kind == "window":
        numbers |= {"attention.sliding_window": WINDOW}
        yield writer.array(f"{name}.attention.sliding_window_pattern", "bool", [il % 2 == 0 for il in range(N_LAYER)])
    if kind in _HAS_HEAD:
        numbers |= {"nextn_predict_layers": 1, "expert_feed_forward_length": N_FF}
    if kind == "hybrid":
        heads = [N_HEAD_KV if _has_attention(kind, il) else 0 for il in range(N_LAYER)]
        yield writer.array(f"{name}.attention.head_count_kv", "i32", heads)
    elif kind != "recurrent":
        numbers |= {"attention.head_count_kv": N_HEAD_KV, "attention.key_length": HEAD, "attention.value_length": HEAD}
    for key, value in numbers.items():
        yield writer.pair(f"{name}.{key}", "u32", value)
    yield writer.pair(f"{name}.attention.layer_norm_rms_epsilon", "f32", 1e-5)


def _has_attention(kind: str, il: int) -> bool:
    return kind != "recurrent" and (kind not in ("hybrid", "delta") or il % 2 == 1)


@functools.cache
def _tokens() -> list[str]:
    """The bytes as GPT-2's tokenizers write them, then the marks."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    texts = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [*(texts[byte] for byte in range(256)), *_MARKS]


def _vocabulary(writer: GgufWriter) -> Iterator[bytes]:
    tokens = _tokens()
    yield writer.pair("tokenizer.ggml.model", "str", "gpt2")
    yield writer.pair("tokenizer.ggml.pre", "str", "gpt-2")
    yield writer.array("tokenizer.ggml.tokens", "str", tokens)
    yield writer.array("tokenizer.ggml.token_type", "i32", [_CONTROL if it in _MARKS else _NORMAL for it in tokens])
    yield writer.array("tokenizer.ggml.merges", "str", [])
    yield writer.pair("tokenizer.ggml.bos_token_id", "u32", tokens.index("<|endoftext|>"))
    yield writer.pair("tokenizer.ggml.eos_token_id", "u32", tokens.index("<|im_end|>"))
    yield writer.pair("tokenizer.ggml.add_bos_token", "bool", value=False)
    yield writer.pair("tokenizer.chat_template", "str", _TEMPLATE)


# --- weights ---


@dataclass
class _Weights:
    """Random matrices that keep the size of what goes through them."""

    rng: np.random.Generator
    is_silent: bool = False
    """Whether what layers find out is thrown away."""

    def matrix(self, n_in: int, n_out: int, gain: float = 1.0) -> FloatArray:
        return (self.rng.standard_normal((n_out, n_in)) * gain / n_in**0.5).astype(np.float32)

    def into_stream(self, n_in: int, gain: float = 1.0) -> FloatArray:
        return self.matrix(n_in, N_EMBD, 0.0 if self.is_silent else gain)


def _ones(n: int) -> FloatArray:
    return np.ones(n, np.float32)


def _tensors(kind: str, w: _Weights, heads: str) -> Iterator[tuple[str, FloatArray]]:
    scale = N_EMBD**-0.5 if kind == "window" else 1.0  # gemma multiplies by the root
    yield "token_embd.weight", w.matrix(1, len(_tokens()) * N_EMBD, _EMBEDDING * scale).reshape(-1, N_EMBD)
    yield "output_norm.weight", _ones(N_EMBD)
    output = w.matrix(N_EMBD, len(_tokens()), 4.0)
    silent = [it not in string.ascii_lowercase for it in _tokens()]
    output[silent] = 0
    yield "output.weight", output
    w.is_silent = heads == "right"
    for il in range(N_LAYER):
        layer = _attention(kind, w) if _has_attention(kind, il) else _STATES[kind](w)
        yield from _named(il, [*layer, *(_feed_forward(kind, w) if kind != "recurrent" else ())])
    if kind in _HAS_HEAD:
        w.is_silent = heads != "ignorant"
        yield from _named(N_LAYER, [*_attention(kind, w), *_feed_forward(kind, w), *_next_but_one(w, heads)])


def _named(il: int, layer: list[tuple[str, FloatArray]]) -> Iterator[tuple[str, FloatArray]]:
    for name, values in layer:
        yield f"blk.{il}.{name}", values


def _attention(kind: str, w: _Weights) -> Iterator[tuple[str, FloatArray]]:
    yield "attn_norm.weight", _ones(N_EMBD)
    gates = 2 if kind == "delta" else 1
    yield "attn_q.weight", w.matrix(N_EMBD, HEAD * N_HEAD * gates, _FOCUS)
    yield "attn_k.weight", w.matrix(N_EMBD, HEAD * N_HEAD_KV)
    yield "attn_v.weight", w.matrix(N_EMBD, HEAD * N_HEAD_KV)
    yield "attn_output.weight", w.into_stream(HEAD * N_HEAD, 2.0)
    if kind in ("window", "delta", "mtp"):
        yield "attn_q_norm.weight", _ones(HEAD) * _FOCUS
        yield "attn_k_norm.weight", _ones(HEAD)
    if kind == "window":
        yield "post_attention_norm.weight", _ones(N_EMBD)


def _feed_forward(kind: str, w: _Weights) -> Iterator[tuple[str, FloatArray]]:
    yield f"{'post_attention_norm' if kind == 'delta' else 'ffn_norm'}.weight", _ones(N_EMBD)
    yield "ffn_gate.weight", w.matrix(N_EMBD, N_FF)
    yield "ffn_up.weight", w.matrix(N_EMBD, N_FF)
    yield "ffn_down.weight", w.into_stream(N_FF)
    if kind == "window":
        yield "post_ffw_norm.weight", _ones(N_EMBD)


def _state_space(w: _Weights) -> Iterator[tuple[str, FloatArray]]:
    """States that fade over some ten to some thousand tokens."""
    steps = np.exp(w.rng.uniform(np.log(0.001), np.log(0.05), D_INNER))
    decay = -np.tile(np.arange(1, D_STATE + 1) / D_STATE, (D_INNER, 1))
    yield "attn_norm.weight", _ones(N_EMBD)
    yield "ssm_in.weight", w.matrix(N_EMBD, 2 * D_INNER)
    yield "ssm_conv1d.weight", w.matrix(D_CONV, D_INNER)
    yield "ssm_conv1d.bias", np.zeros(D_INNER, np.float32)
    yield "ssm_x.weight", w.matrix(D_INNER, DT_RANK + 2 * D_STATE, 2.0)
    yield "ssm_dt.weight", w.matrix(DT_RANK, D_INNER, 0.5)
    yield "ssm_dt.bias", np.log(np.expm1(steps)).astype(np.float32)
    yield "ssm_a", decay.astype(np.float32)
    yield "ssm_d", np.zeros(D_INNER, np.float32)
    yield "ssm_out.weight", w.into_stream(D_INNER, 4.0)


def _normed_state_space(w: _Weights) -> Iterator[tuple[str, FloatArray]]:
    yield from _state_space(w)
    yield "ssm_dt_norm.weight", _ones(DT_RANK)
    yield "ssm_b_norm.weight", _ones(D_STATE)
    yield "ssm_c_norm.weight", _ones(D_STATE)


def _delta(w: _Weights) -> Iterator[tuple[str, FloatArray]]:
    yield "attn_norm.weight", _ones(N_EMBD)
    yield "attn_qkv.weight", w.matrix(N_EMBD, 3 * N_EMBD)
    yield "attn_gate.weight", w.matrix(N_EMBD, N_EMBD)
    yield "ssm_conv1d.weight", w.matrix(D_CONV, 3 * N_EMBD)
    yield "ssm_dt.bias", np.full(N_HEAD, -3, np.float32)
    yield "ssm_a", np.full(N_HEAD, -0.1, np.float32)
    yield "ssm_beta.weight", w.matrix(N_EMBD, N_HEAD)
    yield "ssm_alpha.weight", w.matrix(N_EMBD, N_HEAD)
    yield "ssm_norm.weight", _ones(HEAD)
    yield "ssm_out.weight", w.into_stream(N_EMBD, 4.0)


_STATES = {"recurrent": _state_space, "hybrid": _normed_state_space, "delta": _delta}


def _next_but_one(w: _Weights, heads: str) -> Iterator[tuple[str, FloatArray]]:
    """Takes the next token's embedding, what the model found out before it, or something of both."""
    random, one = w.matrix(2 * N_EMBD, N_EMBD), np.eye(N_EMBD, 2 * N_EMBD, dtype=np.float32)
    taken = {"ignorant": random, "right": one, "echo": np.roll(one, N_EMBD, axis=1)}
    yield "nextn.eh_proj.weight", taken[heads]
    yield "nextn.enorm.weight", _ones(N_EMBD)
    yield "nextn.hnorm.weight", _ones(N_EMBD)
    yield "nextn.shared_head_norm.weight", _ones(N_EMBD)
