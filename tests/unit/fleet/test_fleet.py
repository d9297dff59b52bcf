"""The fleet's rules, one by one, against a notebook of its orders."""

from __future__ import annotations

import math
from typing import Any

import pytest

from beastd.errors import DoesNotFit, LoadFailed, Overloaded, ShuttingDown


@pytest.fixture
def book(notebook: Any) -> Any:
    """A fleet with 10 GB and room for 100 waiting requests."""
    return notebook()


def test_a_cold_model_is_started_and_granted_when_ready(book: Any, spec: Any) -> None:
    """The straight way."""
    ticket = book.request(spec())
    assert book.orders == [("start", "cub")]
    assert book.outcomes == {}
    book.ready("cub")
    assert book.outcomes == {ticket: "cub"}


def test_ten_requests_for_a_cold_model_cause_one_start(book: Any, spec: Any) -> None:
    """Joined loads."""
    tickets = [book.request(spec()) for _ in range(10)]
    book.ready("cub")
    assert book.orders == [("start", "cub")]
    assert list(book.held) == tickets


def test_several_models_load_at_once_when_the_budget_allows(book: Any, spec: Any) -> None:
    """No load waits for another."""
    book.request(spec("a", gb=5))
    book.request(spec("b", gb=5))
    assert book.orders == [("start", "a"), ("start", "b")]


def test_a_hot_model_is_granted_while_others_wait_for_memory(book: Any, spec: Any) -> None:
    """Cold loads block nobody who needs no load."""
    book.loaded(spec("hot", gb=6))
    book.request(spec("hot", gb=6))
    book.request(spec("cold", gb=6))
    assert book.outcomes[book.request(spec("hot", gb=6))] == "hot"


def test_the_least_recently_used_idle_worker_makes_room(book: Any, spec: Any) -> None:
    """And the start waits until its process is gone."""
    book.loaded(spec("a", gb=4), spec("b", gb=4))
    book.now += 1.0
    book.release(book.request(spec("a", gb=4)))
    book.request(spec("c", gb=4))
    assert book.orders == [("stop", "b")]
    book.gone("b")
    assert book.orders == [("stop", "b"), ("start", "c")]


def test_a_busy_worker_is_waited_for(book: Any, spec: Any) -> None:
    """It is evicted when its last answer ends, not before."""
    book.loaded(spec("busy", gb=6))
    first, second = book.request(spec("busy", gb=6)), book.request(spec("busy", gb=6))
    cold = book.request(spec("cold", gb=6))
    book.release(first)
    assert book.orders == []
    book.release(second)
    book.gone("busy")
    book.ready("cold")
    assert book.outcomes[cold] == "cold"


def test_a_model_larger_than_the_budget_is_refused_with_numbers(book: Any, spec: Any) -> None:
    """Nobody is evicted for it."""
    book.loaded(spec("a", gb=4))
    error = book.outcomes[book.request(spec("giant", gb=11))]
    assert isinstance(error, DoesNotFit)
    assert "11.00 GB" in error.message
    assert "10.00 GB" in error.message
    assert book.orders == []


def test_cold_loads_are_served_in_order(book: Any, spec: Any) -> None:
    """A younger load that would fit sooner does not take the memory an older one waits for."""
    book.loaded(spec("x", gb=5), spec("y", gb=5))
    x, y = book.request(spec("x", gb=5)), book.request(spec("y", gb=5))
    book.request(spec("large", gb=8))
    book.request(spec("small", gb=4))
    book.release(x)
    assert book.orders == []
    book.release(y)
    book.gone("x")
    book.gone("y")
    assert book.orders[-1] == ("start", "large")


def test_a_load_that_fits_beside_those_before_it_passes_them(book: Any, spec: Any) -> None:
    """A small model does not wait behind a large one that waits for an answer to end."""
    book.loaded(spec("busy", gb=6))
    book.request(spec("busy", gb=6))
    book.request(spec("large", gb=7))
    book.request(spec("small", gb=2))
    book.request(spec("second", gb=2))
    assert book.orders == [("start", "small")]


def test_growing_context_is_one_coalesced_reload(book: Any, spec: Any) -> None:
    """Answers end first; then one start with the most context asked serves all who waited."""
    book.loaded(spec(n_ctx=4096))
    running = book.request(spec(n_ctx=2048))
    grown = [book.request(spec(n_ctx=n_ctx)) for n_ctx in (8192, 16384, 4096)]
    assert book.orders == []
    book.release(running)
    book.gone("cub")
    assert book.orders == [("stop", "cub"), ("start", "cub")]
    assert book.n_ctx["cub"] == 16384
    book.ready("cub")
    assert [book.outcomes[ticket] for ticket in grown] == ["cub"] * 3
    assert book.outcomes[book.request(spec(n_ctx=512))] == "cub"


