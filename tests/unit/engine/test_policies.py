"""Orders of sequences: who goes first, what bounds the wait of who does not, and how even clients fare."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stepsim import Job, Machine, World

from beastd.contract import Priority
from beastd.engine import policies
from beastd.engine.detokenizer import Detokenizer
from beastd.engine.lengths import DEFAULT_ANSWER, MOST_CLIENTS, Lengths
from beastd.engine.policies import AGEING, CREDIT_S, LEVELS, ORDERS, SJF_AGEING
from beastd.engine.sampler import Sampler
from beastd.engine.sequence import Sequence

MACHINE = Machine()
SECOND = 10**9
MOST_PROMPT, MOST_ANSWER = 900, 40
WITH_CLASSES = ["mix", "priority"]

priorities = st.sampled_from(sorted(LEVELS))
clients = st.sampled_from(["ann", "bob", "cleo"])
arrivals = st.integers(0, 1200).map(float)


@st.composite
def jobs(draw: st.DrawFn, *, client: str | None = None, priority: Priority | None = None) -> Job:
    """A request of any kind, or of this client or priority."""
    return Job(
        client=client or draw(clients),
        arrives_s=draw(arrivals) / 10,
        n_prompt=draw(st.integers(1, MOST_PROMPT)),
        n_answer=draw(st.integers(1, MOST_ANSWER)),
        priority=priority or draw(priorities),
    )


class Second:
    """A machine to which every token is a second's work."""

    def work_s(self, n_prompt: int, n_answer: int) -> float:
        return float(n_prompt + n_answer)


def sequence(id_: int, n_prompt: int = 10, **fields: object) -> Sequence:
    given_: dict[str, object] = {"n_ctx": 4096, "n_predict": 4096, **fields}
    return Sequence(
        id=id_,
        prompt=[0] * n_prompt,
        sampler=cast(Sampler, None),
        detokenizer=Detokenizer([]),
        **given_,  # type: ignore[arg-type]
    )


def late_s(world: World) -> list[tuple[Job, float]]:
    """Each job with how much later the last came of those that were begun before it."""
    latest, late = -math.inf, []
    for job in world.begun:
        late.append((job, latest - job.arrives_s))
        latest = max(latest, job.arrives_s)
    return late


# --- every policy ---


@pytest.mark.parametrize("policy", ORDERS)
@given(st.lists(jobs(), max_size=25))
@settings(max_examples=25, deadline=None)
def test_every_request_is_answered_and_the_same_load_is_served_in_the_same_order(policy: str, load: list[Job]) -> None:
    """Whatever is paused on the way."""
    runs = []
    for _ in range(2):
        again = [
            Job(it.client, it.arrives_s, it.n_prompt, it.n_answer, it.priority, kind=str(load.index(it))) for it in load
        ]
        World(again, policy, Machine(n_slots=3)).run()
        assert all(job.end_s < math.inf for job in again)
        runs.append(sorted((job.first_s, job.end_s, job.kind) for job in again))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("policy", ORDERS)
def test_the_youngest_of_the_lowest_priority_is_the_one_to_pause(policy: str) -> None:
    """When cells run out, whatever the policy."""
    order = ORDERS[policy](MACHINE)
    running = [
        sequence(1, priority="low", arrived_ns=1),
        sequence(2, priority="low", arrived_ns=2),
        sequence(3, priority="normal", arrived_ns=3),
    ]
    assert order.victim(running).id == 2
    assert order.victim(running[2:]).id == 3


@pytest.mark.parametrize("policy", ORDERS)
def test_only_a_higher_class_is_worth_a_pause_and_only_where_there_are_classes(policy: str) -> None:
    """Equals wait for each other."""
    order = ORDERS[policy](MACHINE)
    for waiting in LEVELS:
        for running in LEVELS:
            outranks = order.outranks(sequence(1, priority=waiting), sequence(2, priority=running))
            assert outranks == (policy in WITH_CLASSES and LEVELS[waiting] < LEVELS[running])


