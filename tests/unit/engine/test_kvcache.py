"""Which slot a prompt takes, and how much of it it keeps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.kvcache import KVCache, Slot, adapter_set, common_prefix

tokens = st.lists(st.integers(0, 3), max_size=40)


def acquire(cache: KVCache, prompt: list[int], adapters: tuple[tuple[str, float], ...] = ()) -> tuple[Slot, int]:
    found = cache.try_acquire(prompt, adapters)
    assert found is not None
    slot, n_kept = found
    slot.tokens += prompt[n_kept:]
    return slot, n_kept


@given(tokens, tokens)
def test_common_prefix_is_the_longest(a: list[int], b: list[int]) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


def test_same_prompt_again_keeps_all_but_its_last_token() -> None:
    cache = KVCache(2)
    slot, _ = acquire(cache, [1, 2, 3, 4])
    cache.release(slot)
    again, n_kept = acquire(cache, [1, 2, 3, 4])
    assert again is slot
    assert n_kept == 3


def test_busy_slots_are_never_given() -> None:
    cache = KVCache(1)
    acquire(cache, [1, 2])
    assert not cache.has_free
    assert cache.try_acquire([1, 2], ()) is None


def test_other_adapters_share_nothing() -> None:
    cache = KVCache(1)
    slot, _ = acquire(cache, [1, 2, 3], (("pirate", 1.0),))
    cache.release(slot)
    _, n_kept = acquire(cache, [1, 2, 3])
    assert n_kept == 0


def test_adapters_in_another_order_or_with_a_scale_of_0_make_the_same_set() -> None:
    assert adapter_set([("b", 1.0), ("a", 0.5), ("c", 0.0)]) == adapter_set([("a", 0.5), ("b", 1.0)])
    assert adapter_set([("a", 0.5)]) != adapter_set([("a", 1.0)])


def test_kv_of_a_detached_adapter_is_found_by_no_later_prompt() -> None:
    cache = KVCache(2)
    idle, _ = acquire(cache, [1, 2, 3], (("pirate", 1.0),))
    acquire(cache, [1, 2, 3, 4], (("poet", 1.0), ("pirate", 0.5)))
    cache.release(idle)
    cache.detach("pirate", "was pirate")
    _, n_kept = acquire(cache, [1, 2, 3], (("pirate", 1.0),))
    assert n_kept == 0
    assert not any(path == "pirate" and slot is not idle for slot in cache.slots for path, _ in slot.adapters)


def test_a_new_chat_takes_an_empty_slot_rather_than_a_long_one_with_the_same_first_tokens() -> None:
    cache = KVCache(2)
    chat, _ = acquire(cache, [1, 2, *range(10, 200)])
    cache.release(chat)
    other, n_kept = acquire(cache, [1, 2, 3])
    assert other is not chat
    assert n_kept == 0


def test_without_a_match_the_least_recently_used_slot_goes() -> None:
    cache = KVCache(3)
    slots = [acquire(cache, [n] * 5)[0] for n in (1, 2, 3)]
    for slot in (slots[1], slots[0], slots[2]):
        cache.release(slot)
    assert acquire(cache, [9, 9])[0] is slots[1]


@given(st.lists(st.tuples(tokens.filter(bool), st.booleans()), max_size=30))
def test_what_is_kept_is_always_a_true_prefix_of_the_prompt(requests: list[tuple[list[int], bool]]) -> None:
    cache = KVCache(3)
    held: list[Slot] = []
    for prompt, release in requests:
        found = cache.try_acquire(prompt, ())
        if found is None:
            assert len(held) == 3
            cache.release(held.pop())
            continue
        slot, n_kept = found
        assert n_kept < len(prompt)
        assert slot.tokens == prompt[:n_kept]
        slot.tokens += prompt[n_kept:]
        held.append(slot)
        if release:
            cache.release(held.pop(0))


def test_a_partitioned_cache_keeps_busy_slots_together() -> None:
    cache = KVCache(8, run_bonus=400)
    for slot in [acquire(cache, [n] * 50)[0] for n in range(8)]:
        cache.release(slot)
    taken = [acquire(cache, [100 + n] * 50)[0].index for n in range(4)]
    assert max(taken) - min(taken) == 3


def test_growing_adds_empty_slots_and_keeps_the_others() -> None:
    cache = KVCache(2)
    slot, _ = acquire(cache, [1, 2, 3])
    cache.resize(4)
    assert cache.slots[slot.index] is slot
    assert [other.index for other in cache.slots] == [0, 1, 2, 3]
    assert cache.n_tokens == 3


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 8))
def test_shrinking_keeps_busy_slots_then_the_last_used_with_their_tokens(busy: list[bool], n_slots: int) -> None:
    cache = KVCache(len(busy))
    slots = [acquire(cache, [100 + n])[0] for n in range(len(busy))]
    for slot, is_busy in zip(slots, busy, strict=True):
        if not is_busy:
            cache.release(slot)
    n_slots = max(n_slots, sum(busy))
    cache.resize(n_slots)
    assert [slot.index for slot in cache.slots] == list(range(n_slots))
    assert all(slot in cache.slots for slot, is_busy in zip(slots, busy, strict=True) if is_busy)
    idle = [slot for slot, is_busy in zip(slots, busy, strict=True) if not is_busy]
    n_kept = max(0, min(n_slots, len(busy)) - sum(busy))
    assert [slot for slot in idle if slot in cache.slots] == idle[len(idle) - n_kept :]


def test_slots_in_range_stay_where_they_are() -> None:
    cache = KVCache(4)
    first, second, third, _ = [acquire(cache, [n] * 3)[0] for n in range(4)]
    for slot in cache.slots:
        if slot is not second:
            cache.release(slot)
    last_used = cache.slots[3]
    cache.resize(2)
    assert (second.index, last_used.index) == (1, 0)
    assert first not in cache.slots
    assert third not in cache.slots
