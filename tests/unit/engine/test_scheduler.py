"""Who is in the next step, with how many tokens."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.contract import Priority
from beastd.engine.adapters import AdapterSet
from beastd.engine.detokenizer import Detokenizer
from beastd.engine.kvcache import KVCache
from beastd.engine.pace import ALONE, KERNEL_TOKENS, MIN_STEP_TOKENS, STRETCH, Pace
from beastd.engine.policies import AGEING
from beastd.engine.sampler import Sampler
from beastd.engine.scheduler import (
    SET_BONUS,
    Chunk,
    Scheduler,
)
from beastd.engine.sequence import Sequence
from beastd.engine.turns import TURN_STEPS
from tests.unit.engine.fakes import FakeCells, scheduler_of

SECOND = 10**9
PIRATE: AdapterSet = (("pirate", 1.0),)


def sequence(
    id_: int, n_prompt: int, *, arrived_s: float = 0, adapters: AdapterSet = (), priority: Priority = "normal"
) -> Sequence:
    return Sequence(
        id=id_,
        prompt=[id_] * n_prompt,
        sampler=cast(Sampler, None),
        detokenizer=Detokenizer([]),
        n_ctx=4096,
        n_predict=4096,
        priority=priority,
        adapters=adapters,
        arrived_ns=int(arrived_s * SECOND),
    )


def scheduler(n_slots: int = 4, rate: float = 100, target_s: float = 1, policy: str = "mix") -> Scheduler:
    return scheduler_of(KVCache(n_slots, FakeCells()), Pace(target_s, 2048, rate), policy=policy)


def compute(chunks: list[Chunk], rooms: Scheduler) -> None:
    """What the engine does with a batch, less the arithmetic: each finished prompt and decode gets a token."""
    for chunk in chunks:
        assert chunk.sequence.slot is not None
        assert chunk.start == len(chunk.sequence.slot.tokens)
        cast(FakeCells, rooms.cache.cells).compute(rooms.cache, chunk.sequence.slot, chunk.tokens)
        if chunk.wants_logits:
            chunk.sequence.answer.append(7)


def ids(chunks: list[Chunk]) -> list[int]:
    return [chunk.sequence.id for chunk in chunks]


def test_decodes_come_first_and_prompts_fill_the_rest() -> None:
    rooms = scheduler(rate=100)
    rooms.add(sequence(1, 10))
    rooms.admit(0)
    compute(rooms.next_batch(0), rooms)
    rooms.add(sequence(2, 500))
    rooms.admit(0)
    chunks = rooms.next_batch(0)
    assert ids(chunks) == [1, 2]
    assert [len(chunk.tokens) for chunk in chunks] == [1, 81]  # one goes with the decode, 80 fill the kernels evenly
    assert [chunk.wants_logits for chunk in chunks] == [True, False]


def test_a_short_prompt_overtakes_long_ones() -> None:
    rooms = scheduler()
    for id_ in (1, 2):
        rooms.add(sequence(id_, 1000))
    rooms.admit(0)
    compute(rooms.next_batch(0), rooms)
    rooms.add(sequence(3, 10))
    rooms.admit(0)
    assert 3 in ids(rooms.next_batch(0))


def test_a_short_prompt_is_not_kept_waiting_by_parts_of_long_ones_in_its_step() -> None:
    rooms = scheduler()
    rooms.add(sequence(1, 1000))
    rooms.add(sequence(2, 10))
    rooms.admit(0)
    chunks = rooms.next_batch(0)
    assert ids(chunks) == [2]
    compute(chunks, rooms)
    assert [chunk.is_prefill for chunk in rooms.next_batch(0)] == [False, True]


def test_a_prompt_that_ends_in_a_step_does_not_wait_for_another_that_only_fills_it() -> None:
    """Two of 45 tokens would fit a step of a second; the first one's answer begins half a second sooner alone."""
    rooms = scheduler(rate=100)
    for id_ in (1, 2):
        rooms.add(sequence(id_, 45))
    rooms.admit(0)
    assert [len(chunk.tokens) for chunk in rooms.next_batch(0)] == [45]


