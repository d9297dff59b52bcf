"""Models that may run in smaller variants: they step down rather than leave, and up again when all is quiet.

A ladder of (6, 3) has v0 with 4.5 GB of weights and v1 with 2.25 GB; both have 1.5 GB of KV cache.
"""

from __future__ import annotations

from typing import Any

import pytest

from beastd.errors import BadModel, CoolingDown, DoesNotFit, LoadFailed
from beastd.fleet.footprint import ram
from beastd.fleet.steward import STEP_UP_AFTER_S

GB = 10**9


def stepped_down(book: Any, want: Any) -> int:
    """A model that had to step down to v1 for another of 6 GB, which is busy; returns its request."""
    book.loaded(want("m", ladder=(6, 3)))
    running = book.request(want("m", ladder=(6, 3)))
    other = book.request(want("other", gb=6))
    book.settle()
    assert book.outcomes[other] == "other@q8_0"
    book.release(running, 1e6)
    book.orders.clear()
    return int(other)


def leave(book: Any, name: str, ticket: int) -> None:
    """A model's last answer ends, and it goes."""
    book.release(ticket, 0.0)
    book.gone(name)


# --- a new model ---


def test_a_model_starts_in_its_best_variant_where_there_is_room(book: Any, want: Any) -> None:
    """A ladder changes nothing then."""
    book.request(want("m", ladder=(6, 3)))
    assert book.orders == [("start", "m@v0")]


def test_a_model_starts_smaller_rather_than_wait(book: Any, want: Any) -> None:
    """Beside a busy model, in the best variant for which there is room."""
    book.loaded(want("busy", gb=5))
    book.request(want("busy", gb=5))
    book.request(want("m", ladder=(6, 4, 2)))
    assert book.orders == [("start", "m@v1")]


@pytest.mark.parametrize("is_insisting_first", [True, False])
def test_a_model_starts_smaller_beside_one_who_insists(book: Any, want: Any, *, is_insisting_first: bool) -> None:
    """Who insists waits alone, and gets the same worker in its best variant once there is room."""
    book.loaded(want("busy", gb=6))
    busy = book.request(want("busy", gb=6))
    picks = ["v0", ""] if is_insisting_first else ["", "v0"]
    asked = {pick: book.request(want("m", ladder=(6, 3), pick=pick)) for pick in picks}
    assert book.orders == [("start", "m@v1")]
    book.settle()
    assert book.outcomes[asked[""]] == "m@v1"
    assert asked["v0"] in book.waiting
    book.release(busy)
    book.settle()
    assert book.orders[1:] == [("stop", "busy@q8_0"), ("step_up", "m@v0")]
    assert book.outcomes[asked["v0"]] == "m@v0"


def test_a_model_starts_smaller_rather_than_have_another_leave(book: Any, want: Any) -> None:
    """An idle one only sleeps."""
    book.loaded(want("idle", gb=6))
    ticket = book.request_and_settle(want("m", ladder=(8, 4)))
    assert book.orders == [("sleep", "idle@q8_0"), ("start", "m@v1")]
    assert book.outcomes[ticket] == "m@v1"


def test_a_model_starts_smaller_rather_than_have_another_step_down(book: Any, want: Any) -> None:
    """The newcomer is the one that gives way."""
    book.loaded(want("m", ladder=(6, 3)))
    book.request(want("m", ladder=(6, 3)))
    book.request(want("new", ladder=(5, 2)))
    assert book.orders == [("start", "new@v1")]


def test_others_sleep_before_a_model_starts_smaller(book: Any, want: Any) -> None:
    """Sleep costs them a moment, and the answers of the new one nothing."""
    book.loaded(want("idle", gb=6))
    book.request(want("m", ladder=(5, 3)))
    book.settle()
    assert book.orders == [("sleep", "idle@q8_0"), ("start", "m@v0")]


def test_where_even_the_smallest_has_no_room_an_idle_one_leaves(book: Any, want: Any) -> None:
    """And as it has left, the best variant that fits in its place is started."""
    book.loaded(want("idle", gb=9))
    book.request_and_settle(want("m", ladder=(8, 4)))
    assert book.orders == [("stop", "idle@q8_0"), ("start", "m@v0")]