# --- fcfs, sjf, priority ---


@given(st.lists(jobs(), max_size=25))
@settings(max_examples=40, deadline=None)
def test_fcfs_begins_in_the_order_of_arrival(load: list[Job]) -> None:
    """No priority, client or length counts."""
    begun = World(load, "fcfs", Machine(n_slots=2)).run().begun
    assert [job.arrives_s for job in begun] == sorted(job.arrives_s for job in load)


@given(st.lists(jobs(), max_size=25))
@settings(max_examples=40, deadline=None)
def test_priority_begins_no_request_while_a_higher_one_waits(load: list[Job]) -> None:
    """Arrival decides within a class."""
    world = World(load, "priority", Machine(n_slots=2))
    while not world.is_over:
        n_begun = len(world.begun)
        world.step()
        waiting = {LEVELS[one.priority] for one in world.waiting}
        assert all(LEVELS[job.priority] <= min(waiting, default=9) for job in world.begun[n_begun:])


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=2, max_size=12))
def test_sjf_takes_the_least_expected_work_first(sizes: list[tuple[int, int]]) -> None:
    """Prompt and answer, where all came at once and the request's limit is all that is known."""
    order = ORDERS["sjf"](MACHINE)
    waiting = [sequence(i, n, n_predict=most) for i, (n, most) in enumerate(sizes)]
    work = [
        MACHINE.work_s(len(one.prompt), one.n_predict) for one in sorted(waiting, key=lambda one: order.rank(one, 0))
    ]
    assert work == sorted(work)


def test_sjf_learns_how_long_a_clients_answers_are() -> None:
    """A client of long answers comes after one of short ones, though its prompt is shorter."""
    order = ORDERS["sjf"](MACHINE)
    for client, n_answer in (("long", 500), ("short", 5)):
        done = sequence(0, client=client)
        done.answer = [0] * n_answer
        order.on_end(done)
    assert order.rank(sequence(1, 50, client="short"), 0) < order.rank(sequence(2, 10, client="long"), 0)


@given(st.lists(jobs(), max_size=30))
@settings(max_examples=40, deadline=None)
def test_sjf_lets_nothing_be_overtaken_by_what_comes_much_later(load: list[Job]) -> None:
    """Than its work over SJF_AGEING."""
    for job, by_s in late_s(World(load, "sjf", Machine(n_slots=2)).run()):
        assert by_s <= MACHINE.work_s(job.n_prompt, DEFAULT_ANSWER) / SJF_AGEING


# --- fair ---


@pytest.mark.parametrize("policy", ["fair", "mix"])
@given(
    st.lists(jobs(client="ann", priority="normal"), min_size=60, max_size=80),
    st.lists(jobs(client="bob", priority="normal"), min_size=60, max_size=80),
    st.sampled_from([0.5, 1.0, 3.0]),
)
@settings(max_examples=12, deadline=None)
def test_while_two_clients_wait_their_service_differs_by_no_more_than_what_the_slots_hold(
    policy: str, anns: list[Job], bobs: list[Job], weight: float
) -> None:
    """By weight: so many of the largest jobs, as they are and as they were expected; mix adds its credit."""
    for job in anns + bobs:
        job.arrives_s = 0.0
        job.weight = weight if job.client == "ann" else 1.0
    machine = Machine(n_slots=4)
    world = World(anns + bobs, policy, machine)
    largest_s = machine.work_s(MOST_PROMPT, MOST_ANSWER) + machine.work_s(MOST_PROMPT, DEFAULT_ANSWER)
    allowed_s = machine.n_slots * largest_s / min(weight, 1.0) + 2 * CREDIT_S * (policy == "mix")
    while True:
        world.step()
        if world.backlogged() != {"ann", "bob"}:
            break
        assert abs(world.service_s["ann"] / weight - world.service_s["bob"]) <= allowed_s