def test_short_prompts_share_a_step_that_many_answers_make_dear() -> None:
    """Each further step would compute the rows of all answers once more."""
    rooms = scheduler(n_slots=40, rate=100)
    for id_ in range(30):
        rooms.add(sequence(id_, 1))
    rooms.admit(0)
    while not all(one.answer for one in rooms.running):
        compute(rooms.next_batch(0), rooms)
    for id_ in range(50, 55):
        rooms.add(sequence(id_, 10))
    rooms.admit(0)
    assert sum(chunk.is_prefill for chunk in rooms.next_batch(0)) >= 3


def test_a_prompt_that_is_a_little_longer_than_a_step_should_hold_is_not_split() -> None:
    rooms = scheduler(rate=100)
    rooms.add(sequence(1, 140))
    rooms.add(sequence(2, 300))
    rooms.admit(0)
    chunks = rooms.next_batch(0)
    assert [len(chunk.tokens) for chunk in chunks] == [140]
    compute(chunks, rooms)
    assert sum(len(chunk.tokens) for chunk in rooms.next_batch(0) if chunk.is_prefill) <= 100


def test_streams_that_fill_a_step_leave_a_prompt_as_much_time_as_they_take() -> None:
    rooms = scheduler(n_slots=64, rate=1, target_s=68)
    for id_ in range(62):
        rooms.add(sequence(id_, 1))
    rooms.admit(0)
    while not all(one.answer for one in rooms.running):
        compute(rooms.next_batch(0), rooms)
    rooms.add(sequence(99, 1000))
    rooms.admit(0)
    (chunk,) = [chunk for chunk in rooms.next_batch(0) if chunk.is_prefill]
    rows_s = rooms.pace.costs.predict_s(62)
    assert rows_s - (KERNEL_TOKENS + 1) < len(chunk.tokens) <= rows_s, "at a token a second"


def test_a_long_prompt_is_not_overtaken_for_ever() -> None:
    """Prompts that take the whole machine keep coming; the long one is late by a few times its own length."""
    rooms = scheduler(n_slots=2, rate=100)
    rooms.add(sequence(1, 1000))
    rooms.admit(0)
    for second in range(int(1000 / 100 / AGEING) + 20):
        rooms.add(sequence(second + 2, 100, arrived_s=second))
        rooms.admit(second * SECOND)
        chunks = rooms.next_batch(second * SECOND)
        compute(chunks, rooms)
        for chunk in chunks:
            if chunk.sequence.answer:
                rooms.remove(chunk.sequence)
                if chunk.sequence.id == 1:
                    return
    raise AssertionError("the long prompt was never computed")


def test_waiting_sequences_get_freed_slots() -> None:
    rooms = scheduler(n_slots=1)
    first, second = sequence(1, 5), sequence(2, 5)
    rooms.add(first)
    rooms.add(second)
    assert rooms.admit(0) == [first]
    rooms.remove(first)
    assert rooms.admit(0) == [second]


def test_a_step_serves_one_adapter_set_and_sets_take_turns() -> None:
    rooms = scheduler()
    rooms.add(sequence(1, 5))
    rooms.add(sequence(2, 5, adapters=(("pirate", 1.0),)))
    rooms.admit(0)
    turns = []
    for _ in range(4 * TURN_STEPS):
        chunks = rooms.next_batch(0)
        assert len({chunk.sequence.adapters for chunk in chunks}) == 1
        turns.append(ids(chunks))
        compute(chunks, rooms)
    assert turns == ([[1]] * TURN_STEPS + [[2]] * TURN_STEPS) * 2


def test_a_sequence_whose_set_runs_goes_before_older_ones_of_other_sets() -> None:
    rooms = scheduler(n_slots=2)
    rooms.add(sequence(1, 5, adapters=PIRATE))
    rooms.admit(0)
    rooms.add(sequence(2, 5))
    rooms.add(sequence(3, 5, adapters=PIRATE))
    assert [one.id for one in rooms.admit(0)] == [3]


def test_a_set_that_keeps_being_asked_for_does_not_keep_others_out_for_ever() -> None:
    """A new sequence of the set that runs comes whenever a slot is free."""
    rooms = scheduler(n_slots=2, rate=100)
    rooms.add(sequence(0, 5, adapters=PIRATE))
    rooms.admit(0)
    rooms.add(sequence(1, 5))
    for second in range(2, int(SET_BONUS / 100 / AGEING) + 3):
        rooms.add(sequence(second, 5, arrived_s=second, adapters=PIRATE))
        (admitted,) = rooms.admit(second * SECOND)
        if admitted.id == 1:
            assert second > 2, "else nothing was preferred"
            return
        rooms.remove(admitted)
    raise AssertionError("the other set was never admitted")


