"""Prints what choosing one token costs, in microseconds (median), by settings and vocabulary size.

Run it from the repository: ``python tests/bench/sampler.py``.
"""

from __future__ import annotations

import statistics
import time

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


def main() -> None:
    """Print the table."""
    sizes = (32_000, 151_936)
    tables = [(np.random.default_rng(1).standard_normal((8, size)) * 3).astype(np.float32) for size in sizes]
    print(f"{'median µs a token':36}" + "".join(f"{size:>10,}" for size in sizes))
    for name, (sampling, n_top) in SETTINGS.items():
        print(f"{name:36}" + "".join(f"{median_us(sampling, n_top, rows):>10.0f}" for rows in tables))


if __name__ == "__main__":
    main()
