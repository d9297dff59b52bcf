"""Sampling many sequences in one go is sampling each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.engine import together
from beastd.engine.sampler import FloatArray, Sampled, Sampler
from beastd.errors import BadModel, BadRequest
from beastd.ipc import Sampling

SETTINGS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([1e-9, 0.3, 0.8, 2.0]),
        "top_k": st.sampled_from([1, 2, 5, 40, 128]),
        "top_p": st.sampled_from([0.01, 0.5, 0.9, 1.0]),
        "min_p": st.sampled_from([0.0, 0.05, 1.0]),
        "repeat_penalty": st.sampled_from([1.0, 1.3]),
        "seed": st.integers(0, 1000),
    }
)


def sampler(
    n_vocab: int, settings: dict[str, Any], bias: dict[int, float] | None = None, grammar: Any = None
) -> Sampler:
    return Sampler(
        Sampling(**settings),
        n_vocab=n_vocab,
        logit_bias=bias or {},
        breakers=frozenset(),
        eog=frozenset(),
        history=[0, 1],
        grammar=grammar,
    )


def logits_of(seed: int, n: int, n_vocab: int, *, n_levels: int = 0) -> FloatArray:
    """Random logits; with ``n_levels`` only so many different ones, so that there are ties."""
    random = np.random.default_rng(seed)
    if n_levels:
        return random.integers(0, n_levels, (n, n_vocab)).astype(np.float32)
    return (random.standard_normal((n, n_vocab)) * 3).astype(np.float32)


@given(
    st.lists(SETTINGS, min_size=1, max_size=8),
    st.integers(0, 999),
    st.sampled_from([2, 7, 100, 3000]),
    st.sampled_from([0, 1, 3]),
)
def test_each_gets_the_tokens_it_would_get_alone(
    settings: list[dict[str, Any]], seed: int, n_vocab: int, n_levels: int
) -> None:
    """Whatever the mix of settings, ties and vocabulary; in later steps too, so its random numbers are the same."""
    alone = [sampler(n_vocab, one) for one in settings]
    all_ = [sampler(n_vocab, one) for one in settings]
    for step in range(3):
        logits = logits_of(seed + step, len(settings), n_vocab, n_levels=n_levels)
        expected = [one.sample(row.copy(), None) for one, row in zip(alone, logits, strict=True)]
        assert Sampler.sample_together(all_, logits) == expected


@given(st.integers(0, 99), st.integers(1, 50))
def test_tokens_that_are_excluded_are_never_drawn(seed: int, n_left: int) -> None:
    """Even where fewer are left than top-k asks for."""
    logits = logits_of(seed, 3, 60)
    logits[:, n_left:] = -np.inf
    alone = [sampler(60, {"seed": seed}) for _ in range(3)]
    expected = [one.sample(row.copy(), None) for one, row in zip(alone, logits, strict=True)]
    assert Sampler.sample_together([sampler(60, {"seed": seed}) for _ in range(3)], logits) == expected


@pytest.mark.parametrize("n_vocab", [20, 3000])
def test_what_is_wrong_with_one_is_told_of_it_alone(n_vocab: int) -> None:
    logits = logits_of(0, 4, n_vocab)
    logits[1] = np.nan
    logits[2] = -np.inf
    first, damaged, excluded, last = Sampler.sample_together([sampler(n_vocab, {"seed": 1}) for _ in range(4)], logits)
    assert isinstance(damaged, BadModel)
    assert isinstance(excluded, BadRequest)
    assert isinstance(first, Sampled)
    assert isinstance(last, Sampled)


class Even:
    """A grammar of even tokens."""

    def is_allowed(self, token: int) -> bool:
        return token % 2 == 0

    def mask(self, logits: FloatArray) -> None:
        logits[1::2] = -np.inf

    def accept(self, token: int) -> None:
        assert self.is_allowed(token)


def test_a_grammar_and_a_bias_rule_over_their_own_row() -> None:
    logits = logits_of(3, 3, 500)
    samplers = [
        sampler(500, {"seed": 1}, grammar=Even()),
        sampler(500, {"seed": 1}, bias={77: 100.0}),
        sampler(500, {"seed": 1}),
    ]
    alone = sampler(500, {"seed": 1}).sample(logits[2].copy(), None)
    ruled, biased, free = Sampler.sample_together(samplers, logits)
    assert isinstance(ruled, Sampled)
    assert ruled.token % 2 == 0
    assert biased == Sampled(77)
    assert free == alone


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"top_k": 0},
        {"top_k": together.MOST_TOP_K + 1},
        {"typical_p": 0.9},
        {"mirostat": 2},
        {"xtc_probability": 0.5},
    ],
)
def test_uncommon_settings_are_sampled_alone(settings: dict[str, Any]) -> None:
    assert not sampler(10, settings).is_common
    assert sampler(10, {}).is_common
