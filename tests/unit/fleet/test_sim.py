"""A simulated day: the world of the benchmark, kept honest and small."""

from __future__ import annotations

import pytest
from fleetsim.policies import ADAPTIVE, LRU, POLICIES, Policy
from fleetsim.traces import Traffic, make_trace
from fleetsim.world import World
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL = Traffic("small", n_models=12, n_requests=300, budget_gb=0, fits=4, gap_s=4.0, service_s=5.0)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(POLICIES), st.integers(0, 2**32), st.sampled_from([1.0, 5.0]))
def test_every_request_of_a_day_ends_within_the_budget(policy: Policy, seed: int, session: float) -> None:
    """Under each policy, with contexts that grow, variants that are insisted on, and bursts."""
    trace = make_trace(Traffic("small", 12, 300, 0, 4, gap_s=4.0, session=session, drift_s=60.0), seed)
    world = World(trace, policy)
    tally = world.replay()
    assert world.n_unfinished == 0
    assert len(tally.waits_s) + tally.n_refused == 300
    assert tally.peak_bytes <= trace.budget_bytes


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_a_replay_is_the_same_each_time(policy: Policy) -> None:
    """One seed, one result."""
    first, second = (World(make_trace(SMALL, 7), policy).replay() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("policy", [it for it in POLICIES if not it.is_adaptive], ids=lambda policy: policy.name)
def test_a_fixed_quality_is_always_the_best(policy: Policy) -> None:
    """Nothing steps down that was not asked to."""
    tally = World(make_trace(SMALL, 7), policy).replay()
    assert tally.n_best == 300


def test_plain_lru_neither_sleeps_nor_steps() -> None:
    """It is plain."""
    tally = World(make_trace(SMALL, 7), LRU).replay()
    assert tally.n_wakes == 0
    assert tally.n_loads > 12


def test_adaptive_quality_reloads_less_than_plain_lru() -> None:
    """By the bar of 0.7 on each of these days."""
    for seed in range(3):
        trace = make_trace(SMALL, seed)
        ours, lru = World(trace, ADAPTIVE).replay(), World(trace, LRU).replay()
        assert ours.reload_s <= 0.7 * lru.reload_s
