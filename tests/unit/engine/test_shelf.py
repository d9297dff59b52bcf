"""Finding entries by their tokens, against looking at every one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.shelf import Entry, Shelf, common_tokens, packed
from beastd.kvfile import Meta

Tokens = st.lists(st.integers(0, 1) | st.just(70_000), min_size=1, max_size=8)


def entry(tokens: list[int], start: int) -> Entry:
    return Entry(Meta(identity="", label="", start=min(start, len(tokens) - 1)), packed(tokens), 1)


def shelf(content: dict[tuple[int, ...], int]) -> Shelf:
    made = Shelf()
    for tokens, start in content.items():
        made.add(entry(list(tokens), start))
    return made


Contents = st.dictionaries(Tokens.map(tuple), st.integers(0, 7), max_size=12).map(shelf)


@given(Contents, Tokens, st.integers(0, 7))
def test_the_furthest_is_found(entries: Shelf, prompt: list[int], n_have: int) -> None:
    """Of those whose state begins early enough, the one that shares most."""
    asked = packed(prompt)
    usable = [common_tokens(it.tokens, asked) for it in entries if it.meta.start <= n_have]
    found = entries.furthest(asked, n_have)
    assert (found[1] if found else 0) == max((n for n in usable if n > n_have), default=0)
    if found:
        assert found[0].meta.start <= n_have
        assert common_tokens(found[0].tokens, asked) == found[1]


@given(Contents, Tokens)
def test_beginnings_and_continuations_are_complete(entries: Shelf, tokens: list[int]) -> None:
    """Beginnings come longest first."""
    asked = packed(tokens)
    begin = sorted((it.tokens for it in entries if asked.startswith(it.tokens)), key=len, reverse=True)
    assert [it.tokens for it in entries.beginnings(asked)] == begin
    assert {it.tokens for it in entries.continuations(asked)} == {
        it.tokens for it in entries if it.tokens.startswith(asked)
    }


@given(Contents)
def test_what_is_removed_is_gone(entries: Shelf) -> None:
    """And nothing else."""
    for it in list(entries):
        entries.remove(it)
        assert entries.same(it.tokens) is None
        assert it not in list(entries.continuations(it.tokens))
    assert len(entries) == 0


@given(st.lists(Tokens, min_size=2, max_size=2))
def test_tokens_sort_as_their_bytes(pair: list[list[int]]) -> None:
    """Which is what makes prefixes neighbours."""
    one, other = pair
    assert (one < other) == (packed(one) < packed(other))
