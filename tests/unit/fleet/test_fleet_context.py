"""Workers that take more context in place: once for all who need it, beside their answers, never back and forth."""

from __future__ import annotations

from typing import Any

import pytest

from beastd.errors import CoolingDown, DoesNotFit, LoadFailed


def shape_of(book: Any, name: str) -> Any:
    """The settings of what a worker is, or of what it becomes."""
    id_ = book.id_of(name)
    return book.targets.get(id_, book.shapes[id_]).spec.settings


def test_context_grows_while_answers_run(book: Any, want: Any) -> None:
    """Nobody is drained: the answer goes on, and who needs more is granted when the change is done."""
    book.loaded(want(n_ctx=4096))
    running = book.request(want(n_ctx=2048))
    grown = book.request(want(n_ctx=8192))
    assert book.orders == [("grow", "cub@q8_0")]
    assert running in book.held
    assert grown not in book.outcomes
    book.changed("cub")
    assert book.outcomes[grown] == "cub@q8_0"
    assert running in book.held


def test_who_needs_no_more_is_granted_during_the_change(book: Any, want: Any) -> None:
    """The worker answers it before and after."""
    book.loaded(want(n_ctx=4096))
    book.request(want(n_ctx=8192))
    assert book.outcomes[book.request(want(n_ctx=4096))] == "cub@q8_0"


def test_who_needs_what_it_becomes_joins_the_change(book: Any, want: Any) -> None:
    """It is not in line for memory, where it would keep others waiting."""
    book.loaded(want(n_ctx=4096))
    book.request(want(n_ctx=8192))
    joined = book.request(want(n_ctx=6144))
    assert book.fleet.line.n_waiting == 0
    assert joined in book.fleet.place(joined).waiters


def test_growth_is_coalesced(book: Any, want: Any) -> None:
    """All who come during a change are served by one more, with the most any of them needs."""
    book.loaded(want(n_ctx=4096))
    tickets = [book.request(want(n_ctx=n_ctx)) for n_ctx in (8192, 12288, 16384, 8192, 10240)]
    book.changed("cub")
    assert book.orders == [("grow", "cub@q8_0")] * 2
    assert shape_of(book, "cub").n_ctx == 16384
    book.settle()
    assert [book.outcomes[ticket] for ticket in tickets] == ["cub@q8_0"] * 5
    assert len(book.orders) == 2


@pytest.mark.parametrize("is_overlapping", [False, True])
def test_two_clients_that_disagree_cause_one_reload(book: Any, want: Any, *, is_overlapping: bool) -> None:
    """50 requests that alternate 2048 and 4096 tokens, one after the other or side by side."""
    held: list[int] = []
    for i in range(50):
        held.append(book.request(want(n_ctx=(2048, 4096)[i % 2])))
        if not is_overlapping or i % 5 == 4:
            book.settle()
            for ticket in held:
                book.release(ticket)
            held.clear()
    assert book.orders == [("start", "cub@q8_0"), ("grow", "cub@q8_0")]
    assert set(book.outcomes.values()) == {"cub@q8_0"}


def test_context_never_shrinks(book: Any, want: Any) -> None:
    """A smaller request is served by what is there."""
    book.loaded(want(n_ctx=8192))
    assert book.outcomes[book.request(want(n_ctx=512))] == "cub@q8_0"
    assert book.orders == []
    assert shape_of(book, "cub").n_ctx == 8192


def test_context_asked_during_a_load_lets_the_load_finish(book: Any, want: Any) -> None:
    """Who joined the smaller load is served by it; then it grows beside that answer."""
    small = book.request(want(n_ctx=4096))
    large = book.request(want(n_ctx=8192))
    book.ready("cub")
    assert book.outcomes == {small: "cub@q8_0"}
    assert book.orders == [("start", "cub@q8_0"), ("grow", "cub@q8_0")]
    book.changed("cub")
    assert book.outcomes[large] == "cub@q8_0"


