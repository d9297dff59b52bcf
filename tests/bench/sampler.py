"""Prints what choosing one token costs, in microseconds (median), by settings and vocabulary size.

Then what a step of 32 streams costs, in milliseconds: one by one, together, and with llama.cpp's own chain.

Run it from the repository: ``python tests/bench/sampler.py``.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable

import llama_cpp.llama_cpp as lib
import numpy as np

from beastd.engine.sampler import Sampler
from beastd.ipc import Sampling

SETTINGS = {
    "greedy": (Sampling(temperature=0, seed=1), None),
    "greedy + penalties": (Sampling(temperature=0, repeat_penalty=1.1, seed=1), None),
    "top-k 40, top-p 0.9": (Sampling(seed=1), None),
    "top-k 40, top-p, min-p": (Sampling(min_p=0.05, seed=1), None),
    "top-k 40, top-p, min-p + penalties": (Sampling(min_p=0.05, repeat_penalty=1.1, seed=1), None),
    "top-k 40, top-p + DRY": (Sampling(dry_multiplier=0.8, seed=1), None),
    "top-p 0.9, whole vocabulary": (Sampling(top_k=0, seed=1), None),
    "mirostat 2": (Sampling(mirostat=2, seed=1), None),
    "top-k 40, top-p, 5 logprobs": (Sampling(seed=1), 5),
}


def median_us(sampling: Sampling, n_top: int | None, rows: np.ndarray, n_tokens: int = 300) -> float:
    """Median cost of a token over random logits with 600 tokens of history, in microseconds."""
    n_vocab = rows.shape[1]
    history = np.random.default_rng(0).integers(0, n_vocab, 600).tolist()
    sampler = Sampler(
        sampling,
        n_vocab=n_vocab,
        logit_bias={},
        breakers=frozenset(),
        eog=frozenset(),
        history=history,
        grammar=None,
    )
    buffer = np.empty(n_vocab, np.float32)
    costs_s = []
    for i in range(n_tokens):
        buffer[:] = rows[i % len(rows)]
        start_s = time.perf_counter()
        sampler.sample(buffer, n_top)
        costs_s.append(time.perf_counter() - start_s)
    return statistics.median(costs_s) * 1e6


N_STREAMS = 32


def samplers(n_vocab: int) -> list[Sampler]:
    """One for each stream: temperature 0.8, top-k 40."""
    none = frozenset[int]()
    settings = [Sampling(top_p=1.0, seed=i) for i in range(N_STREAMS)]
    return [
        Sampler(one, n_vocab=n_vocab, logit_bias={}, breakers=none, eog=none, history=[], grammar=None)
        for one in settings
    ]


class NativeChain:
    """llama.cpp's top-k 40, temperature 0.8 and draw, over candidates made anew for each token, as in llama-server."""

    def __init__(self, n_vocab: int) -> None:
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for one in (lib.llama_sampler_init_top_k(40), lib.llama_sampler_init_temp(0.8), lib.llama_sampler_init_dist(1)):
            lib.llama_sampler_chain_add(self._chain, one)
        self._data = np.zeros(n_vocab, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._ids = np.arange(n_vocab, dtype=np.int32)

    def sample(self, logits: np.ndarray) -> None:
        """A token of each row."""
        for row in logits:
            self._data["id"], self._data["logit"] = self._ids, row
            pointer = self._data.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
            array = lib.llama_token_data_array(pointer, len(row), -1, False)
            lib.llama_sampler_apply(self._chain, ctypes.byref(array))


def ways(n_vocab: int) -> dict[str, Callable[[np.ndarray], object]]:
    """Name → samples a token of each row."""
    alone, all_ = samplers(n_vocab), samplers(n_vocab)
    return {
        "one by one": lambda logits: [one.sample(row, None) for one, row in zip(alone, logits, strict=True)],
        "together": lambda logits: Sampler.sample_together(all_, logits),
        "llama.cpp's chain": NativeChain(n_vocab).sample,
    }


def step_ms(n_vocab: int, n_steps: int = 40) -> dict[str, float]:
    """Median processor time of a step each way, in turns; the logits come fresh from memory, as after a decode."""
    rows = (np.random.default_rng(2).standard_normal((N_STREAMS, n_vocab)) * 3).astype(np.float32)
    costs_s: dict[str, list[float]] = {}
    for name, sample in [*ways(n_vocab).items()] * n_steps:
        logits = rows.copy()
        start_s = time.thread_time()
        sample(logits)
        costs_s.setdefault(name, []).append(time.thread_time() - start_s)
    return {name: statistics.median(each) * 1e3 for name, each in costs_s.items()}


def main() -> None:
    """Print the tables."""
    sizes = (32_000, 151_936)
    tables = [(np.random.default_rng(1).standard_normal((8, size)) * 3).astype(np.float32) for size in sizes]
    print(f"{'median µs a token':36}" + "".join(f"{size:>10,}" for size in sizes))
    for name, (sampling, n_top) in SETTINGS.items():
        print(f"{name:36}" + "".join(f"{median_us(sampling, n_top, rows):>10.0f}" for rows in tables))
    print(f"\n{f'processor ms a step of {N_STREAMS}, top-k 40':36}" + "".join(f"{size:>10,}" for size in sizes))
    columns = [step_ms(size) for size in sizes]
    for name in columns[0]:
        print(f"{name:36}" + "".join(f"{column[name]:>10.2f}" for column in columns))


if __name__ == "__main__":
    main()
