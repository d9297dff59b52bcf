"""Loads that fail, memory that cannot be had, workers that die: one error each, and no thrashing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from beastd.errors import CoolingDown, LoadFailed, OutOfMemory, ShuttingDown


def fail(book: Any, name: str, error: Exception) -> None:
    """A load ends badly."""
    book.gone(name, "on_load_failed", error)


# --- failed loads ---


def test_a_failed_load_refuses_all_who_waited(book: Any, want: Any) -> None:
    """One error each."""
    tickets = [book.request(want()), book.request(want())]
    error = LoadFailed("broken file")
    fail(book, "cub", error)
    assert [book.outcomes[ticket] for ticket in tickets] == [error, error]
    assert book.why("cool_down") == "for 5 s: broken file"


def test_a_failed_load_rests_for_five_seconds(book: Any, want: Any) -> None:
    """Who asks meanwhile is told when to come back, and why; then it is tried again."""
    book.request(want())
    fail(book, "cub", LoadFailed("broken file"))
    book.now += 1.5
    error = book.outcomes[book.request(want())]
    assert isinstance(error, CoolingDown)
    assert error.retry_after_s == 4
    assert "failed to load a moment ago; it is tried again in 4 s" in error.message
    assert "broken file" in error.message
    book.now += 3.5
    book.request(want())
    assert book.orders == [("start", "cub@q8_0")] * 2


def test_each_failure_in_a_row_doubles_the_rest(book: Any, want: Any) -> None:
    """Up to five minutes; a load that goes well ends the row."""
    pauses = []
    for _ in range(8):
        book.request(want())
        fail(book, "cub", LoadFailed("broken"))
        error = book.outcomes[book.request(want())]
        pauses.append(error.retry_after_s)
        book.now += pauses[-1]
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    assert "8 times in a row" in error.message
    book.loaded(want(), keep_alive_s=0.0)
    book.gone("cub")
    book.request(want())
    fail(book, "cub", LoadFailed("broken"))
    assert book.outcomes[book.request(want())].retry_after_s == 5


def test_a_failed_load_serves_the_line(book: Any, want: Any) -> None:
    """Its memory is free for the next."""
    book.request(want("a", gb=6))
    waiter = book.request(want("b", gb=6))
    fail(book, "a", LoadFailed("broken"))
    book.ready("b")
    assert book.outcomes[waiter] == "b@q8_0"


def test_a_model_whose_best_variant_fails_is_tried_in_another(book: Any, want: Any) -> None:
    """While the failed one rests; who insists on it is refused."""
    book.request(want("m", ladder=(4, 2)))
    fail(book, "m", LoadFailed("broken file"))
    ticket = book.request(want("m", ladder=(4, 2)))
    assert book.orders == [("start", "m@v0"), ("start", "m@v1")]
    book.ready("m")
    assert book.outcomes[ticket] == "m@v1"
    assert isinstance(book.outcomes[book.request(want("m", ladder=(4, 2), pick="v0"))], CoolingDown)
    assert book.outcomes[book.request(want("m", ladder=(4, 2)))] == "m@v1"


def test_a_model_of_which_every_variant_fails_is_refused(book: Any, want: Any) -> None:
    """With the failure of the best."""
    for message in ("first", "second"):
        book.request(want("m", ladder=(4, 2)))
        fail(book, "m", LoadFailed(message))
    error = book.outcomes[book.request(want("m", ladder=(4, 2)))]
    assert isinstance(error, CoolingDown)
    assert "m (v0)" in error.message
    assert "first" in error.message


# --- memory that cannot be had ---


def test_a_load_out_of_memory_is_tried_with_half_the_sequences(book: Any, want: Any) -> None:
    """Again and again, where the configuration leaves their number to Beast; one request, one ending."""
    ticket = book.request(want(n_parallel=4, has_auto_parallel=True))
    for n_parallel in (2, 1):
        fail(book, "cub", OutOfMemory("no memory"))
        assert book.shapes[book.id_of("cub")].spec.settings.n_parallel == n_parallel
    book.ready("cub")
    assert book.orders == [("start", "cub@q8_0")] * 3
    assert book.outcomes == {ticket: "cub@q8_0"}
    assert book.why("retry") == "cub (q8_0) ran out of memory: no memory"


def test_half_the_sequences_take_half_the_memory_for_kv(book: Any, want: Any) -> None:
    """The retry fits where the first try did not."""
    book.request(want(gb=8, n_parallel=4, has_auto_parallel=True))
    fail(book, "cub", OutOfMemory("no memory"))
    spec = book.shapes[book.id_of("cub")].spec
    assert (spec.weights.total_bytes, spec.working.total_bytes) == (6 * 10**9, 10**9)


@pytest.mark.parametrize(("layout", "n_at_once"), [("partitioned", 2), ("unified", 16)])
def test_with_half_the_contexts_no_more_run_than_there_is_a_place_for(
    book: Any, want: Any, layout: str, n_at_once: int
) -> None:
    """Of a pool of cells the others may need little; cells of its own each must have."""
    (spec,) = want(n_parallel=4).rungs
    n_sequences = 16 if layout == "unified" else 4
    settings = msgspec.structs.replace(spec.settings, kv_layout=layout, n_sequences=n_sequences)
    assert replace(spec, settings=settings).with_parallel(2).settings.n_at_once == n_at_once


def test_a_number_of_sequences_that_is_configured_is_kept(book: Any, want: Any) -> None:
    """Then there is nothing smaller to try, and the error is told."""
    error = OutOfMemory("no memory")
    ticket = book.request(want(n_parallel=4))
    fail(book, "cub", error)
    assert book.outcomes == {ticket: error}
    assert isinstance(book.outcomes[book.request(want())], CoolingDown)


def test_after_the_sequences_a_smaller_variant_is_tried(book: Any, want: Any) -> None:
    """And when the last of all fails, the error is told once."""
    ticket = book.request(want("m", ladder=(6, 4, 2), n_parallel=2, has_auto_parallel=True))
    tried = []
    while "m" in {shape.spec.name for shape in book.shapes.values()}:
        spec = book.shapes[book.id_of("m")].spec
        tried.append((spec.variant, spec.settings.n_parallel))
        fail(book, "m", OutOfMemory("no memory"))
    assert tried[:2] == [("v0", 2), ("v0", 1)]
    assert [variant for variant, _ in tried[2:]] == sorted(variant for variant, _ in tried[2:])
    assert tried[-1] == ("v2", 1)
    assert isinstance(book.outcomes[ticket], OutOfMemory)


def test_who_insists_is_refused_when_others_take_a_smaller_variant(book: Any, want: Any) -> None:
    """Each by what it asked for."""
    lenient = book.request(want("m", ladder=(6, 3)))
    insisting = book.request(want("m", ladder=(6, 3), pick="v0"))
    fail(book, "m", OutOfMemory("no memory"))
    assert isinstance(book.outcomes[insisting], OutOfMemory)
    book.ready("m")
    assert book.outcomes[lenient] == "m@v1"


def test_a_retry_keeps_its_place_in_line(book: Any, want: Any) -> None:
    """It was there before those that came meanwhile."""
    first = book.request(want("m", gb=8, n_parallel=2, has_auto_parallel=True))
    book.request(want("young", gb=8))
    fail(book, "m", OutOfMemory("no memory"))
    assert book.orders == [("start", "m@q8_0")] * 2
    book.ready("m")
    assert book.outcomes[first] == "m@q8_0"


def test_a_stopped_load_that_ran_out_of_memory_is_not_tried_again(book: Any, want: Any) -> None:
    """Nobody wanted it any more."""
    book.cancel(book.request(want(has_auto_parallel=True)))
    fail(book, "cub", OutOfMemory("no memory"))
    assert book.orders == [("start", "cub@q8_0"), ("stop", "cub@q8_0")]


# --- deaths ---


def test_a_dead_worker_is_replaced_and_its_leases_are_void(book: Any, want: Any) -> None:
    """A late release of the dead one does not touch the fresh one."""
    book.loaded(want())
    stale = book.request(want())
    book.gone("cub", "on_died")
    fresh = book.request(want())
    book.ready("cub")
    book.release(stale, 0.0)
    assert list(book.held) == [fresh]
    assert list(book.processes.values()) == ["ready"]


def test_a_death_is_written_down(book: Any, want: Any) -> None:
    """So that a second load has a reason; a worker that was told to stop has not died."""
    book.loaded(want("a", gb=6))
    book.request(want("a", gb=6))
    book.gone("a", "on_died")
    assert book.why("died") == "its process ended by itself, with one answer under way"
    book.loaded(want("a", gb=6), keep_alive_s=0.0)
    book.gone("a", "on_died")
    assert [it.act for it in book.decisions].count("died") == 1


def test_a_death_serves_the_line(book: Any, want: Any) -> None:
    """What it held is free."""
    book.loaded(want("a", gb=6))
    book.request(want("a", gb=6))
    waiter = book.request(want("b", gb=6))
    book.gone("a", "on_died")
    book.ready("b")
    assert book.outcomes[waiter] == "b@q8_0"


def test_a_worker_that_dies_when_told_to_stop_is_gone(book: Any, want: Any) -> None:
    """The two cross on the way."""
    book.loaded(want("a", gb=6))
    book.request(want("b", gb=6))
    book.gone("a", "on_died")
    assert book.orders == [("stop", "a@q8_0"), ("start", "b@q8_0")]


@pytest.mark.parametrize("error", [LoadFailed("broken"), OutOfMemory("no memory"), ShuttingDown("stopped")])
def test_a_load_that_fails_after_the_close_starts_nothing(book: Any, want: Any, error: Exception) -> None:
    """Whatever it would have been tried with."""
    book.request(want("m", ladder=(6, 3), n_parallel=2, has_auto_parallel=True))
    book.close(ShuttingDown("bye"))
    fail(book, "m", error)
    assert book.orders == [("start", "m@v0"), ("stop", "m@v0")]
    assert not book.processes


def test_a_smaller_variant_after_a_lack_of_memory_has_the_context_of_all(book: Any, want: Any) -> None:
    """Though the one who knew of the variant needs less of it."""
    insisting = book.request(want("m", ladder=(6, 3), pick="v0", n_ctx=4096))
    tickets = [book.request(want("m", ladder=(6, 3), n_ctx=n_ctx)) for n_ctx in (2048, 4096)]
    error = OutOfMemory("no room")
    book.gone("m", "on_load_failed", error)
    assert book.outcomes[insisting] is error
    book.settle()
    assert [book.outcomes[ticket] for ticket in tickets] == ["m@v1"] * 2
