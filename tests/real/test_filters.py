"""filters and penalties keep and change what llama.cpp's own samplers do, on the same logits."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from beastd.engine import filters
from beastd.engine.filters import Candidates
from beastd.engine.penalties import Penalties
from beastd.ipc import Sampling

N_VOCAB = 300
SEEDS = range(20)


def logits_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, N_VOCAB).astype(np.float32)


def natively(sampler: Any, logits: np.ndarray, said: Sequence[int] = ()) -> dict[int, float]:
    """The tokens a llama.cpp sampler leaves, with their logits."""
    data = (lib.llama_token_data * len(logits))(*[(i, float(v), 0.0) for i, v in enumerate(logits)])
    array = lib.llama_token_data_array(data, len(logits), -1, False)
    for token in said:
        lib.llama_sampler_accept(sampler, token)
    lib.llama_sampler_apply(sampler, ctypes.byref(array))
    lib.llama_sampler_free(sampler)
    return {array.data[i].id: array.data[i].logit for i in range(array.size)}


def kept(candidates: Candidates) -> set[int]:
    return {candidates.id(i) for i in range(len(candidates.logits))}


@pytest.mark.parametrize("seed", SEEDS)
def test_filters_keep_what_llama_cpp_keeps(seed: int) -> None:
    """top-k, top-p, min-p, typical and XTC, each alone on a whole vocabulary."""
    logits = logits_of(seed)
    every = filters.whole(logits)
    assert kept(filters.top_k(logits, 40)) == natively(lib.llama_sampler_init_top_k(40), logits).keys()
    for p in (0.1, 0.5, 0.9, 0.99):
        assert kept(filters.top_p(every, p)) == natively(lib.llama_sampler_init_top_p(p, 0), logits).keys()
        assert kept(filters.min_p(every, p)) == natively(lib.llama_sampler_init_min_p(p, 0), logits).keys()
        assert kept(filters.typical(every, p)) == natively(lib.llama_sampler_init_typical(p, 0), logits).keys()
    for threshold in (0.01, 0.05, 0.2):
        native = natively(lib.llama_sampler_init_xtc(1.0, threshold, 0, 1), logits)
        assert kept(filters.xtc(every, threshold)) == native.keys()


@pytest.mark.parametrize("seed", SEEDS)
def test_penalties_are_llama_cpps(seed: int) -> None:
    """Repeat, frequency and presence penalty over a window, to the last bits of float32."""
    logits = logits_of(seed)
    said = np.random.default_rng(seed).integers(0, N_VOCAB, 100).tolist()
    native = natively(lib.llama_sampler_init_penalties(N_VOCAB, 64, 1.3, 0.2, 0.4), logits, said)
    sampling = Sampling(repeat_last_n=64, repeat_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.4)
    Penalties(sampling, said).apply(logits)
    assert logits.tolist() == pytest.approx([native[i] for i in range(N_VOCAB)], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_mirostat_truncates_as_llama_cpp_does(seed: int) -> None:
    """The tokens whose surprise is below a first limit of twice tau."""
    logits = logits_of(seed)
    for tau in (0.1, 1.0, 2.5, 5.0):
        native = natively(lib.llama_sampler_init_mirostat_v2(1, tau, 0.1), logits)
        assert kept(filters.surprise_below(filters.whole(logits), 1.0, 2 * tau)) == native.keys()
