"""filters: each keeps the tokens that a slow, obvious implementation keeps, and the draw follows the distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beastd.engine import filters
from beastd.engine.filters import Candidates
from beastd.errors import BadModel, BadRequest

EPSILON = 1e-5

few_logits = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-20, 20, width=32))
"""Up to 60 logits without -inf."""


def ranked(scores: np.ndarray) -> list[int]:
    """All places, the largest score first, the lower place first among equals, -inf left out."""
    values = scores.tolist()
    return sorted((i for i, v in enumerate(values) if v > -math.inf), key=lambda i: (-values[i], i))


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    return weights / weights.sum()


@st.composite
def vocabularies(draw: st.DrawFn) -> np.ndarray:
    """Logits of up to 5,000 tokens: smooth or with many ties, some -inf, never all of them."""
    n = draw(st.one_of(st.integers(1, 40), st.integers(1000, 5000)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_values = draw(st.sampled_from([0, 1, 2, 30]))
    logits = random.normal(0, 4, n) if n_values == 0 else random.integers(0, n_values, n)
    excluded = random.random(n) < draw(st.sampled_from([0.0, 0.2, 0.999]))
    excluded[random.integers(n)] = False
    return np.where(excluded, -np.inf, logits).astype(np.float32)


@given(vocabularies(), st.integers(1, 6000))
def test_largest_is_exact(logits: np.ndarray, k: int) -> None:
    """The k largest, in order, lower places first among equals, whatever k, n, ties and -inf."""
    assert filters.largest(logits, k).tolist() == ranked(logits)[:k]


@given(vocabularies(), st.integers(1, 100))
def test_top_k_gives_ids_with_their_logits(logits: np.ndarray, k: int) -> None:
    """Ids and logits belong together, also when k exceeds the vocabulary."""
    kept = filters.top_k(logits, k)
    assert [kept.id(i) for i in range(len(kept.logits))] == ranked(logits)[:k]
    assert kept.logits.tolist() == [float(logits[i]) for i in ranked(logits)[:k]]


def test_largest_where_only_the_remainder_has_something() -> None:
    """A token that no block row holds may be the only one left."""
    logits = np.full(23, -np.inf, dtype=np.float32)
    logits[-1] = -2.5
    assert filters.largest(logits, 1).tolist() == [22]


def test_largest_at_a_size_no_rows_divide() -> None:
    """The remainder that no block row holds is looked at, too."""
    logits = np.zeros(151_937, np.float32)
    logits[-1] = 2
    logits[0] = 1
    assert filters.largest(logits, 3).tolist() == [151_936, 0, 1]


@pytest.mark.parametrize("n", [5, 5000])
@pytest.mark.parametrize(("broken", "error"), [(math.nan, BadModel), (math.inf, BadModel), (-math.inf, BadRequest)])
def test_unusable_logits_are_refused(n: int, broken: float, error: type[Exception]) -> None:
    """One NaN or infinite logit is the model's fault; no token left is the request's."""
    logits = np.zeros(n, np.float32) if broken != -math.inf else np.full(n, broken, np.float32)
    logits[n // 2] = broken
    with pytest.raises(error):
        filters.top_k(logits, 3)
    with pytest.raises(error):
        filters.whole(logits)


@given(few_logits, st.floats(0, 1))
def test_top_p_keeps_the_fewest_that_reach_p(logits: np.ndarray, p: float) -> None:
    """The kept are the most probable; together they reach p, without the last one they do not."""
    kept = filters.top_p(Candidates(None, logits), p)
    ids = [kept.id(i) for i in range(len(kept.logits))]
    assert ids == ranked(logits)[: len(ids)]
    sums = np.cumsum(probabilities(logits)[ids])
    assert sums[-1] >= p - EPSILON
    assert len(ids) == 1 or sums[-2] < p + EPSILON


@pytest.mark.parametrize("p", [0.1, 0.5, 0.99, 0.99999])
def test_top_p_over_a_whole_vocabulary(p: float) -> None:
    """Also when more candidates are needed than the first guess."""
    logits = np.random.default_rng(3).normal(0, 2, 20_000).astype(np.float32)
    kept = filters.top_p(filters.whole(logits), p)
    sums = np.cumsum(probabilities(logits)[ranked(logits)])
    assert abs(len(kept.logits) - (np.searchsorted(sums, p) + 1)) <= 2
    assert [kept.id(i) for i in range(len(kept.logits))] == ranked(logits)[: len(kept.logits)]


@given(few_logits, st.floats(0, 0.999))
def test_typical_keeps_the_least_surprising_surprises(logits: np.ndarray, p: float) -> None:
    """The kept are nearest to the entropy, and as few as exceed p."""
    kept = filters.typical(Candidates(None, logits), p)
    ids = [kept.id(i) for i in range(len(kept.logits))]
    chance = probabilities(logits)
    with np.errstate(divide="ignore"):
        surprise = -np.log(chance)
    entropy = float(np.sum(chance[chance > 0] * surprise[chance > 0]))
    distance = np.abs(surprise - entropy)
    others = sorted(set(range(len(logits))) - set(ids))
    assert not others or distance[ids].max() <= distance[others].min() + 1e-3
    assert chance[ids].sum() > p - EPSILON
    assert len(ids) == 1 or chance[ids[:-1]].sum() <= p + EPSILON


def test_typical_leaves_out_excluded_tokens() -> None:
    """A token at -inf has no surprise to compare, and never stays."""
    kept = filters.typical(Candidates(None, np.array([1, -np.inf, 1], np.float32)), 0.9)
    assert sorted(kept.id(i) for i in range(len(kept.logits))) == [0, 2]


@given(few_logits, st.floats(1e-6, 1))
def test_min_p_keeps_what_is_near_the_best(logits: np.ndarray, p: float) -> None:
    """Exactly the candidates of at least p times the best one's probability."""
    kept = filters.min_p(Candidates(None, logits), p)
    ids = {kept.id(i) for i in range(len(kept.logits))}
    chance = probabilities(logits)
    assert {i for i in range(len(logits)) if chance[i] >= chance.max() * p * (1 + EPSILON)} <= ids
    assert ids <= {i for i in range(len(logits)) if chance[i] >= chance.max() * p * (1 - EPSILON)}