def test_the_queue_is_the_order_of_admission() -> None:
    rooms = scheduler(n_slots=1)
    for id_, n in enumerate([300, 5, 80, 20]):
        rooms.add(sequence(id_, n))
    expected = [one.id for one in rooms.queue(0)]
    admitted = []
    while rooms.waiting:
        (one,) = rooms.admit(0)
        admitted.append(one.id)
        rooms.remove(one)
    assert admitted == expected == [1, 3, 2, 0]


@given(st.integers(1, 6), st.sampled_from([0.1, 0.3, 1.0]))
def test_sets_that_compute_long_prompts_do_not_stall_the_streams_of_another(n_others: int, step_s: float) -> None:
    """Every token takes 1 ms here: a stream waits for a round of about ``step_s``, as it would for one set's step."""
    rooms = scheduler(n_slots=8, rate=1000, target_s=step_s)
    rooms.add(sequence(0, 1, adapters=PIRATE))
    rooms.admit(0)
    compute(rooms.next_batch(0), rooms)
    for n in range(n_others):
        rooms.add(sequence(n + 1, 10_000, adapters=((f"other {n}", 1.0),)))
    rooms.admit(0)
    now_s = last_s = 0.0
    while now_s < 5 * step_s:
        chunks = rooms.next_batch(int(now_s * SECOND))
        now_s += sum(len(chunk.tokens) for chunk in chunks) / 1000
        compute(chunks, rooms)
        if 0 in ids(chunks):
            assert now_s - last_s <= max(step_s, n_others * MIN_STEP_TOKENS / 1000) + 0.002
            last_s = now_s
    assert last_s > step_s


def test_a_detached_adapter_runs_on_under_its_other_name_and_is_read_anew_for_those_who_wait() -> None:
    rooms = scheduler(n_slots=1)
    for id_ in (1, 2):
        rooms.add(sequence(id_, 5, adapters=PIRATE))
    rooms.admit(0)
    rooms.detach("pirate", "was pirate", was_read=True)
    assert rooms.running[0].adapters == (("was pirate", 1.0),)
    assert rooms.waiting[0].adapters == PIRATE
    assert rooms.adapters_in_use == {"pirate", "was pirate"}


