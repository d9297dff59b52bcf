"""sampler: the chain in llama.cpp's order, reproducible by seed, exact in distribution, safe with grammars."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.sampler import FloatArray, Grammar, Sampler
from beastd.errors import BadModel, BadRequest
from beastd.ipc import Sampling

ROW = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -4.0], np.float32)
EVERYTHING: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "temperature": 1.0, "seed": 7}


def sampler(
    history: Sequence[int] = (), bias: dict[int, float] | None = None, grammar: Grammar | None = None, **settings: Any
) -> Sampler:
    return Sampler(
        Sampling(**settings),
        n_vocab=len(ROW),
        logit_bias=bias or {},
        breakers=frozenset(),
        eog=frozenset({0}),
        history=history,
        grammar=grammar,
    )


def tokens_of(chooser: Sampler, n: int, row: FloatArray = ROW) -> list[int]:
    return [chooser.sample(row.copy(), None).token for _ in range(n)]


def chi_square(tokens: list[int], expected: dict[int, float]) -> float:
    """How far counts are from expected probabilities, in standard deviations of the statistic."""
    counts = Counter(tokens)
    assert counts.keys() <= expected.keys()
    n = len(tokens)
    statistic = sum((counts[token] - n * p) ** 2 / (n * p) for token, p in expected.items())
    n_free = len(expected) - 1
    return (statistic - n_free) / math.sqrt(2 * n_free)


def softmax(logits: dict[int, float]) -> dict[int, float]:
    total = sum(math.exp(v) for v in logits.values())
    return {token: math.exp(v) / total for token, v in logits.items()}


class Only:
    """A grammar that always allows the same tokens, and records what is asked of it."""

    def __init__(self, *allowed: int) -> None:
        self.allowed = allowed
        self.accepted: list[int] = []
        self.n_masks = 0

    def is_allowed(self, token: int) -> bool:
        return token in self.allowed

    def mask(self, logits: FloatArray) -> None:
        self.n_masks += 1
        logits[[i for i in range(len(logits)) if i not in self.allowed]] = -np.inf

    def accept(self, token: int) -> None:
        assert self.is_allowed(token)
        self.accepted.append(token)


# --- distribution ---


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    """With no truncation, counts are those of softmax(logits / temperature)."""
    tokens = tokens_of(sampler(**{**EVERYTHING, "temperature": temperature}), 4000)
    assert chi_square(tokens, softmax({i: v / temperature for i, v in enumerate(ROW.tolist())})) < 5


def test_truncation_renormalizes() -> None:
    """top_k leaves the k best with their relative probabilities."""
    tokens = tokens_of(sampler(**{**EVERYTHING, "top_k": 3}), 4000)
    assert chi_square(tokens, softmax({i: float(ROW[i]) for i in range(3)})) < 5


def test_xtc_acts_as_often_as_asked() -> None:
    """With probability 0.5 the top choices but the least are excluded, else nothing changes."""
    settings = {**EVERYTHING, "xtc_probability": 0.5, "xtc_threshold": 0.1}
    logits = {i: float(v) for i, v in enumerate(ROW)}
    plain = softmax(logits)
    assert [token for token, p in plain.items() if p >= 0.1] == [0, 1, 2]
    cut = softmax({token: v for token, v in logits.items() if token >= 2})
    tokens = tokens_of(sampler(**settings), 6000)
    assert chi_square(tokens, {t: 0.5 * plain[t] + 0.5 * cut.get(t, 0) for t in plain}) < 5


def test_resampling_under_a_grammar_keeps_the_distribution() -> None:
    """Sampling first and masking only on refusal gives the same odds as masking always."""
    grammar = Only(1, 3, 6)
    tokens = tokens_of(sampler(grammar=grammar, **EVERYTHING), 4000)
    assert chi_square(tokens, softmax({i: float(ROW[i]) for i in grammar.allowed})) < 5
    assert 0 < grammar.n_masks < 4000
    assert grammar.accepted == tokens


def test_mirostat_holds_the_surprise_near_tau() -> None:
    """The mean surprise of the drawn tokens approaches tau, where plain sampling's is another."""
    row = np.random.default_rng(5).normal(0, 1, 8).astype(np.float32)
    row = np.concatenate((row, np.linspace(-2, 1, 500, dtype=np.float32)))
    probabilities = np.exp(row - row.max(), dtype=np.float64)
    probabilities /= probabilities.sum()
    chooser = Sampler(
        Sampling(mirostat=2, mirostat_tau=4.0, temperature=1, seed=3),
        n_vocab=len(row),
        logit_bias={},
        breakers=frozenset(),
        eog=frozenset(),
        history=[],
        grammar=None,
    )
    tokens = tokens_of(chooser, 1500, row)[300:]
    kept = np.sort(np.unique(tokens))
    within = probabilities / probabilities[kept].sum()
    assert np.mean([-math.log2(within[token]) for token in tokens]) == pytest.approx(4.0, abs=0.5)


