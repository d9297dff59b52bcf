"""Who makes room, and how: sleep before anything else, the cheapest first, pins kept, the budget obeyed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from beastd.errors import DoesNotFit, LoadFailed
from beastd.fleet import policy
from beastd.fleet.fleet import HOLD_STILL_S
from beastd.fleet.footprint import ram

GB = 10**9


# --- sleep ---


def test_an_idle_model_sleeps_before_one_leaves(book: Any, want: Any) -> None:
    """It keeps its weights, and the load starts when its memory is free."""
    book.loaded(want("a", gb=4), want("b", gb=4))
    book.request(want("c", gb=2.5))
    assert book.orders == [("sleep", "a@q8_0")]
    book.changed("a")
    assert book.orders[1:] == [("start", "c@q8_0")]


def test_several_sleep_where_that_suffices(book: Any, want: Any) -> None:
    """Nobody is evicted."""
    book.loaded(want("a", gb=4), want("b", gb=4))
    book.request(want("c", gb=4))
    assert sorted(book.orders) == [("sleep", "a@q8_0"), ("sleep", "b@q8_0")]


def test_where_sleep_is_not_enough_one_leaves_and_nobody_sleeps_in_vain(book: Any, want: Any) -> None:
    """What an eviction gives back makes the sleep of others unnecessary."""
    book.loaded(want("a", gb=4), want("b", gb=4))
    book.request(want("c", gb=5))
    assert book.orders == [("stop", "a@q8_0")]


def test_a_sleeping_model_wakes_for_a_request(book: Any, want: Any) -> None:
    """It is a change like another: granted when it is done."""
    book.loaded(want("a", gb=4), want("b", gb=4))
    c = book.request(want("c", gb=2.5))
    book.settle()
    book.release(c)
    book.fleet.on_unload(book.id_of("c"), book.now)
    book.settle()
    book.orders.clear()
    ticket = book.request(want("a", gb=4))
    assert book.orders == [("wake", "a@q8_0")]
    assert ticket not in book.outcomes
    book.changed("a")
    assert book.outcomes[ticket] == "a@q8_0"


def test_a_wake_for_which_there_is_no_room_makes_some(book: Any, want: Any) -> None:
    """As a load would."""
    book.loaded(want("a", gb=4), want("b", gb=4))
    c = book.request(want("c", gb=2.5))
    book.settle()
    book.release(c)
    book.orders.clear()
    ticket = book.request(want("a", gb=4))
    book.settle()
    assert [act for act, _ in book.orders] == ["sleep", "wake"]
    assert book.outcomes[ticket] == "a@q8_0"


def test_an_idle_model_falls_asleep_in_time_and_leaves_later(notebook: Any, want: Any) -> None:
    """First its KV cache, then its weights."""
    book = notebook(sleep_after_s=60.0)
    book.loaded(want(), keep_alive_s=300.0)
    assert book.fleet.next_deadline() == 61.0
    book.tick(60.9)
    assert book.orders == []
    book.tick(61.0)
    assert book.orders == [("sleep", "cub@q8_0")]
    assert book.why("sleep") == "nobody came for 60 s"
    book.changed("cub")
    assert book.fleet.next_deadline() == 301.0
    book.tick(301.0)
    assert book.orders[1:] == [("stop", "cub@q8_0")]


def test_a_busy_model_does_not_fall_asleep(notebook: Any, want: Any) -> None:
    """However long its answer takes; the time counts from its end."""
    book = notebook(sleep_after_s=60.0)
    book.loaded(want())
    ticket = book.request(want())
    book.tick(1000.0)
    assert book.orders == []
    book.release(ticket)
    assert book.fleet.next_deadline() == 1060.0


def test_a_request_that_meets_a_model_falling_asleep_wakes_it(notebook: Any, want: Any) -> None:
    """When it has fallen asleep: a change is not taken back half-way."""
    book = notebook(sleep_after_s=60.0)
    book.loaded(want())
    book.tick(61.0)
    ticket = book.request(want())
    assert book.orders == [("sleep", "cub@q8_0")]
    book.settle()
    assert book.orders[1:] == [("wake", "cub@q8_0")]
    assert book.outcomes[ticket] == "cub@q8_0"


def test_a_failed_sleep_holds_still_for_a_minute(notebook: Any, want: Any) -> None:
    """The timer does not run hot on it, and the model answers."""
    book = notebook(sleep_after_s=60.0)
    book.loaded(want())
    book.tick(61.0)
    book.changed("cub", DoesNotFit("no"))
    assert book.fleet.next_deadline() == 121.0
    book.tick(120.0)
    assert book.orders == [("sleep", "cub@q8_0")]
    book.release(book.request(want()))
    assert book.outcomes[1] == "cub@q8_0"


def test_one_that_could_not_sleep_leaves_where_memory_is_short(book: Any, want: Any) -> None:
    """It is not asked to sleep again at once."""
    book.loaded(want("a", gb=8))
    book.request(want("b", gb=3))
    book.changed("a", DoesNotFit("no"))
    assert book.orders == [("sleep", "a@q8_0"), ("stop", "a@q8_0")]


# --- who goes ---


def test_of_equals_the_one_that_was_asked_for_longest_ago_leaves(book: Any, want: Any) -> None:
    """Recency decides where nothing else differs."""
    book.loaded(want("a", gb=4), want("b", gb=4))
    book.request(want("c", gb=5))
    assert book.orders == [("stop", "a@q8_0")]


def test_one_that_is_slow_to_reload_stays(book: Any, want: Any) -> None:
    """Though it was used longer ago."""
    for name, load_s in (("slow", 20.0), ("quick", 1.0)):
        ticket = book.request(want(name, gb=4))
        book.ready(name, load_s=load_s)
        book.now += 1.0
        book.release(ticket, 1e6)
    book.orders.clear()
    book.request(want("c", gb=5))
    assert book.orders == [("stop", "quick@q8_0")]


def test_one_that_is_asked_for_often_stays(book: Any, want: Any) -> None:
    """One late request does not outweigh regular use."""
    book.loaded(want("often", gb=4))
    for _ in range(5):
        book.release(book.request(want("often", gb=4)), 1e6)
    book.now += 60.0
    book.loaded(want("once", gb=4))
    book.request(want("c", gb=5))
    assert book.orders == [("stop", "once@q8_0")]


def test_the_large_one_leaves_of_two_that_are_wanted_alike(book: Any, want: Any) -> None:
    """It gives back more for the same reload."""
    book.loaded(want("large", gb=6), want("small", gb=3))
    book.request(want("c", gb=4))
    assert book.orders == [("stop", "large@q8_0")]


def test_the_rank_can_be_another(notebook: Any, want: Any) -> None:
    """Plain LRU, as the simulator compares it: the last reload's time does not count."""
    book = notebook(rank=policy.by_recency)
    for name, load_s in (("slow", 20.0), ("quick", 1.0)):
        ticket = book.request(want(name, gb=4))
        book.ready(name, load_s=load_s)
        book.now += 1.0
        book.release(ticket, 1e6)
    book.orders.clear()
    book.request(want("c", gb=5))
    assert book.orders == [("stop", "slow@q8_0")]