def test_growing_an_idle_worker_restarts_it_at_once(book: Any, spec: Any) -> None:
    """Nothing runs that would have to end."""
    book.loaded(spec(n_ctx=4096))
    book.request(spec(n_ctx=8192))
    assert book.orders == [("stop", "cub")]


def test_a_reload_that_waits_for_answers_evicts_nobody_yet(book: Any, spec: Any) -> None:
    """Room it cannot use today is left to those who use it."""
    book.loaded(spec("other", gb=5), spec("cub", gb=4))
    running = book.request(spec("cub", gb=4))
    book.request(spec("cub", gb=6, n_ctx=8192))
    assert book.orders == []
    book.release(running)
    assert book.orders == [("stop", "cub"), ("stop", "other")]


def test_context_asked_during_a_load_lets_the_load_finish(book: Any, spec: Any) -> None:
    """Who joined the smaller load is served by it."""
    small = book.request(spec(n_ctx=4096))
    large = book.request(spec(n_ctx=8192))
    book.ready("cub")
    assert book.outcomes == {small: "cub"}
    book.release(small)
    book.gone("cub")
    book.ready("cub")
    assert book.outcomes[large] == "cub"


def test_a_model_that_gives_less_context_than_asked_is_not_reloaded_for_it(book: Any, spec: Any) -> None:
    """Asking again would not make it more."""
    ticket = book.request(spec(n_ctx=65536))
    book.ready("cub", n_ctx=4096)
    book.release(ticket)
    assert book.outcomes[book.request(spec(n_ctx=65536))] == "cub"


def test_context_too_large_for_the_budget_leaves_the_worker_alone(book: Any, spec: Any) -> None:
    """The one request is refused; the model stays loaded."""
    book.loaded(spec())
    assert isinstance(book.outcomes[book.request(spec(gb=11, n_ctx=8192))], DoesNotFit)
    assert book.outcomes[book.request(spec())] == "cub"


def test_a_worker_stays_when_nobody_wants_the_larger_one_any_more(book: Any, spec: Any) -> None:
    """A reload whose requests all left is forgotten."""
    book.loaded(spec())
    running = book.request(spec())
    book.cancel(book.request(spec(n_ctx=8192)))
    book.release(running)
    assert book.orders == []


def test_idle_workers_expire(book: Any, spec: Any) -> None:
    """After the keep-alive of the last release, and not before."""
    book.loaded(spec(), keep_alive_s=300.0)
    assert book.fleet.next_deadline() == 301.0
    book.tick(300.9)
    assert book.orders == []
    book.tick(301.0)
    assert book.orders == [("stop", "cub")]


def test_a_request_revives_a_worker(book: Any, spec: Any) -> None:
    """While it is used it has no deadline; then a new one."""
    book.loaded(spec(), keep_alive_s=10.0)
    ticket = book.request(spec())
    assert book.fleet.next_deadline() is None
    book.tick(1000.0)
    assert book.orders == []
    book.release(ticket, 10.0)
    assert book.fleet.next_deadline() == 1010.0


def test_the_latest_release_decides_the_keep_alive(book: Any, spec: Any) -> None:
    """Whatever earlier ones asked for."""
    book.loaded(spec())
    first, second = book.request(spec()), book.request(spec())
    book.release(first, 0.0)
    assert book.orders == []
    book.release(second, 60.0)
    assert book.fleet.next_deadline() == book.now + 60.0


def test_keep_alive_zero_unloads_at_once(book: Any, spec: Any) -> None:
    """When the answer has ended."""
    book.loaded(spec(), keep_alive_s=0.0)
    assert book.processes == {"cub": "stopping"}


def test_keep_alive_for_ever_never_expires_but_can_be_evicted(book: Any, spec: Any) -> None:
    """Infinity is no deadline, and no pin."""
    book.loaded(spec("a", gb=6), keep_alive_s=math.inf)
    assert book.fleet.next_deadline() is None
    book.tick(1e12)
    assert book.orders == []
    book.request(spec("b", gb=6))
    assert book.orders == [("stop", "a")]


def test_unloading_an_idle_worker_is_immediate(book: Any, spec: Any) -> None:
    """And says whether there was one."""
    book.loaded(spec())
    assert book.fleet.on_unload("cub")
    assert book.orders == [("stop", "cub")]
    assert not book.fleet.on_unload("cub")
    assert not book.fleet.on_unload("nobody")