def test_a_detached_adapter_that_nobody_has_read_yet_is_read_under_its_own_name() -> None:
    rooms = scheduler(n_slots=1)
    rooms.add(sequence(1, 5, adapters=PIRATE))
    rooms.admit(0)
    rooms.detach("pirate", "was pirate", was_read=False)
    assert rooms.running[0].adapters == PIRATE


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 2), st.booleans()), max_size=30), st.integers(1, 4))
def test_every_sequence_gets_its_whole_prompt_computed_once_and_no_step_exceeds_the_budget(
    arrivals: list[tuple[int, int, bool]], n_slots: int
) -> None:
    rooms = scheduler(n_slots=n_slots, rate=100)
    pending = [
        sequence(i, n, adapters=(("a", float(kind)),) if kind else ()) for i, (n, kind, _) in enumerate(arrivals)
    ]
    done: set[int] = set()
    for step in range(2000):
        if pending:
            rooms.add(pending.pop(0))
        rooms.admit(step * SECOND // 10)
        chunks = rooms.next_batch(step * SECOND // 10)
        n_prefill = sum(len(chunk.tokens) for chunk in chunks if chunk.is_prefill)
        n_rows = len(chunks) - sum(chunk.is_prefill for chunk in chunks)
        assert rooms.pace.costs.predict_s(n_rows, n_prefill) <= max(ALONE, STRETCH)
        assert len(set(ids(chunks))) == len(chunks)
        assert len({chunk.sequence.adapters for chunk in chunks}) <= 1
        for one in rooms.running:
            assert one.slot is not None
            assert one.slot.adapters == one.adapters, "no slot holds KV of two sets"
        compute(chunks, rooms)
        for chunk in chunks:
            if len(chunk.sequence.answer) >= 3:
                assert chunk.sequence.slot is not None
                assert chunk.sequence.slot.tokens[: len(chunk.sequence.prompt)] == chunk.sequence.prompt
                done.add(chunk.sequence.id)
                rooms.remove(chunk.sequence)
        if rooms.is_idle and not pending:
            break
    assert done == set(range(len(arrivals)))


def test_with_fewer_slots_the_last_to_come_wait_and_are_computed_again() -> None:
    """Prompt and answer so far, in one go; then the answer goes on."""
    rooms = scheduler(n_slots=3)
    for id_ in (1, 2, 3):
        rooms.add(sequence(id_, 10, arrived_s=id_))
        rooms.admit(0)
        compute(rooms.next_batch(0), rooms)
    slots, cache = rooms.cache.slots, KVCache(1, FakeCells())
    rooms.renew(cache, 1)
    cache.adopt(slots)
    assert [it.id for it in rooms.running] == [1]
    assert sorted(it.id for it in rooms.waiting) == [2, 3]
    assert len(rooms.cache.slots) == 1
    rooms.remove(rooms.running[0])
    (second,) = rooms.admit(0)
    (chunk,) = rooms.next_batch(0)
    assert (second.id, second.n_said) == (2, 2)
    assert chunk.tokens == [2] * 10 + [7, 7]
    assert chunk.wants_logits


def test_a_high_prompt_has_the_steps_tokens_before_shorter_ones_of_lower_priority() -> None:
    """And the slot before all of them."""
    rooms = scheduler(n_slots=2)
    rooms.add(sequence(1, 50, priority="low"))
    rooms.add(sequence(2, 50))
    rooms.add(sequence(3, 500, priority="high"))
    assert [one.id for one in rooms.admit(0)] == [3, 2]
    assert ids(rooms.next_batch(0)) == [3]


def test_nobody_waits_for_a_prompt_that_waits_for_others() -> None:
    """A short prompt goes before one that comes before the long one with the same beginning, at once or later."""
    rooms = scheduler()
    long, other, short = sequence(1, 2000), sequence(2, 300), sequence(3, 80)
    short.prompt[:64] = long.prompt[:64]
    rooms.add(long)
    assert rooms.admit(0) == [long]
    rooms.add(short)
    assert rooms.admit(0) == [], "the long one has all steps, and computes what both have"
    rooms.add(other)
    assert rooms.admit(0) == [other]
    assert rooms.admit(0) == [short]


def test_no_prompt_is_searched_for_while_there_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue may be long, and so may its prompts."""
    rooms = scheduler(n_slots=1)
    rooms.add(sequence(1, 50))
    rooms.add(sequence(2, 50))
    (running,) = rooms.admit(0)
    searched = list[object]()
    monkeypatch.setattr(rooms.cache, "sharable", lambda prompt, _adapters: searched.append(prompt) or {})
    assert rooms.admit(0) == []
    assert not searched
    rooms.remove(running)
    assert len(rooms.admit(0)) == 1
    assert searched


def test_the_scheduler_follows_the_policy_it_is_given() -> None:
    """First come, first served, say."""
    rooms = scheduler(n_slots=1, policy="fcfs")
    for id_, n in enumerate([300, 5, 80]):
        rooms.add(sequence(id_, n, arrived_s=id_))
    assert [one.id for one in rooms.queue(10 * SECOND)] == [0, 1, 2]


def test_clients_share_slots_by_what_was_computed_for_them() -> None:
    """The one whose long prompt was computed comes after one who had nothing, though its next is shorter."""
    rooms = scheduler(n_slots=1, policy="fair")
    for id_, client, n in ((1, "ann", 500), (2, "ann", 5), (3, "bob", 50)):
        one = sequence(id_, n)
        one.client = client
        rooms.add(one)
    (first,) = rooms.admit(0)
    while not first.answer:
        chunks = rooms.next_batch(0)
        rooms.on_computed(chunks, 0.1, is_one_pass=True)
        compute(chunks, rooms)
    rooms.remove(first)
    assert [one.id for one in rooms.queue(0)] == [3, 2]


def test_what_an_answers_token_takes_is_learnt_from_steps_of_answers_alone() -> None:
    """At first it is guessed by the prefill rate."""
    pace = Pace(0.3, 2048, 100)
    assert pace.work_s(100, 0) == 1.0
    assert pace.work_s(0, 20) == 1.0
    for _ in range(60):
        pace.observe(8, 0, 0, 0.08)
    assert round(pace.work_s(0, 20), 3) == 0.2