def test_an_eviction_is_explained_with_its_numbers(book: Any, want: Any) -> None:
    """For whom, why this one, and what it gives back."""
    book.loaded(want("a", gb=4), want("b", gb=4))
    book.now += 58.0
    book.request(want("c", gb=5))
    (decision,) = [it for it in book.decisions if it.act == "evict"]
    assert decision.subject == "a (q8_0)"
    assert decision.at == book.now
    assert decision.why == (
        "c (q8_0) needs 5.00 GB; idle for 59 s, 5.4 requests an hour expected, a reload takes 1.0 s; frees 4.00 GB"
    )
    assert list(book.fleet.journal.decisions) == book.decisions


def test_the_journal_forgets_the_oldest(book: Any, want: Any) -> None:
    """It is bounded."""
    for i in range(250):
        ticket = book.request(want(f"m{i}"))
        book.ready(f"m{i}")
        book.release(ticket, 0.0)
        book.gone(f"m{i}")
    decisions = book.fleet.journal.decisions
    assert len(decisions) == 200
    assert decisions[-1].subject == "m249 (q8_0)"


# --- pins ---


@pytest.mark.parametrize("pin", ["a", "A", "a@q8_0"])
def test_a_pinned_model_never_expires_and_never_leaves(book: Any, want: Any, pin: str) -> None:
    """By its name or its variant's, in any case; others make the room."""
    book.fleet.on_pins(frozenset({pin}), book.now)
    book.loaded(want("a", gb=4), want("b", gb=4), keep_alive_s=10.0)
    book.request(want("c", gb=6))
    assert book.orders == [("stop", "b@q8_0")]
    book.tick(1e6)
    assert ("stop", "a@q8_0") not in book.orders


