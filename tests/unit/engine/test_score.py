"""The arithmetic of perplexity."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.perplexity import Score


def test_a_model_that_knows_nothing_has_the_vocabulary_s_size_as_perplexity():
    """All tokens alike: e to the log of their number; and no spread, so no error."""
    score = Score()
    score.add(np.zeros((8, 500), np.float32), [3] * 8)
    assert score.perplexity == pytest.approx(500)
    assert score.stderr == pytest.approx(0, abs=1e-4)


def test_a_model_that_is_sure_and_right_has_perplexity_1():
    """And one that is sure and wrong has a large one."""
    logits = np.zeros((4, 10), np.float32)
    logits[:, 2] = 50
    right, wrong = Score(), Score()
    right.add(logits.copy(), [2] * 4)
    wrong.add(logits.copy(), [1] * 4)
    assert right.perplexity == pytest.approx(1)
    assert wrong.mean == pytest.approx(50)


@given(st.integers(2, 40), st.integers(2, 60), st.floats(-1e4, 1e4), st.integers(0, 2**32 - 1))
def test_it_is_the_plain_formula_in_double_precision(n, n_vocab, shift, seed):
    """Whatever the level of the logits, and however the tokens are dealt out to calls."""
    random = np.random.default_rng(seed)
    logits = (random.standard_normal((n, n_vocab)) * 5 + shift).astype(np.float32)
    targets = random.integers(0, n_vocab, n).tolist()
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    nll = np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(n), targets]
    score, cut = Score(), n // 2
    score.add(logits[:cut].copy(), targets[:cut]) if cut else None
    score.add(logits[cut:].copy(), targets[cut:])
    assert score.n == n
    assert score.mean == pytest.approx(nll.mean(), rel=1e-4, abs=1e-4)
    error = math.sqrt(nll.var() / (n - 1)) * math.exp(nll.mean())
    assert score.stderr == pytest.approx(error, rel=1e-2, abs=1e-3 * math.exp(nll.mean()))