@given(few_logits, st.floats(0.001, 0.5))
def test_xtc_spares_only_the_least_of_the_top(logits: np.ndarray, threshold: float) -> None:
    """Of the candidates over the threshold the least probable stays, and all below it stay."""
    chance = filters.softmax(logits)
    top = [i for i in ranked(logits) if chance[i] >= threshold]
    expected = set(ranked(logits)) - set(top[:-1])
    kept = filters.xtc(Candidates(None, logits), threshold)
    assert {kept.id(i) for i in range(len(kept.logits))} == expected


@given(few_logits, st.floats(0.1, 5), st.floats(-1, 20))
def test_mirostat_keeps_small_surprises(logits: np.ndarray, temperature: float, limit: float) -> None:
    """The kept have a surprise of at most the limit in bits; the best one always stays."""
    kept = filters.surprise_below(Candidates(None, logits), temperature, limit)
    ids = {kept.id(i) for i in range(len(kept.logits))}
    chance = probabilities(logits / np.float32(temperature))
    with np.errstate(divide="ignore"):
        surprise = -np.log2(chance)
    assert ids >= {i for i in range(len(logits)) if surprise[i] <= limit - 1e-3}
    assert all(surprise[i] <= max(limit, surprise.min()) + 1e-3 for i in ids)
    assert ranked(logits)[0] in ids


@given(vocabularies(), st.floats(0, 3), st.floats(0, 1, exclude_min=True))
def test_draw_finds_the_quantile(logits: np.ndarray, temperature: float, u: float) -> None:
    """The token drawn is one whose probability interval holds u; never one of probability 0."""
    token, probability = filters.draw(Candidates(None, logits), temperature, u)
    chance = probabilities(logits.astype(np.float64) / max(temperature, 1e-6))
    sums = np.cumsum(chance)
    assert sums[token] - chance[token] - 1e-3 <= u <= sums[token] + 1e-3
    assert logits[token] > -math.inf
    assert probability == pytest.approx(chance[token], abs=1e-3)
    assert probability > 0
