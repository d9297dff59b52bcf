"""Who is told how many are ahead of it, and how often."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.positions import EVERY_NS, Positions


def queue(*ids: int) -> list[Any]:
    return [SimpleNamespace(id=id_) for id_ in ids]


def test_a_new_request_is_told_at_once() -> None:
    positions = Positions()
    assert positions.news(queue(1), 0) == [(1, 0)]
    assert positions.is_due(queue(1, 2), 1)
    assert positions.news(queue(1, 2), 1) == [(2, 1)]


def test_a_change_is_told_once_a_second_has_passed() -> None:
    positions = Positions()
    positions.news(queue(1, 2), 0)
    assert not positions.is_due(queue(2), EVERY_NS - 1)
    assert positions.news(queue(2), EVERY_NS) == [(2, 0)]


def test_the_same_position_is_not_told_again() -> None:
    positions = Positions()
    positions.news(queue(1, 2), 0)
    assert positions.news(queue(1, 2), EVERY_NS) == []


def test_nobody_waits_and_nothing_is_due() -> None:
    assert not Positions().is_due([], 10 * EVERY_NS)


@given(st.lists(st.tuples(st.permutations(range(6)), st.integers(0, 6), st.integers(0, EVERY_NS)), max_size=40))
def test_nobody_is_told_twice_in_a_second_or_a_wrong_number(looks: list[tuple[list[int], int, int]]) -> None:
    positions, last_ns, now_ns = Positions(), dict[int, int](), 0
    for order, n, passed_ns in looks:
        now_ns += passed_ns
        waiting = order[:n]
        last_ns = {id_: told_ns for id_, told_ns in last_ns.items() if id_ in waiting}
        news = positions.news(queue(*waiting), now_ns)
        for id_, n_ahead in news:
            assert waiting.index(id_) == n_ahead
            assert now_ns - last_ns.get(id_, now_ns - EVERY_NS) >= EVERY_NS
            last_ns[id_] = now_ns
        assert set(last_ns) == set(waiting)
