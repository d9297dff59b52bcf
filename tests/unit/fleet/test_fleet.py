"""The fleet's straight ways, against a notebook of its orders: requests, the line, keep-alive, unloading."""

from __future__ import annotations

import math
from typing import Any

from beastd.errors import DoesNotFit, Overloaded, ShuttingDown
from beastd.fleet.footprint import ram


def position(book: Any, ticket: int) -> int:
    """A request's place in line."""
    n: int = book.fleet.line.position(ticket, book.fleet.place(ticket))
    return n


def test_a_cold_model_is_started_and_granted_when_ready(book: Any, want: Any) -> None:
    """The straight way."""
    ticket = book.request(want())
    assert book.orders == [("start", "cub@q8_0")]
    assert book.outcomes == {}
    book.ready("cub")
    assert book.outcomes == {ticket: "cub@q8_0"}


def test_ten_requests_for_a_cold_model_cause_one_start(book: Any, want: Any) -> None:
    """Joined loads."""
    tickets = [book.request(want()) for _ in range(10)]
    book.ready("cub")
    assert book.orders == [("start", "cub@q8_0")]
    assert list(book.held) == tickets


def test_several_models_load_at_once_when_the_budget_allows(book: Any, want: Any) -> None:
    """No load waits for another."""
    book.request(want("a", gb=5))
    book.request(want("b", gb=5))
    assert book.orders == [("start", "a@q8_0"), ("start", "b@q8_0")]


def test_a_load_is_told_with_its_numbers(book: Any, want: Any) -> None:
    """Who wants it, and what it takes."""
    book.request(want(gb=2))
    (decision,) = book.decisions
    assert (decision.act, decision.subject) == ("load", "cub (q8_0)")
    assert decision.why == "one request wants it; it needs 2.00 GB"


def test_a_hot_model_is_granted_while_others_wait_for_memory(book: Any, want: Any) -> None:
    """Cold loads block nobody who needs no load."""
    book.loaded(want("hot", gb=6))
    book.request(want("hot", gb=6))
    book.request(want("cold", gb=6))
    assert book.outcomes[book.request(want("hot", gb=6))] == "hot@q8_0"


def test_a_busy_worker_is_waited_for(book: Any, want: Any) -> None:
    """It is evicted when its last answer ends, not before, and the load starts when its process is gone."""
    book.loaded(want("busy", gb=6))
    first, second = book.request(want("busy", gb=6)), book.request(want("busy", gb=6))
    cold = book.request(want("cold", gb=6))
    book.release(first)
    assert book.orders == []
    book.release(second)
    assert book.orders == [("stop", "busy@q8_0")]
    book.gone("busy")
    book.ready("cold")
    assert book.outcomes[cold] == "cold@q8_0"


def test_a_model_larger_than_the_budget_is_refused_with_numbers(book: Any, want: Any) -> None:
    """Nobody is evicted for it."""
    book.loaded(want("a", gb=4))
    error = book.outcomes[book.request(want("giant", gb=11))]
    assert isinstance(error, DoesNotFit)
    assert "giant (q8_0) with 4 × 4096 tokens of context needs about 11.00 GB" in error.message
    assert "10.00 GB" in error.message
    assert book.orders == []


# --- the line ---


def test_cold_loads_are_served_in_order(book: Any, want: Any) -> None:
    """A younger load that would fit sooner does not take the memory an older one waits for."""
    book.loaded(want("x", gb=5), want("y", gb=5))
    x, y = book.request(want("x", gb=5)), book.request(want("y", gb=5))
    book.request(want("large", gb=8))
    book.request(want("small", gb=4))
    book.release(x)
    assert book.orders == []
    book.release(y)
    book.gone("x")
    book.gone("y")
    assert book.orders[-1] == ("start", "large@q8_0")


def test_a_load_that_fits_beside_those_before_it_passes_them(book: Any, want: Any) -> None:
    """A small model does not wait behind a large one that waits for an answer to end; one too many does."""
    book.loaded(want("busy", gb=6))
    book.request(want("busy", gb=6))
    book.request(want("large", gb=7))
    book.request(want("small", gb=2))
    book.request(want("second", gb=2))
    assert book.orders == [("start", "small@q8_0")]


def test_what_comes_free_for_the_oldest_is_not_given_to_the_next(book: Any, want: Any) -> None:
    """The memory of a stopping process is promised."""
    book.loaded(want("a", gb=9))
    book.request(want("first", gb=6))
    book.request(want("second", gb=5))
    assert book.orders == [("stop", "a@q8_0")]
    book.gone("a")
    assert book.orders[1:] == [("start", "first@q8_0")]


def test_two_who_wait_for_one_stopping_process_share_what_it_gives_back(book: Any, want: Any) -> None:
    """Nobody else has to leave for the second."""
    book.loaded(want("other", gb=1), want("a", gb=9))
    book.request(want("first", gb=5))
    book.request(want("second", gb=4))
    assert book.orders == [("stop", "a@q8_0")]
    book.gone("a")
    assert book.orders[1:] == [("start", "first@q8_0"), ("start", "second@q8_0")]


