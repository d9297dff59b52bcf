"""What a request that waits is told, and what people see of the fleet."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from beastd.contract import Loading, Waiting
from beastd.errors import LoadFailed
from beastd.fleet.view import View
from beastd.ipc import EngineStats


@pytest.fixture
def lives() -> Any:
    """Workers as the pool knows them: half loaded, with a process each."""
    worker = SimpleNamespace(fraction=0.5, pid=1234, stats=EngineStats(n_running=3))
    return defaultdict(lambda: SimpleNamespace(worker=worker, load_s=1.5))


@pytest.fixture
def leases() -> dict[int, Any]:
    return {}


@pytest.fixture
def view(book: Any, lives: Any, leases: dict[int, Any]) -> View:
    return View(book.fleet, lives, leases, lambda: book.now)


def look(view: View, ticket: int) -> Any:
    """What the request is told."""
    return view.look(SimpleNamespace(ticket=ticket))  # type: ignore[arg-type]


def test_a_request_that_joined_a_load_is_told_how_far_it_is(book: Any, want: Any, view: View) -> None:
    """And nothing when it has its worker."""
    ticket = book.request(want())
    assert look(view, ticket) == Loading(0.5)
    book.ready("cub")
    book.release(ticket)
    assert look(view, ticket) is None


def test_a_request_in_line_is_told_its_place_and_for_whose_answers_it_waits(book: Any, want: Any, view: View) -> None:
    """With the numbers."""
    book.loaded(want("busy", gb=6))
    book.request(want("busy", gb=6))
    first, second = book.request(want("cold", gb=7)), book.request(want("cold", gb=7))
    reason = "the answers of busy (q8_0) to end: cold (q8_0) needs 7.00 GB, 4.00 GB is free"
    assert look(view, first) == Waiting(1, reason)
    assert look(view, second) == Waiting(2, reason)


def test_a_request_in_line_is_told_what_gives_memory_back(book: Any, want: Any, view: View) -> None:
    """What is on its way out, rather than those that are busy."""
    book.loaded(want("a", gb=5), want("busy", gb=3))
    book.request(want("busy", gb=3))
    ticket = book.request(want("cold", gb=6))
    assert book.orders == [("stop", "a@q8_0")]
    assert look(view, ticket) == Waiting(1, "what a (q8_0) gives back: cold (q8_0) needs 6.00 GB, 2.00 GB is free")


def test_a_request_for_a_changing_model_is_told_what_it_becomes(book: Any, want: Any, view: View) -> None:
    """In words: a larger context, awake, or a variant by its name."""
    book.loaded(want(n_ctx=2048))
    first, second = book.request(want(n_ctx=4096)), book.request(want(n_ctx=4096))
    assert look(view, first) == Waiting(1, "cub (q8_0) to become a larger context")
    assert look(view, second) == Waiting(2, "cub (q8_0) to become a larger context")
    third = book.request(want(n_ctx=8192))  # more than it becomes
    assert look(view, third) == Waiting(1, "cub (q8_0) to become a larger context")


def test_a_request_for_a_model_that_is_to_be_unloaded_is_told_so(book: Any, want: Any, view: View) -> None:
    """A fresh one comes when it has gone."""
    book.loaded(want())
    book.request(want())
    book.fleet.on_unload(book.id_of("cub"), book.now)
    assert look(view, book.request(want())) == Waiting(1, "cub (q8_0) to be unloaded")


def test_a_step_up_is_told_by_the_variants_name(book: Any, want: Any, view: View) -> None:
    """To who insists on it."""
    book.loaded(want("m", ladder=(4, 2), pick="v1"))
    book.request(want("m", ladder=(4, 2)))
    ticket = book.request(want("m", ladder=(4, 2), pick="v0"))
    assert book.orders == [("step_up", "m@v0")]
    assert look(view, ticket) == Waiting(1, "m (v1) to become v0")


def test_a_status_has_everything_of_one_moment(book: Any, want: Any, view: View, leases: dict[int, Any]) -> None:
    """Workers, the line, what rests, decisions, budget and pins."""
    book.fleet.on_pins(frozenset({"a"}), book.now)
    book.request(want("broken"))
    book.gone("broken", "on_load_failed", LoadFailed("broken file"))
    book.loaded(want("a", gb=4), want("b", gb=2), keep_alive_s=60.0)
    holder = book.request(want("b", gb=2))
    leases[holder] = SimpleNamespace(keep_alive_s=5.0)
    book.request(want("c", gb=5, ladder=()))
    status = view.status()
    assert [(it.name, it.state, it.n_leases) for it in status.workers] == [("a", "changing", 0), ("b", "ready", 1)]
    a, b = status.workers
    assert (a.is_pinned, a.expires_at, a.becomes) == (True, None, "asleep")
    assert (b.is_pinned, b.becomes, b.pid, b.load_s, b.stats.n_running) == (False, "", 1234, 1.5, 3)
    assert b.n_bytes == 2 * 10**9
    (claim,) = status.line
    assert (claim.name, claim.variants, claim.n_requests, claim.need_bytes) == ("c", ("q8_0",), 1, 5 * 10**9)
    assert claim.waits_for.startswith("what a (q8_0) gives back")
    (rest,) = status.resting
    assert (rest.key, rest.n_failures, rest.error) == ("broken@q8_0", 1, "broken file")
    assert [it.act for it in status.decisions] == [it.act for it in book.decisions]
    assert status.budget_bytes == {"RAM": 10 * 10**9}
    assert status.used_bytes == {"RAM": 6 * 10**9}
    assert status.pins == ["a"]


def test_the_bytes_of_a_gpu_are_told_apart(book: Any, want: Any, view: View) -> None:
    """Of all that a worker holds."""
    book.loaded(want())
    entry = next(iter(book.fleet.roster))
    entry.holds = entry.holds + {"CUDA0": 7}
    (worker,) = view.status().workers
    assert (worker.n_bytes, worker.gpu_bytes) == (10**9 + 7, 7)


def test_a_sleeping_worker_is_said_to_sleep(notebook: Any, want: Any, lives: Any) -> None:
    """It is ready, but not at once."""
    book = notebook(sleep_after_s=10.0)
    book.loaded(want())
    book.tick(20.0)
    book.settle()
    (worker,) = View(book.fleet, lives, {}, lambda: book.now).status().workers
    assert (worker.state, worker.idle_s) == ("asleep", 19.0)


@pytest.mark.parametrize(("keep_alive_s", "is_date"), [(60.0, True), (1e11, False), (float("inf"), False)])
def test_an_end_is_a_date_or_never(book: Any, want: Any, view: View, keep_alive_s: float, *, is_date: bool) -> None:
    """What lies beyond the calendar is never."""
    book.loaded(want(), keep_alive_s=keep_alive_s)
    (worker,) = view.status().workers
    assert (worker.expires_at is not None) is is_date


def test_a_worker_below_its_best_variant_is_told_with_it(book: Any, want: Any, view: View) -> None:
    """So that people see what they do not get."""
    book.loaded(want("busy", gb=7))
    book.request(want("busy", gb=7))
    book.request(want("m", ladder=(4, 2)))
    worker = view.status().workers[1]
    assert (worker.variant, worker.best_variant, worker.state) == ("v1", "v0", "loading")
