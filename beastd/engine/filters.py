"""Which tokens stay candidates for the next place, and the draw among them: pure functions on arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beastd.errors import BadModel, BadRequest

FloatArray = npt.NDArray[np.float32]
Scores = np.ndarray[Any, np.dtype[np.floating[Any]]]
"""One number a candidate: float32 over a whole vocabulary, float64 once there are few."""
Indices = npt.NDArray[np.intp]

_FIRST_GUESS = 256
"""How many candidates top_p and typical look at before they look at more; llama.cpp's guess too."""
MOST_ROWS = 32
"""As which ``largest`` sees the scores. More rows make columns fewer and maxima coarser; 16 to 64 cost the same."""
COLDEST = 1e-6
"""Temperatures below differ from it in nothing but rounding errors."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that may still be chosen, and their logits; ``ids`` None means token i is at place i."""

    ids: Indices | None
    logits: Scores
    is_sorted: bool = False
    """Known to be most probable first."""

    def keep(self, places: Indices) -> Candidates:
        """Only the candidates at these places, in this order."""
        return Candidates(places if self.ids is None else self.ids[places], self.logits[places])

    def id(self, place: int) -> int:
        """The token at a place."""
        return place if self.ids is None else int(self.ids[place])


def check_best(logit: float) -> None:
    """Raise ``BadModel`` if the best logit is NaN or infinite, ``BadRequest`` if every token is excluded."""
    if math.isfinite(logit):
        return
    if logit == -math.inf:
        raise BadRequest(
            "no token is left to choose from: format, logit_bias and ignore_eos exclude the whole vocabulary;"
            " relax one of them"
        )
    raise BadModel(
        "the model produced NaN or infinite logits, so its file is damaged or was converted wrongly;"
        " get the model again or try another quantization"
    )


def largest(scores: Scores, k: int) -> Indices:
    """Places of the ``k`` largest scores, largest first, the lower place first among equals; never one of -inf.

    Exact. The scores are seen as rows: the k-th largest of the columns' maxima bounds the k-th largest score from
    below, so only the scores from there on, hardly more than k of them, are sorted. Raises as ``check_best``.
    """
    n = len(scores)
    if k >= n:
        return _largest_of(np.arange(n), scores, k)
    n_rows = max(1, min(MOST_ROWS, math.isqrt(n // k)))
    n_columns = n // n_rows
    maxima = scores[: n_rows * n_columns].reshape(n_rows, n_columns).max(axis=0)
    top = np.partition(maxima, n_columns - k)[n_columns - k :]
    if top.max() != -math.inf:  # else only the remainder, which no row holds, may have something
        check_best(top.max())
    return _largest_of(np.flatnonzero(scores >= top[0]), scores, k)


def _largest_of(places: Indices, scores: Scores, k: int) -> Indices:
    """As ``largest``, among these places alone, by sorting them."""
    found = scores[places]
    order = np.lexsort((places, -found))[:k]
    check_best(found.max())
    return places[order[found[order] > -math.inf]]


def softmax(logits: Scores) -> Scores:
    """Probabilities of the candidates."""
    weights: Scores = np.exp(logits - logits.max())
    weights /= weights.sum(dtype=np.float64)
    return weights


def whole(logits: FloatArray) -> Candidates:
    """Every token of the vocabulary. Raises as ``check_best``."""
    check_best(float(logits.max()))
    return Candidates(None, logits)


def top_k(logits: FloatArray, k: int) -> Candidates:
    """The ``k`` most probable tokens, most probable first. Raises as ``check_best``."""
    ids = largest(logits, k)
    return Candidates(ids, logits[ids].astype(np.float64), is_sorted=True)


def top_p(candidates: Candidates, p: float) -> Candidates:
    """The fewest most probable candidates whose probabilities reach ``p`` together (llama.cpp's top-p)."""
    logits = candidates.logits
    if candidates.is_sorted:
        assert candidates.ids is not None
        n = int(np.searchsorted(np.cumsum(softmax(logits)), p)) + 1
        return Candidates(candidates.ids[:n], logits[:n], is_sorted=True)
    return candidates.keep(_until_mass(logits, softmax(logits), p, "left"))


def typical(candidates: Candidates, p: float) -> Candidates:
    """The candidates whose surprise is nearest to the expected one, until they exceed ``p`` together.

    Locally typical sampling (Meister et al. 2022), as in llama.cpp.
    """
    probabilities = softmax(candidates.logits)
    shifted = candidates.logits - candidates.logits.max()
    surprise = -shifted + math.log(np.exp(shifted).sum(dtype=np.float64))
    expected = np.dot(probabilities, np.minimum(surprise, np.finfo(surprise.dtype).max))
    return candidates.keep(_until_mass(-np.abs(surprise - expected), probabilities, p, "right"))


def _until_mass(scores: Scores, probabilities: Scores, p: float, side: Literal["left", "right"]) -> Indices:
    """Places by falling score until their probabilities sum to ``p`` ("left") or more than it ("right")."""
    k = min(_FIRST_GUESS, len(scores))
    while True:
        places = largest(scores, k)
        n_below = int(np.searchsorted(np.cumsum(probabilities[places], dtype=np.float64), p, side))
        if n_below < len(places) or len(places) < k or k == len(scores):
            return places[: n_below + 1]
        k = min(8 * k, len(scores))


def min_p(candidates: Candidates, p: float) -> Candidates:
    """The candidates at least ``p`` times as probable as the best one (llama.cpp's min-p)."""
    logits = candidates.logits
    return candidates.keep(np.flatnonzero(logits >= logits.max() + math.log(p)))


def xtc(candidates: Candidates, threshold: float) -> Candidates:
    """Without the candidates of at least ``threshold``, except the least probable of them.

    "Exclude top choices", as in llama.cpp: nothing changes unless two candidates reach the threshold.
    """
    probabilities = softmax(candidates.logits)
    top = np.flatnonzero((probabilities >= threshold) & (probabilities > 0))
    if len(top) < 2:
        return candidates
    spared = top[np.lexsort((-top, candidates.logits[top]))[0]]
    excluded = probabilities >= threshold
    excluded[spared] = False
    return candidates.keep(np.flatnonzero(~excluded))


def surprise_below(candidates: Candidates, temperature: float, limit: float) -> Candidates:
    """The candidates whose surprise at this temperature is at most ``limit`` bits, or else the best one.

    The truncation of Mirostat 2 (Basu et al. 2021), as in llama.cpp.
    """
    shifted = candidates.logits - candidates.logits.max()
    weights = np.exp(shifted / max(temperature, COLDEST))
    least = weights.sum(dtype=np.float64) * 2.0 ** -max(limit, 0.0)
    return candidates.keep(np.flatnonzero(weights >= min(least, 1.0)))


def draw(candidates: Candidates, temperature: float, u: float) -> tuple[int, float]:
    """The token at quantile ``u``, above 0 and at most 1, of the distribution, and its probability there."""
    logits = candidates.logits
    weights = np.exp((logits - logits.max()) / max(temperature, COLDEST))
    sums = np.cumsum(weights, dtype=np.float64)
    place = int(np.searchsorted(sums, u * sums[-1]))
    return candidates.id(place), float(weights[place] / sums[-1])