def test_positions_count_requests_not_models(book: Any, want: Any) -> None:
    """Who asks for a model in line joins its place; who leaves lets the others move up."""
    book.loaded(want("busy", gb=9))
    book.request(want("busy", gb=9))
    a1 = book.request(want("a", gb=5))
    b1 = book.request(want("b", gb=5))
    a2 = book.request(want("a", gb=5))
    assert [position(book, ticket) for ticket in (a1, a2, b1)] == [1, 2, 3]
    book.cancel(a1)
    assert [position(book, ticket) for ticket in (a2, b1)] == [1, 2]


def test_the_last_to_leave_takes_its_models_place_along(book: Any, want: Any) -> None:
    """Nothing is loaded for nobody, and the next one's turn comes."""
    book.loaded(want("busy", gb=9))
    holder = book.request(want("busy", gb=9))
    book.cancel(book.request(want("a", gb=9)))
    b = book.request(want("b", gb=5))
    assert position(book, b) == 1
    book.release(holder)
    book.gone("busy")
    assert book.orders == [("stop", "busy@q8_0"), ("start", "b@q8_0")]


def test_leaving_the_line_lets_a_younger_load_start(book: Any, want: Any) -> None:
    """What it kept waiting need not wait for another event."""
    book.loaded(want("busy", gb=6))
    book.request(want("busy", gb=6))
    large = book.request(want("large", gb=8))
    book.request(want("small", gb=3))
    assert book.orders == []
    book.cancel(large)
    assert book.orders == [("start", "small@q8_0")]


def test_waiters_of_every_kind_count_against_the_queue(notebook: Any, want: Any) -> None:
    """For a load, in line, and for a sequence of a loaded worker."""
    book = notebook(max_queue=3)
    book.loaded(want("hot", gb=6, n_parallel=1))
    book.request(want("hot", gb=6))
    book.request(want("hot", gb=6))  # holds a lease, but waits for the one sequence
    book.request(want("loading", gb=3))
    book.request(want("cold", gb=6))
    for name in ("hot", "loading", "cold", "new"):
        error = book.outcomes[book.request(want(name, gb=3))]
        assert isinstance(error, Overloaded), name
        assert error.retry_after_s, name
        assert "3 requests wait already" in error.message, name


def test_waiters_for_a_change_count_against_the_queue(notebook: Any, want: Any) -> None:
    """It is a wait like another."""
    book = notebook(max_queue=1)
    book.loaded(want(n_ctx=2048))
    book.request(want(n_ctx=4096))
    assert isinstance(book.outcomes[book.request(want(n_ctx=4096))], Overloaded)
    assert book.outcomes[book.request(want(n_ctx=2048))] == "cub@q8_0"  # the change does not concern it


def test_a_full_queue_does_not_touch_a_model_with_a_free_sequence(notebook: Any, want: Any) -> None:
    """Cold traffic cannot lock out a hot model."""
    book = notebook(max_queue=1)
    book.loaded(want("hot", gb=1))
    book.request(want("cold"))
    assert book.outcomes[book.request(want("hot"))] == "hot@q8_0"


# --- the end of a load, and of a worker's time ---


def test_the_last_waiter_to_leave_ends_the_load(book: Any, want: Any) -> None:
    """Nobody wants it any more; one who comes later waits for a fresh start."""
    first, second = book.request(want()), book.request(want())
    book.cancel(first)
    assert list(book.processes.values()) == ["loading"]
    book.cancel(second)
    assert list(book.processes.values()) == ["stopping"]
    third = book.request(want())
    book.gone("cub", "on_load_failed", ShuttingDown("stopped while it loaded"))
    assert book.orders == [("start", "cub@q8_0"), ("stop", "cub@q8_0"), ("start", "cub@q8_0")]
    book.ready("cub")
    assert book.outcomes[third] == "cub@q8_0"


def test_a_load_that_was_stopped_has_not_failed(book: Any, want: Any) -> None:
    """It does not cool down."""
    book.cancel(book.request(want()))
    book.gone("cub", "on_load_failed", ShuttingDown("stopped while it loaded"))
    book.request(want())
    assert book.orders[-1] == ("start", "cub@q8_0")


def test_ready_after_the_stop_was_ordered_changes_nothing(book: Any, want: Any) -> None:
    """The two cross on the way."""
    book.cancel(book.request(want()))
    book.fleet.on_ready(book.id_of("cub"), ram(1), 1.0, book.now)
    assert [entry.state.value for entry in book.fleet.roster] == ["stopping"]
    assert book.fleet.next_deadline() is None


