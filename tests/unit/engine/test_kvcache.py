"""Which slot a prompt takes, whose tokens it shares, and what leaves the cache."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from beastd.engine.adapters import AdapterSet, adapter_set
from beastd.engine.kvcache import KVCache
from beastd.engine.prefixes import Slot, common_prefix
from tests.unit.engine.fakes import FakeCells

tokens = st.lists(st.integers(0, 3), max_size=40)
prompts = st.lists(st.integers(0, 2), min_size=1, max_size=24)


class Cache:
    """A cache with its cells; every prompt that gets a slot is computed whole at once."""

    def __init__(self, n_slots: int, n_cells: int | None = None, run_bonus: int = 0) -> None:
        self.cells = FakeCells()
        self.cache = KVCache(n_slots, self.cells, n_cells=n_cells, run_bonus=run_bonus)

    def acquire(self, prompt: list[int], adapters: AdapterSet = ()) -> tuple[Slot, int]:
        found = self.cache.try_acquire(prompt, adapters)
        assert found is not None
        slot, n_there = found
        assert slot.tokens == prompt[:n_there]
        assert n_there < len(prompt)
        self.cells.compute(self.cache, slot, prompt[n_there:])
        return slot, n_there

    def check(self) -> None:
        self.cache.check_integrity()
        for slot in self.cache.slots:
            assert self.cells.held[slot.index] == slot.tokens


@given(tokens, tokens)
def test_common_prefix_is_the_longest(a: list[int], b: list[int]) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


@pytest.mark.parametrize("n_cells", [None, 100])
def test_same_prompt_again_keeps_all_but_its_last_token(n_cells: int | None) -> None:
    it = Cache(2, n_cells)
    slot, _ = it.acquire([1, 2, 3, 4])
    it.cache.release(slot)
    assert it.acquire([1, 2, 3, 4])[1] == 3
    it.check()


def test_busy_slots_are_never_given() -> None:
    it = Cache(1)
    it.acquire([1, 2])
    assert it.cache.try_acquire([1, 2], ()) is None


@pytest.mark.parametrize("n_cells", [None, 100])
def test_a_running_sequence_s_prefix_is_shared(n_cells: int | None) -> None:
    it = Cache(3, n_cells)
    it.acquire([1, 2, 3, 4, 5])
    assert it.acquire([1, 2, 3, 9])[1] == 3
    it.check()


def test_shared_tokens_take_their_cells_once() -> None:
    it = Cache(8, 100)
    for n in range(8):
        it.acquire([*range(10, 30), n])
    assert it.cache.n_tokens == 20 + 8
    assert it.cache.n_shared_tokens == 7 * 20
    assert it.cache.n_free == 72


def test_cells_are_free_when_their_last_user_is_gone() -> None:
    it = Cache(2, 100)
    slots = [it.acquire([1, 2, 3, n])[0] for n in (7, 8)]
    for slot in slots:
        it.cache.release(slot)
    assert it.cache.make_room(99)
    assert it.cache.n_tokens <= 1
    it.check()


def test_the_least_recently_used_leaf_leaves_first_and_only_as_far_as_it_is_nobody_else_s() -> None:
    it = Cache(4, 20)
    first, second = it.acquire([1, 2, 3, 4, 5, 6])[0], it.acquire([1, 2, 3, 7, 8, 9])[0]
    it.cache.release(first)
    it.cache.release(second)
    assert it.cache.make_room(13)
    assert (first.tokens, second.tokens) == ([], [1, 2, 3, 7, 8, 9])
    assert it.cells.spilled == [([1, 2, 3, 4, 5, 6], 3)]
    it.check()


def test_busy_cells_are_not_to_be_had() -> None:
    it = Cache(4, 10)
    slot, _ = it.acquire([1, 2, 3, 4])
    assert it.cache.n_beside([slot]) == 6
    assert not it.cache.make_room(7)


def test_in_one_pool_a_prompt_that_goes_another_way_leaves_the_old_one_whole() -> None:
    it = Cache(4, 100)
    old, _ = it.acquire([1, 2, 3, 4, 5])
    it.cache.release(old)
    it.acquire([1, 2, 3, 9])
    assert old.tokens == [1, 2, 3, 4, 5]


def test_what_cannot_be_shared_is_computed_again() -> None:
    it = Cache(2)
    slot, _ = it.acquire([1, 2, 3, 4])
    it.cells.cannot_share.add((slot.index, 2))
    assert it.acquire([1, 2, 9])[1] == 0


def test_other_adapters_share_nothing() -> None:
    it = Cache(1)
    slot, _ = it.acquire([1, 2, 3], (("pirate", 1.0),))
    it.cache.release(slot)
    assert it.acquire([1, 2, 3])[1] == 0
    it.check()


def test_adapters_in_another_order_or_with_a_scale_of_0_make_the_same_set() -> None:
    assert adapter_set([("b", 1.0), ("a", 0.5), ("c", 0.0)]) == adapter_set([("a", 0.5), ("b", 1.0)])
    assert adapter_set([("a", 0.5)]) != adapter_set([("a", 1.0)])


def test_kv_of_a_detached_adapter_is_found_by_no_later_prompt() -> None:
    it = Cache(2)
    idle, _ = it.acquire([1, 2, 3], (("pirate", 1.0),))
    it.acquire([1, 2, 3, 4], (("poet", 1.0), ("pirate", 0.5)))
    it.cache.release(idle)
    it.cache.detach("pirate", "was pirate")
    assert it.acquire([1, 2, 3], (("pirate", 1.0),))[1] == 0
    assert not any(path == "pirate" and slot is not idle for slot in it.cache.slots for path, _ in slot.adapters)
    it.check()


def test_a_new_chat_takes_an_empty_slot_rather_than_a_long_one_with_the_same_first_tokens() -> None:
    it = Cache(2)
    chat, _ = it.acquire([1, 2, *range(10, 200)])
    it.cache.release(chat)
    other, _ = it.acquire([1, 2, 3])
    assert other is not chat


def test_without_a_match_the_least_recently_used_slot_goes() -> None:
    it = Cache(3)
    slots = [it.acquire([n] * 5)[0] for n in (1, 2, 3)]
    for slot in (slots[1], slots[0], slots[2]):
        it.cache.release(slot)
    assert it.acquire([9, 9])[0] is slots[1]


def test_a_partitioned_cache_keeps_busy_slots_together() -> None:
    it = Cache(8, run_bonus=400)
    for slot in [it.acquire([n] * 50)[0] for n in range(8)]:
        it.cache.release(slot)
    taken = [it.acquire([100 + n] * 50)[0].index for n in range(4)]
    assert max(taken) - min(taken) == 3


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 8))
def test_another_cache_takes_busy_slots_then_the_last_used_with_their_tokens(busy: list[bool], n_slots: int) -> None:
    it = Cache(len(busy))
    slots = [it.acquire([100 + n, 1])[0] for n in range(len(busy))]
    for slot, is_busy in zip(slots, busy, strict=True):
        if not is_busy:
            it.cache.release(slot)
    n_slots = max(n_slots, sum(busy))
    indices = {slot: slot.index for slot in slots}
    smaller = KVCache(n_slots, FakeCells())
    held = smaller.adopt(it.cache.slots)
    smaller.check_integrity()
    assert all(slot.index == indices[slot] for slot in held if indices[slot] < n_slots), "they stay where they are"
    assert all(slot in held for slot, is_busy in zip(slots, busy, strict=True) if is_busy)
    idle = [slot for slot, is_busy in zip(slots, busy, strict=True) if not is_busy]
    n_kept = max(0, min(n_slots, len(busy)) - sum(busy))
    assert [slot for slot in idle if slot in held] == idle[len(idle) - n_kept :]
    assert all(tokens == [100 + slots.index(slot), 1] for slot, tokens in held.items())


class AnyUse(RuleBasedStateMachine):
    """Sequences come, go on, are cut, and go, in any order and either layout."""

    @initialize(n_slots=st.integers(1, 5), n_cells=st.one_of(st.none(), st.integers(40, 90)))
    def start(self, n_slots: int, n_cells: int | None) -> None:
        self.it = Cache(n_slots, n_cells)
        self.busy: list[Slot] = []

    @rule(prompt=prompts, adapters=st.sampled_from([(), (("a", 1.0),)]))
    def come(self, prompt: list[int], adapters: AdapterSet) -> None:
        cache = self.it.cache
        if not all(slot.is_busy for slot in cache.slots) and cache.make_room(len(prompt)):
            n_expected = max(cache.sharable(prompt, adapters).values(), default=0)
            slot, n_there = self.it.acquire(prompt, adapters)
            assert n_there >= n_expected - 1, "copying a few tokens may not pay"
            self.busy.append(slot)

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), more=prompts)
    def go_on(self, data: st.DataObject, more: list[int]) -> None:
        if self.it.cache.make_room(len(more)):
            slot = data.draw(st.sampled_from(self.busy))
            self.it.cells.compute(self.it.cache, slot, more)

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.busy))
        self.it.cache.cut(slot, data.draw(st.integers(0, len(slot.tokens))))

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.it.cache.release(self.busy.pop(data.draw(st.integers(0, len(self.busy) - 1))))

    @rule(n=st.integers(1, 90))
    def make_room(self, n: int) -> None:
        before = {slot: list(slot.tokens) for slot in self.busy}
        n_obtainable = self.it.cache.n_beside(slot for slot in self.it.cache.slots if slot.is_busy)
        assert self.it.cache.make_room(n) == (n <= n_obtainable)
        assert all(slot.tokens == tokens for slot, tokens in before.items()), "running sequences keep their KV"

    @rule()
    def spill_all(self) -> None:
        self.it.cache.spill_all()
        assert self.it.cache.filled == [slot for slot in self.it.cache.slots if slot in self.busy and slot.tokens]

    @invariant()
    def check(self) -> None:
        self.it.check()


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