def test_growth_nobody_wants_any_more_does_not_begin(book: Any, want: Any) -> None:
    """Its only request left the line."""
    book.request(want(n_ctx=4096))
    book.cancel(book.request(want(n_ctx=8192)))
    book.ready("cub")
    assert book.orders == [("start", "cub@q8_0")]


def test_a_change_goes_on_when_who_wanted_it_leaves(book: Any, want: Any) -> None:
    """The worker is then what it has become."""
    book.loaded(want(n_ctx=4096))
    book.cancel(book.request(want(n_ctx=8192)))
    book.changed("cub")
    assert book.outcomes[book.request(want(n_ctx=8192))] == "cub@q8_0"
    assert book.orders == [("grow", "cub@q8_0")]


def test_a_growth_keeps_a_sequence_for_each_answer_under_way(book: Any, want: Any) -> None:
    """Fewer sequences at once would leave a running answer without one."""
    book.loaded(want(n_ctx=4096, n_parallel=4))
    for _ in range(3):
        book.request(want(n_ctx=4096, n_parallel=4))
    book.request(want(n_ctx=8192, n_parallel=2))
    assert shape_of(book, "cub").n_parallel == 3


def test_a_growth_of_a_worker_with_queued_answers_keeps_its_sequences(book: Any, want: Any) -> None:
    """No more than it runs at once now."""
    book.loaded(want(n_ctx=4096, n_parallel=2))
    for _ in range(5):
        book.request(want(n_ctx=4096, n_parallel=2))
    book.request(want(n_ctx=8192, n_parallel=1))
    assert shape_of(book, "cub").n_parallel == 2


def test_a_growth_makes_room_of_others(book: Any, want: Any) -> None:
    """But not of the worker that grows."""
    book.loaded(want("other", gb=5), want(gb=4))
    book.request(want(gb=4, n_ctx=12288))  # one more GB than is free
    assert book.orders == [("sleep", "other@q8_0")]
    book.changed("other")
    assert book.orders[1:] == [("grow", "cub@q8_0")]


def test_a_growth_that_waits_for_memory_leaves_its_model_hot(book: Any, want: Any) -> None:
    """Who needs no more context is answered; the others are when the memory comes free."""
    book.loaded(want("other", gb=5), want(gb=4))
    busy = book.request(want("other", gb=5))
    large = book.request(want(gb=4, n_ctx=16384))
    assert book.orders == []
    assert book.outcomes[book.request(want(gb=4))] == "cub@q8_0"
    book.release(busy)
    book.settle()
    assert book.orders == [("stop", "other@q8_0"), ("grow", "cub@q8_0")]
    assert book.outcomes[large] == "cub@q8_0"


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_worker_too_fat_to_grow_in_place_is_loaded_anew(book: Any, want: Any, *, is_busy: bool) -> None:
    """It holds more than was computed, so that the change has no room beside it and a fresh worker has."""
    first = book.request(want(gb=4))
    book.ready("cub", holds_gb=6)
    if not is_busy:
        book.release(first, 1e6)
    book.orders.clear()
    large = book.request(want(gb=4, n_ctx=24576))  # 9 GB
    if is_busy:
        assert book.orders == []
        book.release(first, 1e6)
    assert book.orders == [("stop", "cub@q8_0")]
    book.settle()
    assert book.orders[1:] == [("start", "cub@q8_0")]
    assert book.outcomes[large] == "cub@q8_0"


def test_a_pinned_worker_too_fat_to_grow_is_loaded_anew(book: Any, want: Any) -> None:
    """It leaves for itself alone."""
    book.fleet.on_pins(frozenset({"cub"}), book.now)
    first = book.request(want(gb=4))
    book.ready("cub", holds_gb=6)
    book.release(first, 1e6)
    large = book.request_and_settle(want(gb=4, n_ctx=24576))
    assert book.outcomes[large] == "cub@q8_0"