# --- greedy, seeds, edits ---


def test_temperature_zero_takes_the_best() -> None:
    """Greedy ignores the truncations and the seed, and takes the lower id of equals."""
    assert tokens_of(sampler(temperature=0, top_k=1, xtc_probability=1.0), 2) == [0, 0]
    assert tokens_of(sampler(temperature=0), 1, np.zeros(8, np.float32)) == [0]


def test_greedy_acts_after_bias_and_penalties() -> None:
    """A bias or a repetition can dethrone the best token."""
    assert tokens_of(sampler(temperature=0, bias={5: 3.0}), 1) == [5]
    assert tokens_of(sampler([0], temperature=0, repeat_penalty=2.5), 3) == [1, 2, 0]
    assert tokens_of(sampler([4, 0, 4], temperature=0, dry_multiplier=5, dry_allowed_length=1), 1) == [1]


@given(st.integers(0, 2**63))
def test_same_seed_same_tokens(seed: int) -> None:
    """A seed makes the answer repeatable, with every random part in play."""
    settings = {**EVERYTHING, "seed": seed, "xtc_probability": 0.5}
    assert tokens_of(sampler(**settings), 12) == tokens_of(sampler(**settings), 12)


def test_seed_minus_one_is_random() -> None:
    """Without a seed two answers differ."""
    settings = {**EVERYTHING, "seed": -1}
    assert tokens_of(sampler(**settings), 200) != tokens_of(sampler(**settings), 200)


def test_ignore_eos_excludes_the_ends() -> None:
    """With ignore_eos no end-of-generation token can come, whatever a bias says."""
    assert tokens_of(sampler(temperature=0, ignore_eos=True, bias={0: 100.0}), 1) == [1]


def test_extreme_biases_are_survived() -> None:
    """Biases beyond float32 make a token certain or impossible, never the logits infinite."""
    assert set(tokens_of(sampler(bias={3: 1e308, 4: -1e308}, **EVERYTHING), 50)) == {3}
    assert set(tokens_of(sampler([3], bias={3: 1e308}, presence_penalty=-1e308, **EVERYTHING), 50)) == {3}


def test_bias_outside_of_the_vocabulary_is_refused() -> None:
    """The error names the token."""
    with pytest.raises(BadRequest, match="token 8"):
        sampler(bias={8: 1.0})


# --- broken models and hopeless requests ---


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"top_k": 3}, {"top_k": 0}, {"mirostat": 2}])
def test_nan_logits_are_the_models_fault(settings: dict[str, Any]) -> None:
    """One NaN anywhere ends the request with an error that says so."""
    row = ROW.copy()
    row[6] = np.nan
    with pytest.raises(BadModel, match="NaN"):
        sampler(**settings).sample(row, None)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"top_k": 3}, {"top_k": 0}, {"mirostat": 2}])
def test_no_token_left_is_the_requests_fault(settings: dict[str, Any]) -> None:
    """A grammar that allows nothing ends the request, not the loop."""
    with pytest.raises(BadRequest, match="no token is left"):
        sampler(grammar=Only(), **settings).sample(ROW.copy(), None)


# --- grammar ---