@pytest.mark.parametrize("policy", ["fair", "mix"])
def test_a_client_gets_its_share_beside_one_that_sent_ten_times_as_much_before(policy: str) -> None:
    """Half and half, and by weight."""
    for weight in (1.0, 3.0):
        many = [Job("many", 0.0, 300, 100) for _ in range(150)]
        few = [Job("few", 1.0, 300, 100, weight=weight) for _ in range(40)]
        world = World(many + few, policy).run(2.0)
        while len(world.backlogged()) == 2:
            world.step()
        assert 0.75 * weight <= world.service_s["few"] / world.service_s["many"] <= 1.25 * weight


def test_fair_gives_a_client_that_was_away_no_more_than_its_share_from_then_on() -> None:
    """Else it would have the machine to itself for as long as it was away."""
    always = [Job("always", 0.0, 300, 100) for _ in range(100)]
    back = [Job("back", 0.0, 10, 1), *(Job("back", 200.0, 300, 100) for _ in range(30))]
    world = World(always + back, "fair").run(201.0)
    before = world.service_s.copy()
    while len(world.backlogged()) == 2:
        world.step()
    gained, others = (world.service_s[name] - before[name] for name in ("back", "always"))
    assert gained < 1.5 * others


# --- mix ---


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 600)), min_size=2, max_size=20))
def test_mix_takes_one_clients_requests_shortest_prompt_first_with_ageing(sizes: list[tuple[int, int]]) -> None:
    """A tenth of what could have been computed while it waited is taken off."""
    order = ORDERS["mix"](MACHINE)
    waiting = [sequence(i, n, arrived_ns=at * SECOND) for i, (n, at) in enumerate(sizes)]
    for one in sorted(waiting, key=lambda one: one.arrived_ns):
        order.on_wait(one)
    ranked = sorted(waiting, key=lambda one: order.rank(one, 600 * SECOND))
    urgencies = [len(one.prompt) - 0.1 * (600 - one.arrived_ns / SECOND) * MACHINE.rate for one in ranked]
    assert all(one <= other + 1e-6 for one, other in pairwise(urgencies))


@given(st.lists(jobs(client="ann", priority="normal"), max_size=40))
@settings(max_examples=40, deadline=None)
def test_mix_lets_nothing_be_overtaken_by_what_its_client_sends_much_later(load: list[Job]) -> None:
    """Than its prefill over AGEING."""
    for job, by_s in late_s(World(load, "mix", Machine(n_slots=2)).run()):
        assert by_s <= MACHINE.work_s(job.n_prompt, 0) / AGEING


def test_mix_comes_to_a_long_prompt_though_its_client_keeps_sending_short_ones() -> None:
    """They would take the whole machine."""
    long = Job("ann", 0.5, 900, 5)
    short = [Job("ann", n / 2, 90, 5) for n in range(400)]
    World([long, *short], "mix", Machine(n_slots=1)).run(300)
    assert MACHINE.work_s(900, 0) / AGEING / 4 < long.first_s < 2 * MACHINE.work_s(900, 0) / AGEING, "late, not never"


@given(priorities, st.integers(1, 4000), st.floats(0, 500), st.floats(0.5, 20))
@settings(deadline=None)
def test_mix_comes_to_a_client_that_had_much_though_new_ones_keep_coming(
    priority: Priority, n_prompt: int, had_s: float, work_s: float
) -> None:
    """They are of the highest class, have the shortest prompts, had nothing so far, and take the whole machine."""
    order = ORDERS["mix"](Second())
    earlier, late = sequence(1, client="greedy"), sequence(2, n_prompt, client="greedy", priority=priority)
    order.on_wait(earlier)
    order.on_admit(earlier)
    order.on_wait(late)
    order.on_computed(earlier, round(had_s), 0)
    order.on_end(earlier)
    head_s = LEVELS[priority] * policies.CLASS_HEAD_S
    most_s = (n_prompt + 2 * CREDIT_S) / AGEING + head_s + work_s * 100 + 1
    others_s, id_ = 0.0, 3
    while others_s <= most_s:
        new = sequence(id_, 1, client=str(id_), priority="high", arrived_ns=id_ * SECOND)
        order.on_wait(new)
        if order.rank(late, 0) < order.rank(new, 0):
            break
        order.on_admit(new)
        order.on_computed(new, round(work_s * 100), 0)
        others_s += round(work_s * 100)
        order.on_end(new)
        id_ += 1
    assert head_s <= others_s <= most_s


