"""How memory is made: pure decisions over bytes of every device."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.fleet import policy
from beastd.fleet.footprint import Footprint, ram
from beastd.fleet.policy import Act, Move, Plan, Tenant, Verdict, plan

footprints = st.builds(lambda a, b: Footprint({"RAM": a, "CUDA0": b}), st.integers(0, 40), st.integers(0, 40))
shares = st.floats(0, 1)


@st.composite
def tenant(draw: Any, id_: int) -> Tenant:
    """A worker of any kind: busy, idle, asleep, pinned, on its way out, with a ladder or none."""
    holds = draw(footprints)
    if draw(st.integers(0, 4)) == 4:
        return Tenant(id_, holds, freeing=draw(st.sampled_from([Footprint(), holds, holds.times(0.5)])))
    less = sorted(draw(st.lists(shares, max_size=3)), reverse=True)
    return Tenant(
        id_,
        holds,
        can_leave=draw(st.booleans()),
        asleep=draw(st.none() | shares.map(holds.times)),
        lower=tuple(map(holds.times, less)),
        rate=draw(st.floats(0, 1)),
        reload_s=draw(st.floats(0.1, 60)),
        idle_since=draw(st.floats(0, 100)),
        keep_alive_s=draw(st.floats(0, 100)),
        name=draw(st.sampled_from("abc")),
    )


tenants = st.integers(0, 6).flatmap(lambda n: st.tuples(*map(tenant, range(n)))).map(list)


@st.composite
def situation(draw: Any) -> tuple[Footprint, Footprint, list[Tenant]]:
    """A need, a budget that the workers nearly fill, and the workers: mostly somebody has to make room."""
    all_ = draw(tenants)
    held = sum([it.holds for it in all_], Footprint())
    budget = held + draw(footprints).times(draw(st.sampled_from([0.0, 0.1, 1.0])))
    return budget.times(draw(st.floats(0, 1.1))), budget, all_


situations = situation()
Situation = tuple[Footprint, Footprint, list[Tenant]]
acts = st.sampled_from([policy.ALL_ACTS[:n] for n in (1, 2, 3)])
ranks = st.sampled_from([policy.by_cost, policy.by_recency, policy.by_keep_alive])


def gain(tenants: list[Tenant], move: Move) -> Footprint:
    """What a move gives back."""
    it = next(it for it in tenants if it.id == move.id)
    if move.act is Act.EVICT:
        return it.holds
    after = it.asleep if move.act is Act.SLEEP else it.lower[move.rung]
    assert after is not None
    return it.holds - after


def room_after(budget: Footprint, tenants: list[Tenant], moves: tuple[Move, ...]) -> Footprint:
    """What is free when everything that is coming free is, and these moves are made."""
    held = sum([it.holds - it.freeing for it in tenants], Footprint())
    return budget - held + sum([gain(tenants, move) for move in moves], Footprint())


@given(situations, acts, ranks)
def test_a_plan_keeps_what_it_promises(case: Situation, acts: tuple[Act, ...], rank: policy.Rank) -> None:
    """On every device; and its verdict is never weaker than it could be."""
    need, budget, tenants = case
    decision = plan(need, budget, tenants, acts=acts, rank=rank)
    now = budget - sum([it.holds for it in tenants], Footprint())
    match decision.verdict:
        case Verdict.START:
            assert need.fits_in(now)
        case Verdict.SOON:
            assert not need.fits_in(now)
            assert need.fits_in(room_after(budget, tenants, ()))
        case Verdict.MAKE_ROOM:
            assert not need.fits_in(room_after(budget, tenants, ()))
            assert need.fits_in(room_after(budget, tenants, decision.moves))
        case _:
            assert not need.fits_in(most_room(budget, tenants, acts))
    assert (decision.verdict is Verdict.MAKE_ROOM) == bool(decision.moves)


def most_room(budget: Footprint, tenants: list[Tenant], acts: tuple[Act, ...]) -> Footprint:
    """What would be free if everybody gave all they can; by device, as shares are of the whole."""
    room = room_after(budget, tenants, ())
    for it in tenants:
        gains = [gain(tenants, Move(it.id, Act.SLEEP))] if Act.SLEEP in acts and it.asleep is not None else []
        gains += [gain(tenants, Move(it.id, Act.STEP_DOWN, i)) for i in range(len(it.lower)) if Act.STEP_DOWN in acts]
        gains += [it.holds] if Act.EVICT in acts and it.can_leave else []
        room = room + max(gains, key=lambda it: it.total_bytes, default=Footprint())
    return room


@given(situations, acts, ranks)
def test_no_move_could_be_left_out(case: Situation, acts: tuple[Act, ...], rank: policy.Rank) -> None:
    """Nobody is disturbed in vain."""
    need, budget, tenants = case
    moves = plan(need, budget, tenants, acts=acts, rank=rank).moves
    for i in range(len(moves)):
        assert not need.fits_in(room_after(budget, tenants, moves[:i] + moves[i + 1 :]))


@given(situations, acts, ranks)
def test_only_what_may_move_moves_and_only_once(case: Situation, acts: tuple[Act, ...], rank: policy.Rank) -> None:
    """A busy, pinned or loading worker is never touched, and no act is used that was not allowed."""
    need, budget, tenants = case
    moves = plan(need, budget, tenants, acts=acts, rank=rank).moves
    by_id = {it.id: it for it in tenants}
    assert len({move.id for move in moves}) == len(moves)
    for move in moves:
        it = by_id[move.id]
        assert move.act in acts
        assert move.act is not Act.EVICT or it.can_leave
        assert move.act is not Act.SLEEP or it.asleep is not None
        assert move.act is not Act.STEP_DOWN or move.rung < len(it.lower)


@given(situations, ranks)
def test_a_harsher_way_is_taken_only_where_the_milder_ones_do_not_suffice(case: Situation, rank: policy.Rank) -> None:
    """Sleep, then stepping down, then eviction."""
    need, budget, tenants = case
    moves = plan(need, budget, tenants, rank=rank).moves
    for n in (1, 2):
        if any(move.act in policy.ALL_ACTS[n:] for move in moves):
            assert plan(need, budget, tenants, acts=policy.ALL_ACTS[:n], rank=rank).verdict is Verdict.WAIT


@given(footprints, footprints, st.lists(st.tuples(footprints, st.floats(0, 1)), max_size=6))
def test_of_those_that_may_leave_the_first_by_rank_do(
    need: Footprint, budget: Footprint, holds: list[tuple[Footprint, float]]
) -> None:
    """Nobody goes while one before it that would have done as well stays."""
    idle = [Tenant(i, held, can_leave=True, rate=rate) for i, (held, rate) in enumerate(holds)]
    moves = plan(need, budget, idle).moves
    going = {move.id for move in moves}
    order = sorted(idle, key=policy.by_cost)
    for it in order:
        if it.id in going:
            before = order[: order.index(it)]
            assert not need.fits_in(room_after(budget, idle, tuple(Move(b.id, Act.EVICT) for b in before)))


@given(situations)
def test_the_order_of_the_tenants_does_not_matter(case: Situation) -> None:
    """For the verdict."""
    need, budget, tenants = case
    assert plan(need, budget, tenants).verdict is plan(need, budget, tenants[::-1]).verdict


# --- by example ---


def idle(id_: int, gb: int, **how: Any) -> Tenant:
    return Tenant(id_, ram(gb), can_leave=True, **how)


def test_starts_at_once_where_there_is_room() -> None:
    """Memory nobody has is taken first."""
    assert plan(ram(4), ram(10), [idle(1, 6)]) == Plan(Verdict.START)


def test_waits_for_what_is_coming_free_instead_of_taking_more() -> None:
    """A stopping process counts before anyone else has to go."""
    both = [Tenant(1, ram(5), freeing=ram(5)), idle(2, 5)]
    assert plan(ram(4), ram(10), both) == Plan(Verdict.SOON)


def test_evicts_nobody_in_vain() -> None:
    """If the idle ones do not suffice, they stay until the busy one is done."""
    assert plan(ram(9), ram(10), [Tenant(1, ram(5)), idle(2, 5)]) == Plan(Verdict.WAIT)


def test_a_sleep_that_turns_out_not_to_be_enough_becomes_an_eviction() -> None:
    """One move for one worker."""
    assert plan(ram(8), ram(10), [idle(1, 10, asleep=ram(7))]) == Plan(Verdict.MAKE_ROOM, (Move(1, Act.EVICT),))


def test_a_step_down_that_gives_less_than_sleep_does_not_take_its_place() -> None:
    """The sleeper goes on sleeping, and somebody else leaves."""
    sleeper = Tenant(1, ram(10), asleep=ram(4), lower=(ram(8),))
    moves = plan(ram(14), ram(20), [sleeper, idle(2, 10)]).moves
    assert set(moves) == {Move(1, Act.SLEEP), Move(2, Act.EVICT)}


def test_a_model_steps_down_only_as_far_as_needed() -> None:
    """The first rung that gives enough."""
    ladder = [Tenant(1, ram(8), lower=(ram(6), ram(4), ram(2)))]
    assert plan(ram(5), ram(10), ladder) == Plan(Verdict.MAKE_ROOM, (Move(1, Act.STEP_DOWN, 1),))


def test_a_device_is_not_helped_by_memory_of_another() -> None:
    """A model on the GPU goes for a model on the GPU, though one in RAM is the cheaper to lose."""
    budget = Footprint({"RAM": 10, "CUDA0": 10})
    on_ram = Tenant(1, ram(9), can_leave=True)
    on_gpu = Tenant(2, Footprint({"RAM": 1, "CUDA0": 9}), can_leave=True, rate=100.0)
    need = Footprint({"CUDA0": 5})
    assert plan(need, budget, [on_ram, on_gpu]) == Plan(Verdict.MAKE_ROOM, (Move(2, Act.EVICT),))


def test_both_devices_have_to_be_there() -> None:
    """Enough RAM is no comfort for a full GPU."""
    budget = Footprint({"RAM": 10, "CUDA0": 10})
    busy_gpu = Tenant(1, Footprint({"CUDA0": 8}))
    assert plan(Footprint({"RAM": 1, "CUDA0": 5}), budget, [busy_gpu]) == Plan(Verdict.WAIT)
    assert plan(Footprint({"RAM": 1, "CUDA0": 2}), budget, [busy_gpu]) == Plan(Verdict.START)


def test_a_device_that_the_budget_does_not_name_has_nothing() -> None:
    """A need of it cannot be had."""
    assert plan(Footprint({"CUDA1": 1}), ram(10), []) == Plan(Verdict.WAIT)


def test_a_need_of_nothing_brings_workers_back_within_a_smaller_budget() -> None:
    """And leaves those within it alone."""
    assert plan(Footprint(), ram(10), [idle(1, 6), idle(2, 3)]) == Plan(Verdict.START)
    assert plan(Footprint(), ram(8), [idle(1, 6, rate=9.0), idle(2, 3)]) == Plan(
        Verdict.MAKE_ROOM, (Move(2, Act.EVICT),)
    )


@pytest.mark.parametrize(
    ("rank", "first"),
    [(policy.by_cost, 1), (policy.by_recency, 2), (policy.by_keep_alive, 3)],
)
def test_ranks_differ(rank: policy.Rank, first: int) -> None:
    """The seldom used, the longest idle, the one of the shortest keep-alive."""
    three = [
        idle(1, 3, rate=0.1, idle_since=9.0, keep_alive_s=60.0),
        idle(2, 3, rate=0.5, idle_since=1.0, keep_alive_s=60.0),
        idle(3, 3, rate=0.5, idle_since=5.0, keep_alive_s=10.0),
    ]
    assert plan(ram(3), ram(9), three, rank=rank).moves == (Move(first, Act.EVICT),)


def test_the_cost_of_an_absence_counts_rate_reload_and_bytes() -> None:
    """Seconds of reloading to expect for each byte; a worker of no bytes divides by none."""
    base = idle(1, 10, rate=1.0, reload_s=2.0)
    assert policy.by_cost(base) == pytest.approx(0.2)
    assert policy.by_cost(idle(1, 20, rate=1.0, reload_s=2.0)) < policy.by_cost(base)
    assert policy.by_cost(idle(1, 10, rate=1.0, reload_s=4.0)) > policy.by_cost(base)
    assert policy.by_cost(idle(1, 10, rate=2.0, reload_s=2.0)) > policy.by_cost(base)
    assert policy.by_cost(idle(1, 0, rate=1.0, reload_s=2.0)) == 2.0
