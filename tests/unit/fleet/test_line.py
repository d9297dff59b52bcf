"""The line for memory: one place for each model, oldest first."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from beastd.fleet.line import HEAD_START, Line, order_of

NAMES = "abc"
priorities = st.sampled_from(["high", "normal", "low"])
steps = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 100), st.booleans()), max_size=30)


@given(steps)
def test_places_are_in_order_and_hold_everybody_once(want: Any, steps: list[tuple[str, int, bool]]) -> None:
    """Whoever comes, leaves, or comes back with an older number; positions are 1 to n without a gap."""
    line, inside = Line(), {}
    for ticket, (name, order, leaves) in enumerate(steps):
        inside[ticket] = line.add(ticket, want(name), order)
        if leaves:
            gone = next(iter(inside))
            line.leave(gone, inside.pop(gone))
    orders = [claim.order for claim in line]
    assert orders == sorted(orders)
    assert line.n_waiting == len(inside)
    assert {ticket for claim in line for ticket in claim.tickets} == set(inside)
    if len(set(orders)) == len(orders):
        positions = sorted(line.position(ticket, claim) for ticket, claim in inside.items())
        assert positions == list(range(1, len(inside) + 1))


def test_a_model_in_line_is_joined_at_its_place(want: Any) -> None:
    """Behind its own first, before younger models."""
    line = Line()
    a, b = line.add(1, want("a"), 1), line.add(2, want("b"), 2)
    assert line.add(3, want("a"), 3) is a
    assert list(line) == [a, b]
    assert line.position(3, a) == 2
    assert line.position(2, b) == 3


def test_who_comes_back_with_an_older_number_takes_its_model_along(want: Any) -> None:
    """Its turn was before."""
    line = Line()
    a = line.add(1, want("a"), 5)
    b = line.add(2, want("b"), 9)
    assert line.add(3, want("b"), 2) is b
    assert list(line) == [b, a]


def test_a_place_asks_for_what_answers_all_at_it(want: Any) -> None:
    """The most context of those who are there."""
    line = Line()
    claim = line.add(1, want("m", ladder=(4, 2, 1), n_ctx=8192), 1)
    line.add(2, want("m", ladder=(4, 2, 1), n_ctx=2048), 2)
    assert [rung.variant for rung in claim.want.rungs] == ["v0", "v1", "v2"]
    assert claim.want.n_ctx == 8192
    line.leave(1, claim)
    assert claim.want.n_ctx == 2048


def test_who_insists_on_a_variant_has_a_place_of_its_own(want: Any) -> None:
    """Else those who could have a smaller one would wait with it."""
    line = Line()
    claim = line.add(1, want("m", ladder=(4, 2, 1)), 1)
    insisting = line.add(2, want("m", ladder=(4, 2, 1), pick="v0"), 2)
    assert list(line) == [claim, insisting]
    assert [rung.variant for rung in claim.want.rungs] == ["v0", "v1", "v2"]


def test_the_last_to_leave_takes_the_place_along(want: Any) -> None:
    """Not one before."""
    line = Line()
    claim = line.add(1, want("a"), 1)
    line.add(2, want("a"), 2)
    line.leave(1, claim)
    assert list(line) == [claim]
    line.leave(2, claim)
    assert list(line) == []
    assert line.n_waiting == 0


def test_clearing_returns_everybody_in_order(want: Any) -> None:
    """And leaves nobody."""
    line = Line()
    line.add(1, want("a"), 2)
    line.add(2, want("b"), 1)
    assert [list(claim.tickets) for claim in line.clear()] == [[2], [1]]
    assert line.n_waiting == 0


# --- priorities ---


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
