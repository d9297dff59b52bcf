"""A sequence whose KV is lost, or whose model is exchanged, says and counts everything once."""

from __future__ import annotations

from typing import cast

from beastd.engine.detokenizer import Detokenizer
from beastd.engine.sampler import Sampler
from beastd.engine.sequence import Sequence


def sequence(n_predict: int = 10) -> Sequence:
    sampler = cast(Sampler, None)
    return Sequence(
        id=1, prompt=[1, 2, 3], sampler=sampler, detokenizer=Detokenizer([]), n_ctx=20, n_predict=n_predict, variant="a"
    )


def test_what_was_said_is_computed_again_but_counts_as_answer() -> None:
    it = sequence()
    it.answer += [10, 11]
    it.begin_again()
    assert it.prompt == [1, 2, 3, 10, 11]
    assert not it.is_decoding
    it.answer += [12]
    it.begin_again()
    it.answer += [13]
    final = it.final("stop")
    assert it.said == [10, 11, 12, 13]
    assert (final.n_prompt, final.n_answer) == (3, 4)
    assert final.context == [1, 2, 3, 10, 11, 12, 13]


def test_beginning_again_leaves_the_prompt_of_others_alone() -> None:
    """The sampler's penalties may hold the very list."""
    it = sequence()
    prompt = it.prompt
    it.answer += [10]
    it.begin_again()
    assert prompt == [1, 2, 3]


def test_the_limit_counts_what_was_said_before() -> None:
    it = sequence(n_predict=3)
    it.answer += [10, 11]
    it.begin_again()
    assert not it.is_full
    it.answer += [12]
    assert it.is_full


def test_no_more_prompt_tokens_were_cached_than_there_are() -> None:
    """A slot may have kept part of the answer too."""
    it = sequence()
    it.answer += [10, 11]
    it.begin_again()
    it.n_cached = 4
    assert it.final("stop").n_cached == 3


def test_one_variant_is_not_listed() -> None:
    it = sequence()
    it.switch("b")  # before the first token
    it.answer += [10]
    final = it.final("stop")
    assert (final.variant, final.variants) == ("b", [])


def test_variants_are_listed_in_the_order_of_their_first_token() -> None:
    it = sequence()
    for variant in ("b", "a", "c", "d"):
        if variant != "d":  # nothing was computed with c
            it.answer += [10]
        it.switch(variant)
    it.answer += [10]
    final = it.final("stop")
    assert (final.variant, final.variants) == ("d", ["a", "b", "d"])
