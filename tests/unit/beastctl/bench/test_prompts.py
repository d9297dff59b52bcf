"""Prompts of a wanted length."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from beastctl.bench.prompts import Scale, text, with_prefix


@given(st.integers(0, 30), st.integers(1, 4), st.integers(40, 5000))
def test_the_scale_finds_the_words_for_a_length(n_fixed: int, n_per_word: int, n_tokens: int) -> None:
    """Two measured prompts tell how many words make any other."""

    def count(n_words: int) -> int:
        return n_fixed + n_per_word * n_words

    scale = Scale.through((40, count(40)), (200, count(200)))
    assert abs(count(scale.n_words(n_tokens)) - n_tokens) <= n_per_word


@given(st.integers(1, 50), st.integers(0, 60), st.integers())
def test_prompts_share_the_prefix_and_nothing_more(n_words: int, n_shared: int, seed: int) -> None:
    """The whole has the wanted length, unless the prefix alone is longer."""
    random = Random(seed)
    prefix = text(random, n_shared)
    prompt = with_prefix(prefix, random, n_words)
    assert prompt.startswith(prefix)
    assert len(prompt.split()) == max(n_words, n_shared + 1)


def test_two_prompts_begin_differently() -> None:
    """So no cached prefix helps."""
    random = Random(1)
    assert text(random, 20).split()[:4] != text(random, 20).split()[:4]
