"""How often each model is asked for, fading."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.fleet.demand import FADE_S, MOST_KEYS, Demand

times = st.lists(st.floats(0, 1e5), min_size=1, max_size=20).map(sorted)


def test_nobody_is_expected_of_a_model_nobody_asked_for() -> None:
    """Its rate is nothing."""
    assert Demand().rate("a", 0.0) == 0.0


def test_a_request_fades() -> None:
    """To 1/e after FADE_S."""
    demand = Demand()
    demand.note("a", 100.0)
    assert demand.rate("a", 100.0) == pytest.approx(1 / FADE_S)
    assert demand.rate("a", 100.0 + FADE_S) == pytest.approx(math.exp(-1) / FADE_S)


def test_a_steady_stream_is_its_own_rate() -> None:
    """A request every ten seconds is a tenth of one a second."""
    demand = Demand()
    for i in range(5000):
        demand.note("a", i * 10.0)
    assert demand.rate("a", 5000 * 10.0) == pytest.approx(0.1, rel=0.01)


def test_regular_use_outweighs_one_recent_use() -> None:
    """Which plain recency does not see."""
    demand = Demand()
    for i in range(10):
        demand.note("often", i * 60.0)
    demand.note("once", 1200.0)
    assert demand.rate("often", 1200.0) > demand.rate("once", 1200.0)


@given(times, st.floats(0, 1e5))
def test_the_rate_is_the_sum_of_what_is_left_of_each_request(at: list[float], later_s: float) -> None:
    """However they are spaced, and whenever it is asked."""
    demand = Demand()
    for moment in at:
        demand.note("a", moment)
    now = at[-1] + later_s
    left = sum(math.exp((moment - now) / FADE_S) for moment in at)
    assert demand.rate("a", now) == pytest.approx(left / FADE_S)


def test_the_models_it_remembers_are_bounded() -> None:
    """The one that was asked for longest ago is forgotten first."""
    demand = Demand()
    for i in range(MOST_KEYS):
        demand.note(str(i), float(i))
    demand.note("0", float(MOST_KEYS))
    demand.note("new", float(MOST_KEYS))
    assert demand.rate("0", float(MOST_KEYS)) > 0
    assert demand.rate("1", float(MOST_KEYS)) == 0
    assert demand.rate("2", float(MOST_KEYS)) > 0