def test_a_request_that_insists_waits_for_its_variant(book: Any, want: Any) -> None:
    """No other may stand in for it."""
    book.loaded(want("busy", gb=5))
    busy = book.request(want("busy", gb=5))
    ticket = book.request(want("m", ladder=(6, 3), pick="v0"))
    assert book.orders == []
    book.release(busy)
    book.settle()
    assert book.outcomes[ticket] == "m@v0"


# --- stepping down ---


def test_a_busy_model_steps_down_for_another(book: Any, want: Any) -> None:
    """Nobody leaves, nobody waits, and its answer goes on."""
    book.loaded(want("m", ladder=(6, 3)))
    running = book.request(want("m", ladder=(6, 3)))
    ticket = book.request(want("other", gb=6))
    assert book.orders == [("step_down", "m@v1")]
    assert book.why("step_down").startswith("other (q8_0) needs 6.00 GB; idle for")
    book.changed("m")
    book.ready("other")
    assert book.outcomes[ticket] == "other@q8_0"
    assert running in book.held


def test_an_idle_model_steps_down_rather_than_leave(book: Any, want: Any) -> None:
    """Where its sleep is not enough."""
    book.loaded(want("m", ladder=(6, 3)))
    book.request(want("other", gb=6))
    assert book.orders == [("step_down", "m@v1")]


def test_sleep_comes_before_stepping_down(book: Any, want: Any) -> None:
    """Where it is enough."""
    book.loaded(want("m", ladder=(6, 3)))
    book.request(want("other", gb=5))
    assert book.orders == [("sleep", "m@v0")]


def test_stepping_down_comes_before_eviction_of_another(book: Any, want: Any) -> None:
    """Though the other is the cheaper one to lose."""
    book.loaded(want("plain", gb=3), want("m", ladder=(6, 3)))
    book.request(want("m", ladder=(6, 3)))
    book.request(want("other", gb=3))
    assert book.orders == [("step_down", "m@v1")]


def test_a_model_steps_down_only_as_far_as_needed(book: Any, want: Any) -> None:
    """To the best variant that makes the room."""
    book.loaded(want("m", ladder=(6, 4, 2)))
    book.request(want("m", ladder=(6, 4, 2)))
    book.request(want("other", gb=5))
    assert book.orders == [("step_down", "m@v1")]


def test_a_model_can_step_down_several_steps_at_once(book: Any, want: Any) -> None:
    """One change, not one for each step."""
    book.loaded(want("m", ladder=(6, 4, 2)))
    book.request(want("m", ladder=(6, 4, 2)))
    book.request(want("other", gb=7))
    assert book.orders == [("step_down", "m@v2")]


def test_a_sleeping_model_steps_down_asleep(book: Any, want: Any) -> None:
    """It is not woken for it."""
    book.loaded(want("m", ladder=(6, 3)))
    small = book.request(want("small", gb=5))
    book.settle()
    book.release(small, 0.0)
    book.gone("small")
    book.request(want("other", gb=7))
    assert book.orders[-1] == ("step_down", "m@v1")
    assert book.targets[book.id_of("m")].is_asleep


def test_an_answer_that_insists_on_its_variant_keeps_it(book: Any, want: Any) -> None:
    """While it runs nobody changes the model under it; afterwards it may step down."""
    book.loaded(want("m", ladder=(6, 3)))
    insisting = book.request(want("m", ladder=(6, 3), pick="v0"))
    book.request(want("other", gb=6))
    assert book.orders == []
    book.release(insisting)
    assert book.orders == [("step_down", "m@v1")]


def test_a_pinned_variant_does_not_step_down(book: Any, want: Any) -> None:
    """The pin names the variant; the other waits."""
    book.fleet.on_pins(frozenset({"m@v0"}), book.now)
    book.loaded(want("m", ladder=(6, 3)))
    book.request(want("m", ladder=(6, 3)))
    book.request(want("other", gb=5.5))
    assert book.orders == []