def test_mix_does_not_make_others_wait_for_a_flood_that_has_grown_old() -> None:
    """They came much later, and use little."""
    flood = [Job("flood", 0.0, 400, 150) for _ in range(300)]
    mine = [Job("me", 900.0 + 20 * n, 60, 20) for n in range(5)]
    World(flood + mine, "mix").run(1100)
    a_job_s = MACHINE.work_s(400, 150)
    assert all(job.first_s - job.arrives_s < 4 * a_job_s for job in mine), "a slot comes free within these"


@pytest.mark.parametrize("policy", WITH_CLASSES)
@given(st.integers(0, 600), st.integers(1, 400), st.integers(0, 64))
@settings(max_examples=15, deadline=None)
def test_a_high_request_is_answered_within_two_steps_beside_its_own_prefill(
    policy: str, at: int, n_prompt: int, n_more: int
) -> None:
    """Though low ones hold every slot and others wait before it."""
    machine = Machine(n_slots=16)
    low = [Job("batch", 0.0, 200, 100, "low") for _ in range(16 + n_more)]
    high = Job("me", at / 10, n_prompt, 3, "high")
    World([*low, high], policy, machine).run(at / 10 + 200)
    assert high.steps_to_first <= 2 + math.ceil(n_prompt / (machine.budget - machine.n_slots))


def test_mix_pauses_nothing_for_what_came_later_than_its_class_has_a_head_start() -> None:
    """Else a stream of high requests could keep a low one from ever ending."""
    order = ORDERS["mix"](MACHINE)
    low = sequence(1, priority="low")
    for later_s, outranks in ((2 * policies.CLASS_HEAD_S - 1, True), (2 * policies.CLASS_HEAD_S + 1, False)):
        assert order.outranks(sequence(2, priority="high", arrived_ns=int(later_s * SECOND)), low) == outranks


@pytest.mark.parametrize("policy", ["mix", "sjf"])
def test_a_bonus_goes_before_that_much_more_work(policy: str) -> None:
    """Of a set that runs already, say."""
    order = ORDERS[policy](MACHINE)
    long, short = sequence(1, 300), sequence(2, 100)
    order.on_wait(long)
    order.on_wait(short)
    assert order.rank(long, 0, MACHINE.work_s(201, 0)) < order.rank(short, 0) < order.rank(long, 0)


# --- lengths ---


def test_an_answers_expected_length_is_its_clients_mean_within_the_requests_limit() -> None:
    """At first the limit, or a default where there is none."""
    lengths = Lengths()
    assert lengths.n_left(sequence(1, n_predict=700)) == 700
    assert lengths.n_left(sequence(1)) == DEFAULT_ANSWER
    done = sequence(2)
    done.answer = [0] * 40
    lengths.learn(done)
    assert lengths.n_left(sequence(3)) == 40
    assert lengths.n_left(sequence(3, n_predict=8)) == 8
    assert lengths.n_left(sequence(3, client="other")) == DEFAULT_ANSWER
    assert lengths.n_left(done) == 1, "it may end with every token"


def test_what_had_no_answer_teaches_nothing_and_long_gone_clients_are_forgotten() -> None:
    """Addresses could be made up without end."""
    lengths = Lengths()
    lengths.learn(sequence(1))
    assert lengths.n_left(sequence(1)) == DEFAULT_ANSWER
    for n in range(MOST_CLIENTS + 1):
        done = sequence(n, client=str(n))
        done.answer = [0]
        lengths.learn(done)
    assert lengths.n_left(sequence(1, client="0")) == DEFAULT_ANSWER
    assert lengths.n_left(sequence(1, client="1")) == 1
