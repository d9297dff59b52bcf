"""Which adapter set a step serves: all in turn, whatever the mix."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.adapters import AdapterSet
from beastd.engine.turns import TURN_STEPS, Turns

SETS: list[AdapterSet] = [(), *(((f"adapter {i}", 1.0),) for i in range(7))]
MS = 10**6
mixes = st.lists(st.sets(st.sampled_from(SETS), min_size=1), min_size=1, max_size=120)
"""The sets that have something to compute, step by step."""


@given(mixes, st.integers(0, 400))
def test_no_set_waits_for_more_than_a_turn_of_each_set_that_came_before_it(
    mix: list[set[AdapterSet]], step_ms: int
) -> None:
    turns = Turns(0.3)
    waited: Counter[AdapterSet] = Counter()
    for step, sets in enumerate(mix):
        served = turns.next(sets, step * step_ms * MS)
        assert served in sets
        for adapters in SETS:
            waited[adapters] = waited[adapters] + 1 if adapters in sets and adapters != served else 0
        assert max(waited.values()) <= TURN_STEPS * (len(SETS) - 1)


@given(st.sets(st.sampled_from(SETS), min_size=1), st.integers(1, 400))
def test_sets_that_stay_have_the_same_share_of_steps(sets: set[AdapterSet], step_ms: int) -> None:
    turns = Turns(0.3)
    served = Counter(turns.next(sets, step * step_ms * MS) for step in range(1000))
    assert set(served) == sets
    assert max(served.values()) - min(served.values()) <= TURN_STEPS


@given(st.integers(2, 8), st.integers(1, 400))
def test_a_round_takes_no_longer_than_it_may_unless_single_steps_do(n_sets: int, step_ms: int) -> None:
    turns, sets = Turns(0.3), set(SETS[:n_sets])
    starts: dict[AdapterSet, list[int]] = {}
    last: AdapterSet | None = None
    for step in range(500):
        served = turns.next(sets, step * step_ms * MS)
        if served != last:
            starts.setdefault(served, []).append(step * step_ms)
        last = served
    for times in starts.values():
        assert all(b - a <= max(300, n_sets * step_ms) for a, b in pairwise(times))


@given(st.integers(2, 8))
def test_turns_of_short_steps_are_long(n_sets: int) -> None:
    """Every change of set costs."""
    turns, sets = Turns(0.3), set(SETS[:n_sets])
    served = [turns.next(sets, step * MS) for step in range(TURN_STEPS * n_sets)]
    assert sum(a != b for a, b in pairwise(served)) == n_sets - 1


def test_a_set_that_is_alone_needs_no_turns() -> None:
    turns = Turns(0.3)
    assert {turns.next({SETS[1]}, step * 500 * MS) for step in range(100)} == {SETS[1]}
