"""penalties: what was said lowers its logit by llama.cpp's formulas, kept up to date token by token."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.penalties import Dry, Penalties, suffix_lengths
from beastd.ipc import Sampling

N_VOCAB = 6
tokens = st.lists(st.integers(0, N_VOCAB - 1), max_size=40)
logit_rows = st.lists(st.floats(-8, 8, width=32), min_size=N_VOCAB, max_size=N_VOCAB)


def common_suffix(a: list[int], b: list[int]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[-1 - n] == b[-1 - n]:
        n += 1
    return n


@given(tokens, tokens, st.integers(-1, 10), logit_rows)
def test_penalties_follow_the_window(prompt: list[int], answer: list[int], last_n: int, row: list[float]) -> None:
    """Counts are those of the last tokens of prompt and answer together; formulas are llama.cpp's."""
    sampling = Sampling(repeat_last_n=last_n, repeat_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.4)
    penalties = Penalties(sampling, prompt)
    for token in answer:
        penalties.accept(token)
    logits = np.array(row, np.float32)
    penalties.apply(logits)
    said = prompt + answer
    counts = Counter(said if last_n < 0 else said[len(said) - last_n :] if last_n < len(said) else said)
    for token, before in enumerate(row):
        after = before
        if n := counts.get(token, 0):
            after = (before * 1.3 if before <= 0 else before / 1.3) - n * 0.2 - 0.4
        assert logits[token] == pytest.approx(after, rel=1e-5, abs=1e-5)


def test_a_penalty_that_rewards_stays_finite() -> None:
    """A huge negative penalty makes a token certain without making its logit infinite."""
    logits = np.ones(2, np.float32)
    with np.errstate(over="ignore"):
        Penalties(Sampling(presence_penalty=-1e300), [1]).apply(logits)
    assert np.isfinite(logits).all()
    assert logits[1] > 1e20


@given(tokens)
def test_suffix_lengths_are_the_naive_ones(said: list[int]) -> None:
    """The Z-algorithm agrees with comparing every place against the end."""
    expected = [common_suffix(said[: i + 1], said) for i in range(len(said) - 1)] + [0] * bool(said)
    assert suffix_lengths(said) == expected


def dry_reference(said: list[int], sampling: Sampling, breakers: frozenset[int]) -> list[float]:
    """What DRY takes from each token's logit, by trying each token at each earlier place."""
    window = said if sampling.dry_penalty_last_n < 0 else said[-sampling.dry_penalty_last_n :]
    since_breaker = next((i for i, token in enumerate(reversed(window)) if token in breakers), len(window))
    taken = [0.0] * N_VOCAB
    for i in range(1, len(window)):
        length = min(common_suffix(window[:i], window), since_breaker)
        if length >= sampling.dry_allowed_length and window[i] not in breakers:
            penalty = sampling.dry_multiplier * sampling.dry_base ** (length - sampling.dry_allowed_length)
            taken[window[i]] = max(taken[window[i]], penalty)
    return taken


@given(
    prompt=tokens,
    answer=tokens,
    allowed=st.integers(1, 4),
    last_n=st.sampled_from([-1, 3, 12]),
    breakers=st.frozensets(st.integers(0, N_VOCAB - 1), max_size=2),
)
def test_dry_agrees_with_the_naive_rule(
    prompt: list[int], answer: list[int], allowed: int, last_n: int, breakers: frozenset[int]
) -> None:
    """Windows, breakers and allowed length act as in llama.cpp, over a prompt and every token after it."""
    sampling = Sampling(dry_multiplier=0.8, dry_base=1.5, dry_allowed_length=allowed, dry_penalty_last_n=last_n)
    dry = Dry(sampling, breakers, prompt)
    for n in range(len(answer) + 1):
        logits = np.zeros(N_VOCAB, np.float32)
        dry.apply(logits)
        expected = dry_reference(prompt + answer[:n], sampling, breakers)
        assert logits.tolist() == pytest.approx([-taken for taken in expected], rel=1e-5)
        if n < len(answer):
            dry.accept(answer[n])


def test_dry_example_of_llama_cpp() -> None:
    """After "a b c c b c y a b c" the next c, b and y would continue matches of 3, 1 and 2 tokens."""
    a, b, c, y = range(4)
    logits = np.zeros(4, np.float32)
    sampling = Sampling(dry_multiplier=1, dry_base=2, dry_allowed_length=1)
    Dry(sampling, frozenset(), [a, b, c, c, b, c, y, a, b, c]).apply(logits)
    assert logits.tolist() == [0, -1, -4, -2]


def test_dry_of_a_long_repetition_does_not_overflow() -> None:
    """The exponent is limited where the penalty would no longer be a number."""
    logits = np.zeros(2, np.float32)
    with np.errstate(over="ignore"):
        Dry(Sampling(dry_multiplier=1, dry_base=4), frozenset(), [1] * 600).apply(logits)
    assert logits[1] < -1e30
    assert not np.isnan(logits).any()


def test_dry_outgrows_its_first_buffer() -> None:
    """An answer may be longer than any buffer made for the prompt."""
    dry = Dry(Sampling(dry_multiplier=1, dry_base=1), frozenset(), [])
    for i in range(1200):
        dry.accept(i % 5)
    logits = np.zeros(6, np.float32)
    dry.apply(logits)
    assert logits.tolist() == [-1, 0, 0, 0, 0, 0]
