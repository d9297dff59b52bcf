"""What followed the last time that the text ended as it does now."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.lookup import LONGEST, SHORTEST, Lookup

texts = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def lookup(prompt: list[int], answer: list[int] | None = None) -> Lookup:
    found = Lookup()
    found.follow(prompt, answer or [])
    return found


def test_what_followed_before_is_guessed() -> None:
    assert lookup([1, 2, 3, 4, 5, 1, 2]).guess(3) == ([3, 4, 5], 2)


def test_the_longest_match_counts_and_of_these_the_last() -> None:
    assert lookup([1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3]).guess(1) == ([7], 3)
    assert lookup([2, 3, 7, 9, 2, 3, 8, 1, 2, 3]).guess(1) == ([8], 2)


def test_a_text_that_repeats_itself_goes_on_doing_so() -> None:
    assert lookup([7, 1, 2, 1, 2, 1, 2]).guess(5)[0] == [1, 2, 1, 2, 1]


def test_a_single_token_says_nothing() -> None:
    assert lookup([1, 2, 3, 1]).guess(4)[0] == []
    assert lookup([]).guess(4)[0] == []
    assert lookup([1]).guess(4)[0] == []


def test_prompt_and_answer_are_one_text() -> None:
    """Also after what was said has become part of the prompt."""
    found = lookup([1, 2, 3, 4])
    found.follow([1, 2, 3, 4], [9, 1])
    found.follow([1, 2, 3, 4, 9, 1], [2])
    assert found.since(0) == [1, 2, 3, 4, 9, 1, 2]
    assert found.guess(2)[0] == [3, 4]


@given(texts, texts, st.integers(1, 20))
def test_a_guess_has_the_length_asked_for_and_its_match_is_real(
    prompt: list[int], answer: list[int], n_most: int
) -> None:
    text = prompt + answer
    guessed, n_same = lookup(prompt, answer).guess(n_most)
    pairs = [text[i - SHORTEST : i] for i in range(SHORTEST, len(text))]
    assert bool(guessed) == (text[-SHORTEST:] in pairs)
    if guessed:
        assert len(guessed) == n_most
        assert SHORTEST <= n_same <= LONGEST
        assert any(text[i - n_same : i] == text[-n_same:] and text[i] == guessed[0] for i in range(n_same, len(text)))


def test_texts_of_any_length_are_held() -> None:
    long = list(range(5000))
    found = lookup(long)
    found.follow(long, [10, 11])
    assert found.guess(2) == ([12, 13], 2)
    assert found.since(4998) == [4998, 4999, 10, 11]
