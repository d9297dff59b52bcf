"""How much each model is wanted."""

from __future__ import annotations

import pytest

from beastd.fleet.demand import MOST_KEYS, Demand


def asked(demand: Demand, key: str, *times_s: float) -> None:
    for at_s in times_s:
        demand.note(key, at_s)


def test_nobody_asked_is_no_demand() -> None:
    """A key that was never noted."""
    assert Demand().rate("cub", 10.0) == 0.0


def test_a_steady_rate_is_found_again() -> None:
    """One request every ten seconds for a day, seen between two of them."""
    demand = Demand()
    asked(demand, "cub", *(10.0 * i for i in range(8640)))
    assert demand.rate("cub", 86_395.0) == pytest.approx(0.1, rel=0.01)


def test_regular_use_outweighs_one_use_of_late() -> None:
    """A request every five minutes for hours against one just now."""
    demand = Demand()
    asked(demand, "regular", *(300.0 * i for i in range(36)))
    asked(demand, "once", 10_750.0)
    assert demand.rate("regular", 10_750.0) > demand.rate("once", 10_750.0)


def test_a_conversation_outweighs_use_that_is_as_frequent_but_over() -> None:
    """Six requests in the last minutes against six that came an hour before."""
    demand = Demand()
    asked(demand, "over", *(30.0 * i for i in range(6)))
    asked(demand, "under way", *(3600.0 + 30.0 * i for i in range(6)))
    assert demand.rate("under way", 3760.0) > 2 * demand.rate("over", 3760.0)


def test_a_conversation_outweighs_sparse_use_all_day() -> None:
    """Three requests in a minute against one every ten minutes: only the short fade tells."""
    demand = Demand()
    asked(demand, "all day", *(600.0 * i for i in range(144)))
    asked(demand, "under way", 86_000.0, 86_030.0, 86_060.0)
    assert demand.rate("under way", 86_070.0) > demand.rate("all day", 86_070.0)


def test_only_so_many_keys_are_remembered() -> None:
    """The one noted least recently goes first."""
    demand = Demand()
    for i in range(MOST_KEYS + 1):
        demand.note(str(i), 0.0)
    assert demand.rate("0", 0.0) == 0.0
    assert demand.rate("1", 0.0) > 0.0
