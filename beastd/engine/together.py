"""Draws the next tokens of many sequences in one go, where their settings are the common ones.

Numpy takes microseconds a call and a step of 64 sequences makes thousands of calls: here each is made once for all.
Everything is as ``sampler`` and ``filters`` do it for one, random numbers included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from beastd.engine import filters
from beastd.engine.filters import FloatArray, Indices
from beastd.ipc import Sampling

MOST_TOP_K = 128
"""Above this the common work is no longer small next to that of each sequence."""
_BLOCK_BYTES = 4 * 2**20
"""Logits that are looked through together: they are read twice, the second time from the core's cache."""

_Doubles = np.ndarray[Any, np.dtype[np.float64]]


def is_common(sampling: Sampling) -> bool:
    """Whether tokens may be drawn like this: a temperature, a top-k, and of other truncations top-p and min-p only."""
    return (
        sampling.temperature > 0
        and 0 < sampling.top_k <= MOST_TOP_K
        and sampling.typical_p >= 1
        and not sampling.mirostat
        and sampling.xtc_probability <= 0
    )


def draw(logits: FloatArray, settings: Sequence[Sampling], us: Sequence[float]) -> tuple[list[int], list[float]]:
    """A token for each row of logits at quantile ``u`` of its distribution, and its probability there.

    Where a row has no finite best logit the token is -1: to draw it alone raises what is to be raised.
    """
    n_vocab = logits.shape[1]
    ks = np.array([min(one.top_k, n_vocab) for one in settings])
    ids, values, is_sound = _best(logits, int(ks.max()))
    with np.errstate(invalid="ignore", divide="ignore", under="ignore"):
        values[np.arange(values.shape[1]) >= ks[:, None]] = -math.inf
        shifted = values - values[:, :1]
        n_kept = np.minimum(_n_kept(shifted, settings), ks)
        temperatures = np.array([max(one.temperature, filters.COLDEST) for one in settings])
        weights = np.exp(shifted / temperatures[:, None])
        sums = np.cumsum(weights, axis=1)
        rows = np.arange(len(sums))
        totals = sums[rows, n_kept - 1]
        places = np.minimum((sums < (np.array(us) * totals)[:, None]).sum(axis=1), n_kept - 1)
        probabilities = weights[rows, places] / totals
    return np.where(is_sound, ids[rows, places], -1).tolist(), probabilities.tolist()


def _n_kept(shifted: _Doubles, settings: Sequence[Sampling]) -> Indices:
    """How many of the best each row keeps by its top-p and its min-p; ``shifted`` are its best logits less the best."""
    least = [math.log(one.min_p) if one.min_p > 0 else -math.inf for one in settings]
    masses = [one.top_p if one.top_p < 1 else math.inf for one in settings]
    weights = np.exp(shifted)
    weights /= weights.sum(axis=1, keepdims=True)
    within_mass = (np.cumsum(weights, axis=1) < np.array(masses)[:, None]).sum(axis=1) + 1
    n_kept: Indices = np.minimum(within_mass, (shifted >= np.array(least)[:, None]).sum(axis=1))
    return n_kept


def _best(logits: FloatArray, k: int) -> tuple[Indices, _Doubles, npt.NDArray[np.bool_]]:
    """The ``k`` best tokens of each row, best first, their logits, and whether they are finite numbers."""
    n, n_vocab = logits.shape
    size = max(1, _BLOCK_BYTES // (4 * n_vocab))
    parts = [_best_of_block(logits[at : at + size], k) for at in range(0, n, size)]
    ids, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    return ids, values, np.isfinite(values[:, 0])


def _best_of_block(logits: FloatArray, k: int) -> tuple[Indices, _Doubles]:
    """As ``filters.largest`` finds them: among the columns whose maxima bound the k-th best from below."""
    n, n_vocab = logits.shape
    if k < n_vocab:
        n_lines = max(1, min(filters.MOST_ROWS, math.isqrt(n_vocab // k)))
        n_columns = n_vocab // n_lines
        maxima = logits[:, : n_lines * n_columns].reshape(n, n_lines, n_columns).max(axis=1)
        bounds = np.partition(maxima, n_columns - k, axis=1)[:, n_columns - k]
        bounds[~np.isfinite(bounds)] = -math.inf
        rows, found = np.divmod(np.flatnonzero(logits >= bounds[:, None]), n_vocab)
    else:
        rows, found = np.divmod(np.arange(n * n_vocab), n_vocab)
    values = logits[rows, found].astype(np.float64)
    order = np.lexsort((found, -values, rows))
    starts = np.searchsorted(rows, np.arange(n))
    counts = np.diff(starts, append=len(rows))
    # A row with fewer numbers than k (the rest is NaN) repeats its last one's place: it is not sound anyway.
    at = starts[:, None] + np.minimum(np.arange(k), np.maximum(counts[:, None] - 1, 0))
    taken = order[np.minimum(at, len(order) - 1)]
    best, chosen = values[taken], found[taken]
    best[counts < k] = math.nan
    return chosen, best
