"""The fleet under any order of events: nothing is forgotten, overbooked or stuck."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beastd.errors import BeastError, LoadFailed

MODELS = [("a", 3), ("b", 4), ("c", 6), ("d", 8), ("e", 12)]
EVENTS = ["request"] * 5 + ["ready", "gone", "drain"] * 3 + ["release", "cancel", "fail", "die", "unload"]
STEPS = st.lists(st.tuples(st.sampled_from([*EVENTS, "tick"]), st.integers(0, 104)), min_size=20, max_size=80)


def pick(things: Any, n: int) -> Any:
    """One of the things, or None."""
    things = list(things)
    return things[n % len(things)] if things else None


def in_state(book: Any, state: str, n: int) -> str | None:
    found: str | None = pick([key for key, now in book.processes.items() if now == state], n)
    return found


def step(book: Any, spec: Any, event: str, n: int) -> None:
    """One thing the world may do at this moment, if it may."""
    book.now += 1.0
    if event in ("request", "cancel", "release", "drain"):
        client_step(book, spec, event, n)
    elif event == "unload":
        book.fleet.on_unload(MODELS[n % len(MODELS)][0])
    elif event == "tick":
        book.tick(book.now)
    else:
        process_step(book, event, n)


def client_step(book: Any, spec: Any, event: str, n: int) -> None:
    name, gb = MODELS[n % len(MODELS)]
    if event == "request":
        book.request(spec(name, gb=gb, n_ctx=(1024, 2048, 4096)[n // 7 % 3], n_parallel=2))
    elif event == "cancel" and (ticket := pick(book.waiting, n)) is not None:
        book.cancel(ticket)
    elif event == "release" and (ticket := pick(book.held, n)) is not None:
        book.release(ticket, (0.0, 5.0, 50.0)[n // 7 % 3])
    elif event == "drain":
        for ticket in [ticket for ticket, key in book.held.items() if key == name]:
            book.release(ticket, 50.0)


def process_step(book: Any, event: str, n: int) -> None:
    state = {"ready": "loading", "fail": "loading", "gone": "stopping", "die": "ready"}[event]
    key = in_state(book, state, n)
    if key is None:
        return
    if event == "ready":
        book.ready(key)
    elif event == "gone":
        book.gone(key)
    elif event == "fail":
        book.gone(key, "on_load_failed", LoadFailed("broken"))
    else:
        book.gone(key, "on_died")


def finish(book: Any) -> None:
    """Loads succeed, answers end, stopping processes go, until nothing moves."""
    while book.waiting or book.held or "stopping" in book.processes.values():
        if key := in_state(book, "loading", 0):
            book.ready(key)
        elif key := in_state(book, "stopping", 0):
            book.gone(key)
        elif book.held:
            book.release(next(iter(book.held)), 1e9)
        else:
            pytest.fail(f"stuck: {book.waiting} wait, {book.processes} run")


def check(book: Any) -> None:
    """What holds at every moment; the notebook checks each order as it comes."""
    assert sum(book.n_bytes.values()) <= book.budget_bytes
    assert {entry.spec.key for entry in book.fleet.entries()} == set(book.processes)
    for entry in book.fleet.entries():
        assert entry.leases == {ticket for ticket, key in book.held.items() if key == entry.spec.key}
        assert entry.state.value != "loading" or entry.waiters, "a load nobody waits for"


@given(STEPS, st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_every_request_ends_exactly_once(notebook: Any, spec: Any, steps: list[tuple[str, int]], queue: int) -> None:
    """Granted, refused or cancelled, within the budget, no busy worker stopped, and no deadlock."""
    book = notebook(max_queue=queue)
    for event, n in steps:
        step(book, spec, event, n)
        check(book)
    finish(book)
    check(book)
    n_requests = sum(event == "request" for event, _ in steps)
    assert sorted(book.outcomes) == list(range(n_requests))
    assert all(isinstance(outcome, str | BeastError) for outcome in book.outcomes.values())


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_a_cold_load_is_not_kept_out_by_younger_ones(notebook: Any, spec: Any, steps: list[tuple[str, int]]) -> None:
    """However many younger requests come and stay, the oldest in line starts once the answers of its day have ended."""
    book = notebook(max_queue=1000)
    book.loaded(spec("old", gb=6))
    holder = book.request(spec("old", gb=6))
    waiter = book.request(spec("large", gb=7))
    for event, n in steps:
        if event in ("request", "ready", "gone"):  # younger answers never end
            step(book, spec, event, n)
    book.release(holder)
    while (key := in_state(book, "stopping", 0)) or (key := in_state(book, "loading", 0)):
        (book.gone if book.processes[key] == "stopping" else book.ready)(key)
    assert book.outcomes[waiter] == "large"