def test_more_context_than_a_pinned_variant_may_have_is_refused(book: Any, want: Any) -> None:
    """The smaller variant that could have it may not stand in."""
    book.fleet.on_pins(frozenset({"m@v0"}), book.now)
    book.loaded(want("m", ladder=(6, 3)))
    asked = book.request(want("m", ladder=(6, 3), n_ctx=16384))  # 10.5 GB, or 8.25
    assert isinstance(book.outcomes[asked], DoesNotFit)
    assert book.orders == []


def test_a_pinned_model_may_step_down(book: Any, want: Any) -> None:
    """It stays loaded, which is what was asked."""
    book.fleet.on_pins(frozenset({"m"}), book.now)
    book.loaded(want("m", ladder=(6, 3)))
    book.request(want("m", ladder=(6, 3)))
    book.request(want("other", gb=5.5))
    assert book.orders == [("step_down", "m@v1")]


def test_a_model_steps_down_when_the_budget_shrinks(book: Any, want: Any) -> None:
    """Its answers go on in less memory."""
    book.loaded(want("m", ladder=(6, 3)))
    book.request(want("m", ladder=(6, 3)))
    book.fleet.on_budget(ram(5 * GB), book.now)
    assert book.orders == [("step_down", "m@v1")]


def test_a_model_does_not_step_down_to_a_variant_that_runs_already(book: Any, want: Any) -> None:
    """At most one worker lives per variant."""
    book.loaded(want("m", ladder=(4, 2), pick="v1"), want("m", ladder=(4, 2), pick="v0"))
    lease = book.request(want("m", ladder=(4, 2)))
    book.request(want("m", ladder=(4, 2), pick="v1"))
    assert book.outcomes[lease] == "m@v0"
    book.request(want("other", gb=5))
    assert book.orders == []


def test_a_model_loaded_by_one_that_insisted_steps_down_for_later_ones(book: Any, want: Any) -> None:
    """Its ladder is that of the most lenient request it has seen."""
    book.loaded(want("m", ladder=(6, 3), pick="v0"))
    book.request(want("m", ladder=(6, 3)))
    book.request(want("other", gb=6))
    assert book.orders == [("step_down", "m@v1")]


def test_requests_are_answered_by_the_smaller_variant_meanwhile(book: Any, want: Any) -> None:
    """At once, where they accept it."""
    stepped_down(book, want)
    assert book.outcomes[book.request(want("m", ladder=(6, 3)))] == "m@v1"
    assert book.orders == []


def test_a_failed_step_down_is_not_tried_again_at_once(book: Any, want: Any) -> None:
    """The worker holds still, keeps its answer, and the other waits for that to end."""
    book.loaded(want("m", ladder=(6, 3)))
    running = book.request(want("m", ladder=(6, 3)))
    other = book.request(want("other", gb=6))
    book.changed("m", LoadFailed("broken variant"))
    assert running in book.held
    assert other not in book.outcomes
    book.release(running)
    assert book.orders == [("step_down", "m@v1"), ("stop", "m@v0")]


# --- insisting on the best ---


def test_a_request_that_insists_makes_a_stepped_down_model_step_up(book: Any, want: Any) -> None:
    """In place, beside its answers, as soon as there is room; those go on in the better variant."""
    other = stepped_down(book, want)
    running = book.request(want("m", ladder=(6, 3)))
    ticket = book.request(want("m", ladder=(6, 3), pick="v0"))
    assert book.orders == []
    book.release(other)
    book.settle()
    assert book.orders[-1] == ("step_up", "m@v0")
    assert book.outcomes[ticket] == "m@v0"
    assert running in book.held


def test_a_model_does_not_step_up_under_one_that_insists_on_less(book: Any, want: Any) -> None:
    """The other variant gets a worker of its own where there is room."""
    book.loaded(want("m", ladder=(4, 2), pick="v1"))
    low = book.request(want("m", ladder=(4, 2), pick="v1"))
    book.request(want("m", ladder=(4, 2)))
    high = book.request(want("m", ladder=(4, 2), pick="v0"))
    book.settle()
    assert book.orders == [("start", "m@v0")]
    assert (book.outcomes[low], book.outcomes[high]) == ("m@v1", "m@v0")