def test_a_refused_choice_leaves_no_trace() -> None:
    """The token first refused enters neither history nor grammar, and no penalty is applied twice."""
    grammar = Only(4, 5)
    chooser = sampler([4], grammar=grammar, temperature=0, presence_penalty=0.3)
    assert tokens_of(chooser, 4) == [4, 4, 4, 4]  # 0.0 - 0.3 still beats -0.5; 0.0 - 0.6 would not
    assert grammar.accepted == [4, 4, 4, 4]


def test_an_allowed_choice_is_not_masked() -> None:
    """The costly mask is only for refusals."""
    grammar = Only(0)
    tokens_of(sampler(grammar=grammar, temperature=0), 3)
    assert grammar.n_masks == 0


# --- log-probabilities ---


def test_logprobs_are_the_models_own() -> None:
    """They are of the raw logits: neither bias nor temperature nor truncation changes them."""
    chooser = sampler(bias={3: 50.0}, temperature=0.2, top_k=1)
    sampled = chooser.sample(ROW.copy(), 3)
    logprobs = np.log(np.exp(ROW.astype(float)) / np.exp(ROW.astype(float)).sum())
    assert sampled.token == 3
    assert sampled.logprob == pytest.approx(logprobs[3], rel=1e-5)
    assert [token for token, _ in sampled.top] == [0, 1, 2]
    assert [p for _, p in sampled.top] == pytest.approx(logprobs[:3].tolist(), rel=1e-5)


def test_logprobs_only_when_asked() -> None:
    """None asks for none; 0 for the chosen token's alone."""
    assert sampler(temperature=0).sample(ROW.copy(), None).logprob is None
    chosen_only = sampler(temperature=0).sample(ROW.copy(), 0)
    assert chosen_only.logprob is not None
    assert chosen_only.top == []


# --- the chain as a whole ---


def chain_reference(row: np.ndarray, settings: dict[str, Any]) -> set[int]:
    """The tokens llama.cpp's chain leaves: top-k, typical, top-p, min-p, one after another, done slowly."""
    left = sorted(range(len(row)), key=lambda i: (-row[i], i))[: settings["top_k"] or None]

    def until(order: list[int], is_enough: Callable[[float], bool]) -> list[int]:
        chance = softmax({i: float(row[i]) for i in left})
        total, kept = 0.0, []
        for token in order:
            kept.append(token)
            total += chance[token]
            if is_enough(total):
                break
        return kept

    chance = softmax({i: float(row[i]) for i in left})
    entropy = -sum(p * math.log(p) for p in chance.values())
    if settings["typical_p"] < 1:
        by_surprise = sorted(left, key=lambda i: abs(-math.log(chance[i]) - entropy))
        left = until(by_surprise, lambda total: total > settings["typical_p"])
    if settings["top_p"] < 1:
        by_probability = sorted(left, key=lambda i: -row[i])
        left = until(by_probability, lambda total: total >= settings["top_p"])
    chance = softmax({i: float(row[i]) for i in left})
    return {i for i in left if chance[i] >= settings["min_p"] * max(chance.values())}


@given(
    seed=st.integers(0, 1000),
    top_k=st.sampled_from([0, 1, 5, 40]),
    typical_p=st.sampled_from([1.0, 0.9, 0.3]),
    top_p=st.sampled_from([1.0, 0.8, 0.2]),
    min_p=st.sampled_from([0.0, 0.05, 0.4]),
)
def test_truncations_act_one_after_another(seed: int, **settings: Any) -> None:
    """Whatever is drawn lies in the set that a slow chain of the same settings leaves, and the extremes are reached."""
    row = np.random.default_rng(seed).normal(0, 2, 30).astype(np.float32)
    chooser = Sampler(
        Sampling(temperature=5.0, seed=seed, **settings),
        n_vocab=30,
        logit_bias={},
        breakers=frozenset(),
        eog=frozenset(),
        history=[],
        grammar=None,
    )
    drawn = set(tokens_of(chooser, 300, row))
    expected = chain_reference(row, settings)
    assert drawn <= expected
    if len(expected) <= 4:
        assert drawn == expected
