"""One pool of cells, and more asked of it than it holds: all end, as if alone, and nobody computes what is there."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beastd.engine.adapters import AdapterSet
from beastd.engine.leaders import MIN_GAIN
from beastd.engine.policies import ORDERS
from beastd.engine.sequence import Sequence
from tests.unit.engine.world import N_CTX, Shop, request

SETS: list[AdapterSet] = [(), (("pirate", 1.0),), (("poet", 0.5), ("sage", 1.0))]
SYSTEM = list(range(1, 41))
"""A beginning that many prompts have in common."""


def some_request(id_: int, chance: Random, n_sets: int) -> Sequence:
    """Of any kind: short or as long as the context, with a common beginning or not, with long answers or none."""
    head = chance.choice([[], SYSTEM, SYSTEM[:20], [*SYSTEM, *SYSTEM]])
    n_more = chance.choice([1, 3, 20, 50, N_CTX - len(head) - 1])
    prompt = head + [chance.randint(10, 12) for _ in range(min(n_more, N_CTX - len(head) - 1))]
    return request(
        id_,
        prompt,
        n_predict=chance.choice([0, 1, 8, 30, 10**6]),
        priority=chance.choice(["high", "normal", "normal", "low"]),
        client=chance.choice(["ann", "bob"]),
        adapters=chance.choice(SETS[:n_sets]),
    )


shops = st.fixed_dictionaries(
    {
        "n_slots": st.integers(1, 9),
        "n_cells": st.sampled_from([None, N_CTX, N_CTX + 16, 2 * N_CTX, 5 * N_CTX]),
        "policy": st.sampled_from(sorted(ORDERS)),
        "keeps": st.booleans(),
        "drafts": st.booleans(),
        "step_tokens": st.sampled_from([32, 64, 2048]),
        "seed": st.integers(0, 10**6),
    }
)


@settings(max_examples=60, deadline=None)
@given(shops, st.integers(1, 25), st.integers(1, 3), st.sampled_from([0.0, 0.02]), st.sampled_from([0.2, 1.0, 3.0]))
def test_every_request_has_its_whole_answer_or_is_cancelled(
    shape: dict[str, object], n_requests: int, n_sets: int, cancels: float, rate: float
) -> None:
    """Whatever comes when; what must hold at every step is asserted there."""
    shop = Shop(n_most=max(1, int(shape["n_slots"]) - 1), **shape)  # type: ignore[arg-type, call-overload]
    chance = shop.chance
    coming = [some_request(id_, chance, n_sets) for id_ in range(n_requests)]
    cancelled: set[int] = set()
    n_work = sum(len(one.prompt) + min(one.n_predict, N_CTX) for one in coming)

    def meanwhile() -> None:
        for one in [*shop.rooms.waiting, *shop.rooms.running]:
            if chance.random() < cancels:
                shop.rooms.remove(one)
                cancelled.add(one.id)
        while coming and (shop.rooms.is_idle or chance.random() < rate / (1 + rate)):
            shop.add(coming.pop())

    shop.finish(100 + 4 * n_work, meanwhile)
    assert shop.answers.keys() | cancelled == set(range(n_requests))


def prompts_of_a_burst(n: int) -> list[list[int]]:
    """A common beginning, and then each its own way."""
    return [[*SYSTEM, *SYSTEM, *SYSTEM, *[100 + i] * 8] for i in range(n)]


@pytest.mark.parametrize("n_cells", [None, 5 * N_CTX])
@pytest.mark.parametrize("policy", sorted(ORDERS))
def test_a_burst_computes_its_common_beginning_once(n_cells: int | None, policy: str) -> None:
    """Those that come while the first computes it, too; in steps shorter than that."""
    shop = Shop(n_slots=20, n_cells=n_cells, n_most=20, policy=policy, step_tokens=32)
    coming = [request(i, prompt, 8) for i, prompt in enumerate(prompts_of_a_burst(12))]
    for one in coming[:9]:
        shop.add(one)
    shop.step()
    for one in coming[9:]:
        shop.add(one)
    shop.finish(200)
    assert shop.n_prompt == 3 * len(SYSTEM) + 12 * 8


def test_who_follows_one_that_ends_early_goes_on_alone() -> None:
    """The first was cancelled before it had computed what both have."""
    shop = Shop(n_slots=4, n_cells=5 * N_CTX, n_most=4, step_tokens=32)
    one, other = (request(i, [*SYSTEM, *SYSTEM, 100 + i], 4) for i in range(2))
    shop.add(one)
    shop.step()
    shop.add(other)
    shop.step()
    assert other in shop.rooms.waiting
    assert len(SYSTEM) * 2 - shop.n_prompt >= MIN_GAIN / 2, "else it would not wait any more"
    shop.rooms.remove(one)
    shop.step()
    assert other in shop.rooms.running
    shop.finish(20)


def test_nobody_waits_for_a_state_that_cannot_be_shared() -> None:
    """That of a recurrent model is of all its tokens."""
    shop = Shop(n_slots=4, n_cells=None, n_most=4, step_tokens=32)
    shop.world.shares_beginnings = False
    for i in range(2):
        shop.add(request(i, [*SYSTEM, *SYSTEM, 100 + i], 4))
    shop.step()
    assert len(shop.rooms.running) == 2


def test_nobody_waits_for_what_a_lower_class_computes() -> None:
    shop = Shop(n_slots=4, n_cells=5 * N_CTX, n_most=4, step_tokens=32)
    for i, priority in enumerate(("low", "high")):
        shop.add(request(i, [*SYSTEM, *SYSTEM, 100 + i], 4, priority=priority))
        shop.step()
    assert [one.priority for one in shop.rooms.running] == ["low", "high"]
    shop.finish(20)


def test_nobody_is_paused_for_one_that_does_not_fit_even_then() -> None:
    """It waits for one of its own class, whose cells it needs; the low one may as well go on."""
    shop = Shop(n_slots=4, n_cells=2 * N_CTX - 30, n_most=4)
    for i, (priority, n) in enumerate((("high", 150), ("low", 20), ("high", 150))):
        shop.add(request(i, [100 + i] * n, 6, priority=priority))
        shop.step()
    assert shop.rooms.n_paused == 0
    assert [one.id for one in shop.rooms.running] == [0, 1]
    shop.finish(40)


def test_a_high_one_takes_the_cells_of_low_ones() -> None:
    shop = Shop(n_slots=4, n_cells=2 * N_CTX, n_most=4)
    for i, (priority, n) in enumerate((("low", 100), ("low", 100), ("high", 100))):
        shop.add(request(i, [100 + i] * n, 30, priority=priority))
        shop.step()
    assert [one.id for one in shop.rooms.running] == [0, 2], "the youngest waits again"
    shop.finish(200)


def test_what_lies_idle_needs_room_for_those_who_share_it() -> None:
    """The next turn of a chat takes its history's cells from what there is; the running one has promised the rest."""
    shop = Shop(n_slots=4, n_cells=2 * N_CTX - 30, n_most=4)
    history = [7] * 100
    shop.add(request(0, history, 1))
    shop.finish(10)
    shop.add(request(1, [8] * 150, 9))
    shop.step()
    shop.add(request(2, [*history, *[9] * 40], 10))
    shop.finish(100)
    assert shop.rooms.n_paused == 0


def test_sets_whose_sequences_all_had_to_wait_again_leave_the_step_to_others() -> None:
    """The plain ones' turn has come when all of them are paused for lack of cells."""
    shop = Shop(n_slots=3, n_cells=N_CTX, n_most=3)
    shop.add(request(0, [7] * 60, 90, adapters=SETS[1]))
    shop.step()
    shop.add(request(1, [8] * 9, 90))
    shop.finish(400)
    assert shop.rooms.n_paused > 0


@pytest.mark.parametrize("n_prompt", [N_CTX - 1, N_CTX // 2])
@pytest.mark.parametrize("drafts", [False, True])
def test_what_fits_alone_ends_beside_its_like(n_prompt: int, drafts: bool) -> None:
    """Each may take all cells there are."""
    shop = Shop(n_slots=6, n_cells=N_CTX, n_most=5, drafts=drafts)
    for i in range(5):
        shop.add(request(i, [100 + i] * n_prompt, 10**6))
    shop.finish(1000)
    assert shop.answers.keys() == set(range(5))