def test_a_failed_step_up_cools_down(book: Any, want: Any) -> None:
    """Whoever insists next is told to come back, and the answers of the others do not stall again."""
    leave(book, "other", stepped_down(book, want))
    book.request(want("m", ladder=(6, 3)))
    book.request(want("m", ladder=(6, 3), pick="v0"))
    assert book.orders[-1] == ("step_up", "m@v0")
    book.changed("m", LoadFailed("broken variant"))
    n_orders = len(book.orders)
    error = book.outcomes[book.request(want("m", ladder=(6, 3), pick="v0"))]
    assert isinstance(error, CoolingDown)
    assert len(book.orders) == n_orders


# --- stepping up again ---


def test_a_model_steps_up_after_a_quiet_time(book: Any, want: Any) -> None:
    """Not before, and the timer knows when."""
    leave(book, "other", stepped_down(book, want))
    pressure_at = [it.at for it in book.decisions if it.act == "step_down"][-1]
    book.orders.clear()
    assert book.fleet.next_deadline() == pressure_at + STEP_UP_AFTER_S
    book.tick(pressure_at + STEP_UP_AFTER_S - 0.1)
    assert book.orders == []
    book.tick(pressure_at + STEP_UP_AFTER_S)
    assert book.orders == [("step_up", "m@v0")]
    assert book.why("step_up") == "there is room for it again"


def test_a_model_steps_up_beside_its_answers(book: Any, want: Any) -> None:
    """They go on in the better variant; one that insists on the smaller keeps it."""
    leave(book, "other", stepped_down(book, want))
    insisting = book.request(want("m", ladder=(6, 3), pick="v1"))
    running = book.request(want("m", ladder=(6, 3)))
    book.tick(book.now + STEP_UP_AFTER_S + 10)
    assert ("step_up", "m@v0") not in book.orders
    book.release(insisting)
    book.tick(book.now + STEP_UP_AFTER_S + 10)
    assert book.orders[-1] == ("step_up", "m@v0")
    assert running in book.held


@pytest.mark.parametrize(("other_gb", "has_margin"), [(3.4, True), (3.6, False)])
def test_a_model_steps_up_only_with_a_margin(book: Any, want: Any, other_gb: float, *, has_margin: bool) -> None:
    """6 GB beside the other, and a twentieth of the budget free: the next small need must not step it down again."""
    leave(book, "other", stepped_down(book, want))
    book.loaded(want("third", gb=other_gb))
    book.request(want("third", gb=other_gb))
    book.tick(book.now + STEP_UP_AFTER_S + 10)
    assert (("step_up", "m@v0") in book.orders) is has_margin


def test_nobody_makes_room_for_a_step_up(book: Any, want: Any) -> None:
    """An idle neighbour neither sleeps nor leaves for it."""
    leave(book, "other", stepped_down(book, want))
    book.loaded(want("idle", gb=6))
    book.tick(book.now + STEP_UP_AFTER_S + 10)
    assert book.orders == []


def test_nobody_steps_up_while_someone_waits(book: Any, want: Any) -> None:
    """The memory is for them."""
    leave(book, "other", stepped_down(book, want))
    book.request(want("m", ladder=(6, 3)))
    book.fleet.on_pins(frozenset({"m@v1"}), book.now)  # so that it does not make room
    book.request(want("busy", gb=1))
    book.settle()
    book.request(want("waiter", gb=6))
    book.orders.clear()
    assert book.fleet.line.n_waiting == 1
    book.tick(book.now + STEP_UP_AFTER_S + 10)
    assert book.orders == []


def test_a_pinned_variant_does_not_step_up(book: Any, want: Any) -> None:
    """Neither by time, nor for who insists on the better one, which is loaded beside it."""
    leave(book, "other", stepped_down(book, want))
    book.fleet.on_pins(frozenset({"m@v1"}), book.now)
    book.orders.clear()
    book.tick(book.now + STEP_UP_AFTER_S + 10)
    assert book.orders == []
    assert book.fleet.next_deadline() is None
    book.request_and_settle(want("m", ladder=(6, 3), pick="v0"))
    assert book.orders == [("start", "m@v0")]