def test_unloading_a_busy_worker_waits_and_newcomers_get_a_fresh_one(book: Any, spec: Any) -> None:
    """Requests after the unload do not keep the old one alive."""
    book.loaded(spec())
    running = book.request(spec())
    assert book.fleet.on_unload("cub")
    assert book.orders == []
    later = [book.request(spec()), book.request(spec())]
    book.release(running)
    book.gone("cub")
    assert book.orders == [("stop", "cub"), ("start", "cub")]
    book.ready("cub")
    assert set(later) <= set(book.held)


def test_unloading_a_loading_worker_serves_who_joined_it(book: Any, spec: Any) -> None:
    """Then it goes; it is not started again for nobody."""
    joined = book.request(spec())
    assert book.fleet.on_unload("cub")
    book.ready("cub")
    assert book.outcomes == {joined: "cub"}
    book.release(joined)
    book.gone("cub")
    assert book.orders == [("start", "cub"), ("stop", "cub")]


def test_waiters_of_every_kind_count_against_the_queue(notebook: Any, spec: Any) -> None:
    """For a load, in line, and for a sequence of a loaded worker; a free sequence is always given."""
    book = notebook(max_queue=3)
    book.loaded(spec("hot", gb=6, n_parallel=1))
    book.request(spec("hot", gb=6))
    book.request(spec("hot", gb=6))  # holds a lease, but waits for the one sequence
    book.request(spec("loading", gb=3))
    book.request(spec("cold", gb=6))
    for name in ("hot", "loading", "cold", "new"):
        assert isinstance(book.outcomes[book.request(spec(name, gb=3))], Overloaded), name


def test_a_full_queue_does_not_touch_a_model_with_a_free_sequence(notebook: Any, spec: Any) -> None:
    """Cold traffic cannot lock out a hot model."""
    book = notebook(max_queue=1)
    book.loaded(spec("hot", gb=1))
    book.request(spec("cold"))
    assert book.outcomes[book.request(spec("hot"))] == "hot"


def test_a_failed_load_refuses_all_who_waited_and_the_next_request_tries_again(book: Any, spec: Any) -> None:
    """One error each."""
    tickets = [book.request(spec()), book.request(spec())]
    error = LoadFailed("broken")
    book.gone("cub", "on_load_failed", error)
    assert [book.outcomes[ticket] for ticket in tickets] == [error, error]
    book.request(spec())
    assert book.orders == [("start", "cub"), ("start", "cub")]


def test_a_dead_worker_is_replaced_and_its_leases_are_void(book: Any, spec: Any) -> None:
    """A late release of the dead one does not touch the fresh one."""
    book.loaded(spec())
    stale = book.request(spec())
    book.gone("cub", "on_died")
    fresh = book.request(spec())
    book.ready("cub")
    book.release(stale, 0.0)
    assert book.held == {fresh: "cub"}
    assert book.processes == {"cub": "ready"}


def test_the_last_waiter_to_leave_ends_the_load(book: Any, spec: Any) -> None:
    """Nobody wants it any more; one who comes later waits for a fresh start."""
    first, second = book.request(spec()), book.request(spec())
    book.cancel(first)
    assert book.processes == {"cub": "loading"}
    book.cancel(second)
    assert book.processes == {"cub": "stopping"}
    third = book.request(spec())
    book.gone("cub")
    book.ready("cub")
    assert book.outcomes[third] == "cub"


def test_ready_after_the_stop_was_ordered_changes_nothing(book: Any, spec: Any) -> None:
    """The two cross on the way."""
    book.cancel(book.request(spec()))
    book.fleet.on_ready("cub", 1, 4096)
    assert book.fleet.entries()[0].state.value == "stopping"


def test_a_worker_that_takes_more_than_estimated_pushes_idle_ones_out(book: Any, spec: Any) -> None:
    """Measured bytes replace the estimate."""
    book.loaded(spec("a", gb=4), spec("b", gb=1))
    book.request(spec("c", gb=4))
    book.ready("c", resident_gb=6)
    assert book.orders == [("start", "c"), ("stop", "a")]


def test_closing_refuses_who_waits_and_stops_everything(book: Any, spec: Any) -> None:
    """Loading, waiting in line, idle; later requests are refused too."""
    book.loaded(spec("idle", gb=3))
    loading = book.request(spec("loading", gb=3))
    busy = book.request(spec("idle", gb=3))
    in_line = book.request(spec("cold", gb=8))
    book.held.clear()  # closing does not wait for answers
    book.fleet.on_close(ShuttingDown("bye"))
    late = book.request(spec("idle", gb=3))
    assert {t for t, o in book.outcomes.items() if isinstance(o, ShuttingDown)} == {loading, in_line, late}
    assert set(book.processes.values()) == {"stopping"}
    book.gone("idle")
    book.gone("loading")
    book.release(busy)
    assert book.processes == {}