def test_idle_workers_expire(book: Any, want: Any) -> None:
    """After the keep-alive of the last release, and not before."""
    book.loaded(want(), keep_alive_s=300.0)
    assert book.fleet.next_deadline() == 301.0
    book.tick(300.9)
    assert book.orders == []
    book.tick(301.0)
    assert book.orders == [("stop", "cub@q8_0")]
    assert book.why("expire") == "nobody came for 300 s"


def test_a_request_revives_a_worker(book: Any, want: Any) -> None:
    """While it is used it has no deadline; then a new one."""
    book.loaded(want(), keep_alive_s=10.0)
    ticket = book.request(want())
    assert book.fleet.next_deadline() is None
    book.tick(1000.0)
    assert book.orders == []
    book.release(ticket, 10.0)
    assert book.fleet.next_deadline() == 1010.0


def test_the_latest_release_decides_the_keep_alive(book: Any, want: Any) -> None:
    """Whatever earlier ones asked for."""
    book.loaded(want())
    first, second = book.request(want()), book.request(want())
    book.release(first, 0.0)
    assert book.orders == []
    book.release(second, 60.0)
    assert book.fleet.next_deadline() == book.now + 60.0


def test_keep_alive_zero_unloads_at_once(book: Any, want: Any) -> None:
    """When the answer has ended."""
    book.loaded(want(), keep_alive_s=0.0)
    assert list(book.processes.values()) == ["stopping"]


def test_keep_alive_for_ever_never_expires_but_can_be_evicted(notebook: Any, want: Any) -> None:
    """Infinity is no deadline, and no pin."""
    book = notebook(sleep_after_s=math.inf)
    book.loaded(want("a", gb=6), keep_alive_s=math.inf)
    assert book.fleet.next_deadline() is None
    book.tick(1e12)
    assert book.orders == []
    book.request(want("b", gb=6))
    assert book.orders == [("stop", "a@q8_0")]


def test_unloading_an_idle_worker_is_immediate(book: Any, want: Any) -> None:
    """And says whether there was one."""
    book.loaded(want())
    id_ = book.id_of("cub")
    assert book.fleet.on_unload(id_, book.now)
    assert book.orders == [("stop", "cub@q8_0")]
    assert not book.fleet.on_unload(id_, book.now)
    assert not book.fleet.on_unload(12345, book.now)


def test_unloading_a_busy_worker_waits_and_newcomers_get_a_fresh_one(book: Any, want: Any) -> None:
    """Requests after the unload do not keep the old one alive."""
    book.loaded(want())
    running = book.request(want())
    assert book.fleet.on_unload(book.id_of("cub"), book.now)
    assert book.orders == []
    later = [book.request(want()), book.request(want())]
    book.release(running)
    book.gone("cub")
    assert book.orders == [("stop", "cub@q8_0"), ("start", "cub@q8_0")]
    book.ready("cub")
    assert set(later) <= set(book.held)


def test_unloading_a_loading_worker_serves_who_joined_it(book: Any, want: Any) -> None:
    """Then it goes; it is not started again for nobody."""
    joined = book.request(want())
    assert book.fleet.on_unload(book.id_of("cub"), book.now)
    book.ready("cub")
    assert book.outcomes == {joined: "cub@q8_0"}
    book.release(joined)
    book.gone("cub")
    assert book.orders == [("start", "cub@q8_0"), ("stop", "cub@q8_0")]


def test_unloading_a_changing_worker_lets_it_finish_and_serves_who_waited(book: Any, want: Any) -> None:
    """It goes after their answers."""
    book.loaded(want(n_ctx=2048))
    waiter = book.request(want(n_ctx=4096))
    assert book.fleet.on_unload(book.id_of("cub"), book.now)
    book.changed("cub")
    assert book.outcomes[waiter] == "cub@q8_0"
    book.release(waiter)
    assert book.orders == [("grow", "cub@q8_0"), ("stop", "cub@q8_0")]


# --- closing ---


def test_closing_refuses_who_waits_and_stops_everything(book: Any, want: Any) -> None:
    """Loading, changing, waiting in line, busy; later requests are refused too, late news changes nothing."""
    book.loaded(want("busy", gb=2), want("small", gb=1))
    busy = book.request(want("busy", gb=2))
    loading = book.request(want("loading", gb=3))
    changing = book.request(want("small", gb=1, n_ctx=8192))
    in_line = book.request(want("cold", gb=9))
    book.close(ShuttingDown("bye"))
    late = book.request(want("busy", gb=2))
    refused = {ticket for ticket, outcome in book.outcomes.items() if isinstance(outcome, ShuttingDown)}
    assert refused == {loading, changing, in_line, late}
    assert set(book.processes.values()) == {"stopping"}
    small = book.id_of("small")
    book.fleet.on_reshaped(small, ram(1), book.now)
    for name in ("busy", "loading", "small"):
        book.gone(name)
    book.release(busy)
    assert book.processes == {}
    assert not any(act == "start" for act, _ in book.orders[2:])
