"""The fleet under any order of events: nothing is forgotten, overbooked or stuck."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from beastd.errors import BeastError, LoadFailed, OutOfMemory, WorkerDied
from beastd.fleet.entry import Entry
from beastd.fleet.footprint import ram
from beastd.fleet.steward import STEP_UP_AFTER_S

MODELS: list[tuple[str, tuple[float, ...]]] = [
    ("a", (3,)),
    ("b", (4, 2, 1)),
    ("c", (6,)),
    ("d", (8, 4)),
    ("e", (12,)),
    ("f", (2, 1)),
]
EVENTS = ["request"] * 6 + ["ready", "changed", "gone", "drain"] * 3 + ["release", "cancel", "fail", "oom", "die"]
EVENTS += ["unload", "tick", "later", "change_fails", "pin", "budget", "killed", "die_changing"]
STEPS = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 2000)), min_size=20, max_size=80)
PINNABLE = [frozenset(), frozenset({"a"}), frozenset({"f@v0"}), frozenset({"b", "f"})]


def pick(things: Any, n: int) -> Any:
    """One of the things, or None."""
    things = list(things)
    return things[n % len(things)] if things else None


def in_state(book: Any, state: str, n: int) -> int | None:
    found: int | None = pick([id_ for id_, now in book.processes.items() if now == state], n)
    return found


def step(book: Any, want: Any, event: str, n: int) -> None:
    """One thing the world may do at this moment, if it may."""
    book.now += 1.0
    if event in ("request", "cancel", "release", "drain"):
        client_step(book, want, event, n)
    elif event == "unload" and (id_ := pick(book.processes, n)) is not None:
        book.fleet.on_unload(id_, book.now)
    elif event in ("tick", "later"):
        book.tick(book.now + (150.0 if event == "later" else 0.0))
    elif event == "pin":
        book.fleet.on_pins(PINNABLE[n % len(PINNABLE)], book.now)
    elif event == "budget":
        more_gb = book.fleet.roster.budget.total_bytes + n * 10**6
        book.fleet.on_budget(ram(min(more_gb, 11 * 10**9)), book.now)
    else:
        process_step(book, event, n)


def client_step(book: Any, want: Any, event: str, n: int) -> None:
    name, ladder = MODELS[n % len(MODELS)]
    if event == "request":
        n_ctx = (1024, 2048, 4096)[n // 7 % 3]
        picked = f"v{n // 3 % len(ladder)}" if n // 2 % 5 == 0 else ""
        book.request(want(name, ladder=ladder, pick=picked, n_ctx=n_ctx, n_parallel=2))
    elif event == "cancel" and (ticket := pick(book.waiting, n)) is not None:
        book.cancel(ticket)
    elif event == "release" and (ticket := pick(book.held, n)) is not None:
        book.release(ticket, (0.0, 5.0, 500.0)[n // 7 % 3])
    elif event == "drain":
        for ticket in [ticket for ticket, id_ in book.held.items() if book.shapes[id_].spec.name == name]:
            book.release(ticket, 500.0)


def process_step(book: Any, event: str, n: int) -> None:
    states = {"ready": "loading", "fail": "loading", "oom": "loading", "gone": "stopping", "die": "ready"}
    states |= {"changed": "changing", "change_fails": "changing", "killed": "loading", "die_changing": "changing"}
    id_ = in_state(book, states.get(event, ""), n)
    if id_ is None:
        return
    if event == "ready":
        book.ready(id_, load_s=n % 7 + 0.5)
    elif event in ("changed", "change_fails"):
        book.changed(id_, LoadFailed("broken") if event == "change_fails" else None)
    elif event == "gone":
        book.gone(id_)
    elif event in ("fail", "oom"):
        book.gone(id_, "on_load_failed", (OutOfMemory if event == "oom" else LoadFailed)("broken"))
    elif event == "killed":
        book.gone(id_, "on_load_failed", WorkerDied("killed"))
    else:
        book.gone(id_, "on_died")


def finish(book: Any) -> None:
    """Loads and changes succeed, answers end, stopping processes go and time passes, until nothing moves."""
    book.fleet.on_budget(ram(10 * 10**9), book.now)
    give_up_at = book.now + 1000
    while book.waiting or book.held or set(book.processes.values()) & {"stopping", "changing"}:
        book.settle()
        if book.held:
            book.release(next(iter(book.held)), 1e9)
        elif book.waiting:
            at = book.fleet.next_deadline() or math.inf
            assert book.now < at < give_up_at, f"stuck: {book.waiting} wait, {book.processes} run"
            book.tick(at)


def check(book: Any) -> None:
    """What holds at every moment; the notebook checks each order as it comes."""
    assert {entry.id for entry in book.fleet.roster} == set(book.processes)
    for entry in book.fleet.roster:
        assert set(entry.leases) == {ticket for ticket, id_ in book.held.items() if id_ == entry.id}
        assert entry.state.value == book.processes[entry.id]
        assert entry.state.value != "loading" or entry.waiters, "a load nobody waits for"
        assert entry.state.value in ("loading", "changing") or not entry.waiters, "nothing is coming for them"
    assert_every_waiter_is_somewhere(book)


def staying_pinned(book: Any) -> set[int]:
    """The pinned workers that nobody has told to go."""
    return {
        entry.id
        for entry in book.fleet.roster
        if book.fleet.roster.is_pinned(entry.spec) and not entry.is_unloading and entry.state.value != "stopping"
    }


def assert_every_waiter_is_somewhere(book: Any) -> None:
    in_line = {ticket for claim in book.fleet.line for ticket in claim.tickets}
    joined = {ticket for entry in book.fleet.roster for ticket in entry.waiters}
    assert in_line | joined == set(book.waiting)
    assert not in_line & joined
    for ticket in in_line:
        claim = book.fleet.place(ticket)
        assert not isinstance(claim, Entry)
        assert claim.want.rungs, "something can answer them"


@given(STEPS, st.integers(1, 30))
@settings(max_examples=300, deadline=None)
def test_every_request_ends_exactly_once(notebook: Any, want: Any, steps: list[tuple[str, int]], queue: int) -> None:
    """Granted, refused or cancelled, within the budget, no busy or pinned worker stopped, and no deadlock."""
    book = notebook(max_queue=queue, sleep_after_s=50.0)
    for event, n in steps:
        pinned = staying_pinned(book)
        step(book, want, event, n)
        stopped = {id_ for id_ in pinned if book.processes.get(id_) == "stopping"}
        assert event in ("unload", "cancel", "pin") or not stopped, "a pinned model never leaves"
        check(book)
    finish(book)
    check(book)
    n_requests = len(book.wants)
    assert sorted(book.outcomes) == list(range(n_requests))
    assert all(isinstance(outcome, str | BeastError) for outcome in book.outcomes.values())


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_a_cold_load_is_not_kept_out_by_younger_ones(notebook: Any, want: Any, steps: list[tuple[str, int]]) -> None:
    """However many younger requests come and stay, the oldest in line starts once the answers of its day have ended."""
    book = notebook(max_queue=1000)
    book.loaded(want("old", gb=6))
    holder = book.request(want("old", gb=6))
    waiter = book.request(want("large", gb=7))
    for event, n in steps:
        if event in ("request", "ready", "gone", "changed"):  # younger answers never end
            step(book, want, event, n)
    book.release(holder)
    book.settle()
    assert book.outcomes[waiter] == "large@q8_0"


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_quality_does_not_flap(notebook: Any, want: Any, steps: list[tuple[str, int]]) -> None:
    """A model steps up only after a quiet time without a step of anybody, however the requests come."""
    book = notebook(sleep_after_s=50.0)
    for event, n in steps:
        n_before = len(book.decisions)
        step(book, want, event, n)
        for i in range(n_before, len(book.decisions)):
            decision = book.decisions[i]
            if decision.act == "step_up" and "again" in decision.why:
                pressure = [it.at for it in book.decisions[:i] if it.act in ("step_down", "evict", "step_up")]
                assert not pressure or decision.at - pressure[-1] >= STEP_UP_AFTER_S