def test_a_pinned_model_sleeps_where_memory_is_short(notebook: Any, want: Any) -> None:
    """Not by time alone: who pins a model wants it ready."""
    book = notebook(sleep_after_s=60.0)
    book.fleet.on_pins(frozenset({"a"}), book.now)
    book.loaded(want("a", gb=4))
    book.tick(1e5)
    assert book.orders == []
    book.request(want("b", gb=7))
    assert book.orders == [("sleep", "a@q8_0")]


def test_what_fits_only_without_a_pinned_model_is_refused_and_told_so(book: Any, want: Any) -> None:
    """Waiting would not help."""
    book.fleet.on_pins(frozenset({"a"}), book.now)
    book.loaded(want("a", gb=4))
    error = book.outcomes[book.request(want("b", gb=7.5))]
    assert isinstance(error, DoesNotFit)
    told = "Beast may use 10.00 GB, but only 7.00 GB beside what is pinned (a (q8_0); `beast unpin` lets them go)"
    assert told in error.message
    assert book.orders == []


def test_who_waits_for_a_model_that_is_pinned_meanwhile_is_refused(book: Any, want: Any) -> None:
    """Rather than waiting for ever."""
    book.loaded(want("a", gb=6))
    book.request(want("a", gb=6))
    waiter = book.request(want("b", gb=7))
    book.fleet.on_pins(frozenset({"a"}), book.now)
    assert isinstance(book.outcomes[waiter], DoesNotFit)


def test_only_those_for_whom_there_is_no_room_any_more_are_refused(book: Any, want: Any) -> None:
    """Not all who wait for the model, of whom some need less context."""
    book.loaded(want("busy", gb=6))
    busy = book.request(want("busy", gb=6))
    small = book.request(want("m", gb=5))
    large = book.request(want("m", gb=5, n_ctx=16384))  # 8.75 GB
    book.fleet.on_budget(ram(8 * GB), book.now)
    book.fleet.on_budget(ram(8 * GB + 1), book.now)  # the line is looked at
    assert isinstance(book.outcomes[large], DoesNotFit)
    assert small in book.waiting
    book.release(busy, 0.0)
    book.settle()
    assert book.outcomes[small] == "m@q8_0"


def test_who_waits_for_a_pinned_worker_to_hold_still_no_longer_is_served_then(book: Any, want: Any) -> None:
    """Time alone brings it on: it could not sleep, and nobody else comes."""
    book.fleet.on_pins(frozenset({"a"}), book.now)
    book.loaded(want("a", gb=8))
    waiting = book.request(want("b", gb=3))
    book.changed("a", LoadFailed("no"))
    assert waiting in book.waiting
    assert book.fleet.next_deadline() == book.now + HOLD_STILL_S
    book.tick(book.now + HOLD_STILL_S)
    book.settle()
    assert book.outcomes[waiting] == "b@q8_0"


def test_who_waits_is_served_when_a_worker_turns_out_smaller(book: Any, want: Any) -> None:
    """Though its answer goes on."""
    first = book.request(want("a", gb=6))
    book.ready("a", holds_gb=8)
    waiting = book.request(want("b", gb=4))
    assert first in book.held
    assert waiting in book.waiting
    book.surplus[book.id_of("a")] = ram(0)
    book.fleet.on_measured(book.id_of("a"), ram(6 * GB), book.now)
    assert book.orders[-1] == ("start", "b@q8_0")


