"""Who must leave: pure decisions over bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beastd.fleet.policy import Plan, Tenant, Use, Verdict, plan

tenants = st.lists(
    st.builds(Tenant, st.uuids().map(str), st.integers(0, 50), st.sampled_from(Use), st.floats(0, 100)), max_size=6
)


def test_starts_at_once_where_there_is_room() -> None:
    """Memory nobody has is taken first."""
    assert plan(4, 10, [Tenant("a", 6, Use.IDLE)]) == Plan(Verdict.START)


def test_evicts_the_least_recently_used_first() -> None:
    """Of two idle workers that would do, the one idle for longer goes."""
    idle = [Tenant("new", 5, Use.IDLE, 9.0), Tenant("old", 5, Use.IDLE, 1.0)]
    assert plan(4, 10, idle) == Plan(Verdict.EVICT, ("old",))


def test_waits_for_workers_already_stopping_instead_of_evicting_more() -> None:
    """What is on its way out counts before anyone else has to go."""
    both = [Tenant("leaving", 5, Use.LEAVING), Tenant("idle", 5, Use.IDLE)]
    assert plan(4, 10, both) == Plan(Verdict.SOON)


def test_evicts_nobody_in_vain() -> None:
    """If the idle ones do not suffice, they stay until the busy one is done."""
    assert plan(9, 10, [Tenant("busy", 5, Use.HELD), Tenant("idle", 5, Use.IDLE)]) == Plan(Verdict.WAIT)


def test_larger_than_the_budget_is_impossible() -> None:
    """Waiting would not help."""
    assert plan(11, 10, []) == Plan(Verdict.IMPOSSIBLE)


@given(st.integers(0, 120), st.integers(0, 100), tenants)
def test_a_plan_keeps_what_it_promises(need: int, budget: int, tenants: list[Tenant]) -> None:
    """Victims are idle, the least recently used, enough, and not one more than needed; a verdict is never too weak."""
    decision = plan(need, budget, tenants)
    free = budget - sum(t.n_bytes for t in tenants)
    leaving = sum(t.n_bytes for t in tenants if t.use is Use.LEAVING)
    idle = sorted((t for t in tenants if t.use is Use.IDLE), key=lambda t: t.idle_since)
    victims = idle[: len(decision.victims)]
    assert tuple(t.key for t in victims) == decision.victims
    room = free + leaving + sum(t.n_bytes for t in victims)
    match decision.verdict:
        case Verdict.START:
            assert need <= free
        case Verdict.SOON:
            assert free < need <= room
        case Verdict.EVICT:
            assert room - victims[-1].n_bytes < need <= room
        case Verdict.WAIT:
            assert free + leaving + sum(t.n_bytes for t in idle) < need <= budget
        case Verdict.IMPOSSIBLE:
            assert need > budget