def test_context_too_large_for_the_budget_leaves_the_worker_alone(book: Any, want: Any) -> None:
    """The one request is refused; the model stays loaded."""
    book.loaded(want(gb=4))
    assert isinstance(book.outcomes[book.request(want(gb=4, n_ctx=65536))], DoesNotFit)
    assert book.outcomes[book.request(want(gb=4))] == "cub@q8_0"
    assert book.orders == []


# --- changes that fail ---


def test_a_failed_growth_refuses_who_waited_and_harms_nobody_else(book: Any, want: Any) -> None:
    """The worker is what it was."""
    book.loaded(want(n_ctx=4096))
    running = book.request(want(n_ctx=4096))
    grown = book.request(want(n_ctx=8192))
    error = LoadFailed("no room for the KV cache")
    book.changed("cub", error)
    assert book.outcomes[grown] is error
    assert running in book.held
    assert book.outcomes[book.request(want(n_ctx=4096))] == "cub@q8_0"
    assert book.why("change_failed") == "no room for the KV cache"


def test_a_failed_growth_cools_down(book: Any, want: Any) -> None:
    """It is not tried again by everybody who asks; later it is, and what went well is forgotten."""
    book.loaded(want(n_ctx=4096))
    book.request(want(n_ctx=8192))
    book.changed("cub", LoadFailed("no room"))
    error = book.outcomes[book.request(want(n_ctx=8192))]
    assert isinstance(error, CoolingDown)
    assert error.retry_after_s == 5
    book.now += 5.0
    book.request(want(n_ctx=8192))
    book.changed("cub")
    assert book.orders == [("grow", "cub@q8_0")] * 2
    assert not book.fleet.cooling.all_resting(book.now)


def test_a_failed_wake_cools_down_whatever_context_is_asked_for(book: Any, want: Any) -> None:
    """The worker would wake with all of its own."""
    book.loaded(want("a", gb=4, n_ctx=8192), want("b", gb=4))
    book.request(want("c", gb=1.5))
    assert book.orders == [("sleep", "a@q8_0")]
    book.changed("a")
    book.orders.clear()
    book.request(want("a", gb=4, n_ctx=2048))
    book.settle(but="a")
    book.changed("a", LoadFailed("no room"))
    n_orders = len(book.orders)
    assert isinstance(book.outcomes[book.request(want("a", gb=4, n_ctx=2048))], CoolingDown)
    assert len(book.orders) == n_orders


def test_a_worker_that_dies_in_a_change_gives_its_waiters_back_to_the_line(book: Any, want: Any) -> None:
    """A fresh worker answers them, with what they need; they keep their turn."""
    book.loaded(want("other", gb=6), want(gb=2))
    book.request(want("other", gb=6))
    lost = book.request(want(gb=2))
    waiter = book.request(want(gb=2, n_ctx=8192))
    book.request(want("young", gb=7))
    book.gone("cub", "on_died")
    assert book.orders == [("grow", "cub@q8_0"), ("start", "cub@q8_0")]
    book.ready("cub")
    assert book.outcomes[waiter] == "cub@q8_0"
    assert shape_of(book, "cub").n_ctx == 8192
    assert lost not in book.held
    assert book.fleet.place(lost) is None


def test_waiters_of_a_worker_that_died_keep_their_turn(book: Any, want: Any) -> None:
    """Before a younger load that the freed memory would do for as well."""
    book.loaded(want("other", gb=2), want(gb=6))
    book.request(want("other", gb=2))
    book.request(want(gb=6))
    waiter = book.request(want(gb=6, n_ctx=8192))
    book.request(want("young", gb=8))
    book.gone("cub", "on_died")
    assert book.orders == [("grow", "cub@q8_0"), ("start", "cub@q8_0")]
    book.ready("cub")
    assert book.outcomes[waiter] == "cub@q8_0"
