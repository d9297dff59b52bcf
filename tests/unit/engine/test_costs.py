"""What a step of some size will take, from those that were computed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.costs import StepCosts


def test_between_known_sizes_it_lies_on_the_line() -> None:
    costs = StepCosts()
    costs.observe(1, 0.010)
    costs.observe(5, 0.018)
    assert costs.predict_s(1) == pytest.approx(0.010)
    assert costs.predict_s(3) == pytest.approx(0.014)


def test_one_stall_of_the_machine_changes_little() -> None:
    costs = StepCosts()
    for _ in range(20):
        costs.observe(4, 0.010)
    costs.observe(4, 10.0)
    assert costs.predict_s(4) < 0.015


def test_what_changed_is_learnt_anew() -> None:
    costs = StepCosts()
    costs.observe(4, 0.010)
    for _ in range(40):
        costs.observe(4, 0.020)
    assert costs.predict_s(4) == pytest.approx(0.020, rel=0.05)


@given(st.dictionaries(st.integers(1, 300), st.floats(1e-5, 10)), st.integers(1, 300))
def test_it_always_says_something_positive_once_a_step_was_seen(seen: dict[int, float], n_tokens: int) -> None:
    costs = StepCosts()
    for size, seconds in seen.items():
        costs.observe(size, seconds)
    assert (costs.predict_s(n_tokens) > 0) == any(size <= 256 for size in seen)