def test_an_unpinned_model_leaves_when_its_time_was_over(book: Any, want: Any) -> None:
    """Its keep-alive counts again."""
    book.fleet.on_pins(frozenset({"a"}), book.now)
    book.loaded(want("a"), keep_alive_s=10.0)
    book.now = 100.0
    book.fleet.on_pins(frozenset(), book.now)
    assert book.fleet.next_deadline() <= book.now
    book.tick(book.now)
    assert book.orders == [("stop", "a@q8_0")]


def test_someone_may_unload_a_pinned_model(book: Any, want: Any) -> None:
    """The fleet does what it is told; who may tell it is not its business."""
    book.fleet.on_pins(frozenset({"a"}), book.now)
    book.loaded(want("a"))
    assert book.fleet.on_unload(book.id_of("a"), book.now)
    assert book.orders == [("stop", "a@q8_0")]


# --- the budget ---


def test_a_worker_that_takes_more_than_computed_sends_idle_ones_to_sleep(book: Any, want: Any) -> None:
    """Measured bytes replace computed ones."""
    book.loaded(want("a", gb=4), want("b", gb=1))
    book.request(want("c", gb=4))
    book.ready("c", holds_gb=6)
    assert book.orders == [("start", "c@q8_0"), ("sleep", "a@q8_0")]
    assert "the workers hold more than the budget" in book.why("sleep")


def test_a_worker_that_grows_by_itself_sends_idle_ones_to_sleep(book: Any, want: Any) -> None:
    """It is measured while it serves; news of one that is gone changes nothing."""
    book.loaded(want("a", gb=4), want("b", gb=4))
    book.request(want("b", gb=4))
    book.fleet.on_measured(book.id_of("b"), ram(int(6.5 * GB)), book.now)
    book.fleet.on_measured(12345, ram(100 * GB), book.now)
    assert book.orders == [("sleep", "a@q8_0")]


def test_measured_bytes_make_room_where_less_is_held(book: Any, want: Any) -> None:
    """A load fits that would not have by what was computed."""
    ticket = book.request(want("a", gb=6))
    book.ready("a", holds_gb=3)
    book.request(want("b", gb=6))
    assert book.orders == [("start", "a@q8_0"), ("start", "b@q8_0")]
    assert ticket in book.held


def test_a_smaller_budget_is_come_back_to(book: Any, want: Any) -> None:
    """Other programs need memory: idle models sleep, then leave."""
    book.loaded(want("a", gb=4), want("b", gb=4))
    book.fleet.on_budget(ram(7 * GB), book.now)
    assert book.orders == [("sleep", "a@q8_0")]
    book.settle()
    book.fleet.on_budget(ram(3 * GB), book.now)
    book.settle()
    assert book.n_bytes <= 3 * GB


def test_a_smaller_budget_kills_no_answer(book: Any, want: Any) -> None:
    """It is obeyed once the answer has ended."""
    book.loaded(want("a", gb=8))
    ticket = book.request(want("a", gb=8))
    book.fleet.on_budget(ram(5 * GB), book.now)
    assert book.orders == []
    book.release(ticket)
    book.fleet.on_budget(ram(5 * GB), book.now)
    assert book.orders == [("stop", "a@q8_0")]


def test_who_waits_for_what_no_longer_fits_is_refused(book: Any, want: Any) -> None:
    """When the line is served next."""
    book.loaded(want("a", gb=6))
    ticket = book.request(want("a", gb=6))
    waiter = book.request(want("b", gb=7))
    book.fleet.on_budget(ram(int(6.5 * GB)), book.now)
    book.release(ticket)
    assert isinstance(book.outcomes[waiter], DoesNotFit)


def test_a_larger_budget_serves_the_line_at_once(book: Any, want: Any) -> None:
    """No other event is needed."""
    book.loaded(want("a", gb=6))
    book.request(want("a", gb=6))
    book.request(want("b", gb=6))
    assert book.orders == []
    book.fleet.on_budget(ram(12 * GB), book.now)
    assert book.orders == [("start", "b@q8_0")]


def test_for_ever_is_no_deadline(notebook: Any, want: Any) -> None:
    """A fleet that never sleeps or expires needs no timer."""
    book = notebook(sleep_after_s=math.inf)
    book.loaded(want(), keep_alive_s=math.inf)
    assert book.fleet.next_deadline() is None
