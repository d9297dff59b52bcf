"""Keys that failed, and how long they rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beastd.errors import LoadFailed
from beastd.fleet.cooling import FIRST_S, MOST_KEYS, MOST_S, Cooling

BROKEN = LoadFailed("broken")


def test_a_key_that_never_failed_does_not_rest() -> None:
    """There is nothing to tell of it."""
    assert Cooling().resting("a", 0.0) is None


@given(st.integers(1, 60), st.floats(0, 1e6))
def test_each_failure_in_a_row_doubles_the_rest_up_to_a_limit(n: int, now: float) -> None:
    """However many there are."""
    cooling = Cooling()
    for _ in range(n):
        failure = cooling.on_failure("a", BROKEN, now)
    assert (failure.n, failure.until) == (n, now + min(MOST_S, FIRST_S * 2 ** (n - 1)))
    assert cooling.resting("a", now) == failure
    assert cooling.resting("a", failure.until) is None


def test_a_row_goes_on_after_its_rest() -> None:
    """Time alone makes no file whole."""
    cooling = Cooling()
    cooling.on_failure("a", BROKEN, 0.0)
    assert cooling.on_failure("a", BROKEN, 1000.0).n == 2


def test_a_success_ends_the_row() -> None:
    """Of this key alone; of one without a row it changes nothing."""
    cooling = Cooling()
    for key in "ab":
        cooling.on_failure(key, BROKEN, 0.0)
    cooling.on_success("a")
    cooling.on_success("never failed")
    assert set(cooling.all_resting(1.0)) == {"b"}
    assert cooling.on_failure("a", BROKEN, 1.0).n == 1


def test_only_those_that_still_rest_are_told() -> None:
    """Each until its own time."""
    cooling = Cooling()
    cooling.on_failure("a", BROKEN, 0.0)
    cooling.on_failure("b", BROKEN, 2.0)
    assert set(cooling.all_resting(4.9)) == {"a", "b"}
    assert set(cooling.all_resting(5.0)) == {"b"}


def test_the_keys_it_remembers_are_bounded() -> None:
    """The oldest failure is forgotten first, and one that fails again is no longer the oldest."""
    cooling = Cooling()
    for i in range(MOST_KEYS):
        cooling.on_failure(str(i), BROKEN, 0.0)
    cooling.on_failure("0", BROKEN, 0.0)
    cooling.on_failure("new", BROKEN, 0.0)
    assert cooling.resting("0", 0.0)
    assert cooling.resting("1", 0.0) is None
    assert cooling.resting("new", 0.0)
