"""Whose turn it is where models wait for memory."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from beastd.fleet.line import HEAD_START, order_of

priorities = st.sampled_from(["high", "normal", "low"])


def test_models_are_loaded_by_the_priority_of_who_waits_for_them(book: Any, want: Any) -> None:
    """One at a time, where there is room for one."""
    (busy,) = (book.request(want("a", gb=9)),)
    book.settle()
    waiting = {
        name: book.request(want(name, gb=9), priority)
        for name, priority in (("b", "low"), ("c", "normal"), ("d", "high"))
    }
    served = []
    while waiting:
        book.release(busy, 0.0)
        book.settle()
        (name,) = (name for name, ticket in waiting.items() if ticket in book.outcomes)
        busy = waiting.pop(name)
        served.append(name)
    assert served == ["d", "c", "b"]


def test_who_joins_a_place_takes_it_along(book: Any, want: Any) -> None:
    """The model that one high request waits for is next for all that do."""
    busy = book.request(want("a", gb=9))
    book.settle()
    book.request(want("b", gb=9))
    waiting = [book.request(want("c", gb=9)), book.request(want("c", gb=9), "high")]
    book.release(busy, 0.0)
    book.settle()
    assert all(ticket in book.outcomes for ticket in waiting)


@given(st.lists(st.tuples(st.integers(0, 500), priorities), unique=True, max_size=200))
def test_places_are_all_different_and_nobody_is_passed_by_what_comes_much_later(requests: list[Any]) -> None:
    """Than the head start of its class."""
    places = [order_of(number, priority) for number, priority in requests]
    assert len(set(places)) == len(places)
    for number, priority in requests:
        assert order_of(number, priority) < order_of(number + 2 * HEAD_START + 1, "high")
        assert order_of(number, "high") < order_of(number, "normal") < order_of(number, "low")