def test_new_pressure_starts_the_quiet_time_again(book: Any, want: Any) -> None:
    """Quality does not flap."""
    leave(book, "other", stepped_down(book, want))
    book.now += 20.0
    other = book.request(want("x", gb=7))  # has the model sleep
    book.settle()
    leave(book, "x", other)
    book.release(book.request_and_settle(want("m", ladder=(6, 3))), 1e6)
    pressure_at = book.now
    book.orders.clear()
    book.tick(pressure_at + STEP_UP_AFTER_S - 0.1)
    assert book.orders == []
    book.tick(pressure_at + STEP_UP_AFTER_S)
    assert book.orders == [("step_up", "m@v0")]


def test_the_most_wanted_model_steps_up_first_and_one_at_a_time(book: Any, want: Any) -> None:
    """The next one after as long again."""
    book.loaded(want("a", ladder=(4, 2)), want("b", ladder=(4, 2)))
    a, b = book.request(want("a", ladder=(4, 2))), book.request(want("b", ladder=(4, 2)))
    other = book.request(want("other", gb=5))
    book.settle()
    assert sorted(book.orders[:2]) == [("step_down", "a@v1"), ("step_down", "b@v1")]
    for _ in range(3):
        book.request(want("b", ladder=(4, 2)))
    book.release(a, 1e6)
    book.release(b, 1e6)
    leave(book, "other", other)
    book.orders.clear()
    book.tick(book.now + STEP_UP_AFTER_S)
    book.settle()
    assert book.orders == [("step_up", "b@v0")]
    book.tick(book.now + STEP_UP_AFTER_S - 0.1)
    assert len(book.orders) == 1
    book.tick(book.now + 0.1)
    assert book.orders[1:] == [("step_up", "a@v0")]


def test_a_sleeping_model_does_not_step_up(book: Any, want: Any) -> None:
    """Nobody would see it."""
    leave(book, "other", stepped_down(book, want))
    x = book.request(want("x", gb=7))
    book.settle()
    assert book.orders[-2:] == [("sleep", "m@v1"), ("start", "x@q8_0")]
    leave(book, "x", x)
    book.orders.clear()
    book.tick(book.now + STEP_UP_AFTER_S + 10)
    assert book.orders == []


def test_a_failed_step_up_is_tried_again_after_as_long(book: Any, want: Any) -> None:
    """And the model answers meanwhile as it did."""
    leave(book, "other", stepped_down(book, want))
    book.tick(book.now + STEP_UP_AFTER_S)
    book.changed("m", LoadFailed("no room after all"))
    assert book.outcomes[book.request(want("m", ladder=(6, 3)))] == "m@v1"
    failed_at = book.now
    book.orders.clear()
    while book.now < failed_at + STEP_UP_AFTER_S - 1.0:
        book.tick(min(book.fleet.next_deadline(), failed_at + STEP_UP_AFTER_S - 1.0))
    assert book.orders == []
    book.tick(failed_at + STEP_UP_AFTER_S)
    assert book.orders == [("step_up", "m@v0")]


def test_a_model_loaded_smaller_by_one_that_insisted_steps_up_for_others(book: Any, want: Any) -> None:
    """Nothing was ever short; the first request only wanted less."""
    book.loaded(want("m", ladder=(6, 3), pick="v1"))
    assert book.outcomes[book.request(want("m", ladder=(6, 3)))] == "m@v1"
    asked_at = book.now
    assert book.fleet.next_deadline() == asked_at + STEP_UP_AFTER_S
    book.tick(asked_at + STEP_UP_AFTER_S)
    assert book.orders == [("step_up", "m@v0")]


def test_a_variant_whose_file_is_broken_is_not_tried_again(book: Any, want: Any) -> None:
    """Each try would stall the answers of the worker, and end where it began."""
    leave(book, "other", stepped_down(book, want))
    book.tick(book.now + STEP_UP_AFTER_S)
    book.changed("m", BadModel("it ends early"))
    book.orders.clear()
    for _ in range(5):
        book.tick(book.now + STEP_UP_AFTER_S)
    assert book.orders == []
    assert book.outcomes[book.request(want("m", ladder=(6, 3)))] == "m@v1"
