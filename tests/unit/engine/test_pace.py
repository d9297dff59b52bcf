"""How much a step may hold; a simulated engine shows what comes of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from random import Random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.chunks import n_attended
from beastd.engine.detokenizer import Detokenizer
from beastd.engine.kvcache import KVCache
from beastd.engine.pace import ALONE, KERNEL_TOKENS, MIN_STEP_TOKENS, STRETCH, Pace
from beastd.engine.sampler import Sampler
from beastd.engine.sequence import Sequence
from tests.unit.engine.fakes import FakeCells, scheduler_of

TARGET_S = 0.3
Cost = Callable[[int, int, int], float]


def small(n_rows: int, n_prefill: int, n_cells: int) -> float:
    """Seconds of a step of Cub, about: q8_0 on two cores."""
    rows_s = 0.0035 + 0.0011 * (n_rows - 1) if n_rows else 0
    return rows_s + (0.001 + 0.0008 * n_prefill if n_prefill else 0) + 0.1e-6 * n_cells


def medium(n_rows: int, n_prefill: int, n_cells: int) -> float:
    """Seconds of a step of a 0.6B, about: q4_k_m on two cores."""
    rows_s = 0.016 + 0.0075 * (n_rows - 1) if n_rows else 0
    return rows_s + (0.012 + 0.0023 * n_prefill if n_prefill else 0) + 1e-6 * n_cells


class World:
    """An engine that computes nothing, on a clock of its own."""

    def __init__(self, cost: Cost, *, n_slots: int = 64, seed: int = 0) -> None:
        self.pace = Pace(TARGET_S, 2048, 64 / cost(0, 64, 2000))
        self.cells = FakeCells()
        self.scheduler = scheduler_of(KVCache(n_slots, self.cells), self.pace)
        self._cost, self._random = cost, Random(seed)
        self.now_s = 0.0
        self.ttft_s: dict[int, float] = {}
        self.steps: list[tuple[int, int, float]] = []
        """(Rows, prompt tokens, seconds) of each."""
        self._n_answer: dict[int, int] = {}

    def ask(self, id_: int, n_prompt: int, n_answer: int) -> None:
        self._n_answer[id_] = n_answer
        self.scheduler.add(
            Sequence(
                id=id_,
                prompt=[id_] * n_prompt,
                sampler=cast(Sampler, None),
                detokenizer=Detokenizer([]),
                n_ctx=8192,
                n_predict=n_answer,
                arrived_ns=int(self.now_s * 1e9),
            )
        )

    def step(self) -> list[int]:
        """Returns those that ended."""
        now_ns = int(self.now_s * 1e9)
        self.scheduler.admit(now_ns)
        chunks = self.scheduler.next_batch(now_ns)
        n_prefill = sum(len(chunk.tokens) for chunk in chunks if chunk.is_prefill)
        n_rows, n_cells = sum(not chunk.is_prefill for chunk in chunks), n_attended(chunks, self.scheduler.cache)
        took_s = self._cost(n_rows, n_prefill, n_cells) * self._random.lognormvariate(0, 0.05)
        self.now_s += took_s
        self.scheduler.on_computed(chunks, took_s, is_one_pass=True)
        self.steps.append((n_rows, n_prefill, took_s))
        ended = []
        for chunk in chunks:
            one = chunk.sequence
            assert one.slot is not None
            self.cells.compute(self.scheduler.cache, one.slot, chunk.tokens)
            if chunk.wants_logits:
                one.answer.append(7)
                self.ttft_s.setdefault(one.id, self.now_s - one.arrived_ns / 1e9)
                if len(one.answer) == self._n_answer[one.id]:
                    self.scheduler.remove(one)
                    ended.append(one.id)
        return ended

    def finish(self) -> None:
        while not self.scheduler.is_idle:
            self.step()

    def closed_loop(self, n_clients: int, n_requests: int, lengths: Iterable[int], n_answer: int) -> None:
        """So many clients; each asks again as soon as it is answered."""
        prompts = iter(lengths)
        for id_ in range(n_clients):
            self.ask(id_, next(prompts), n_answer)
        n_asked = n_clients
        while not self.scheduler.is_idle:
            for _ in self.step():
                if n_asked < n_requests:
                    self.ask(n_asked, next(prompts), n_answer)
                    n_asked += 1


@pytest.mark.parametrize("cost", [small, medium])
def test_answers_flow_at_the_target_while_prompts_of_all_lengths_keep_coming(cost: Cost) -> None:
    """A step that ends a prompt may stretch; on the whole the target is held, once what steps take is known."""
    world, random = World(cost, n_slots=16), Random(1)
    world.closed_loop(16, 120, iter(lambda: random.choice([30, 128, 300, 1500]), 0), 24)
    itls_s = sorted(took_s for n_rows, _, took_s in world.steps[20:] if n_rows)
    assert statistics.mean(itls_s) < TARGET_S
    assert itls_s[int(len(itls_s) * 0.99)] < STRETCH * TARGET_S * 1.25


@pytest.mark.parametrize("cost", [small, medium])
def test_no_prompt_starves_beside_streams_and_shorter_prompts(cost: Cost) -> None:
    """A long prompt is late by a few times its own length, although shorter ones never stop coming."""
    world = World(cost, n_slots=8)
    world.ask(999, 2000, 4)
    alone_s = cost(0, 2000, 2000 * 1000)
    id_ = 0
    while 999 not in world.ttft_s:
        if len(world.scheduler.running) + len(world.scheduler.waiting) < 8:
            world.ask(id_, 100, 8)
            id_ += 1
        world.step()
        assert world.now_s < 25 * alone_s
    assert id_ > 8, "else nothing competed"


@pytest.mark.parametrize(("cost", "most"), [(small, 0.62), (medium, 0.66)])
def test_a_burst_of_prompts_is_answered_sooner_than_all_at_once_would_be(cost: Cost, most: float) -> None:
    """Eight prompts of 128 tokens one after another: at best 0.5625 of the time that all of them take together."""
    world = World(cost)
    for _ in range(2):  # once to learn
        start = len(world.ttft_s)
        for id_ in range(start, start + 8):
            world.ask(id_, 128, 32)
        world.finish()
    ttfts_s = [world.ttft_s[id_] for id_ in range(8, 16)]
    assert statistics.mean(ttfts_s) <= most * cost(0, 1024, 8 * 128 * 64)


def test_a_short_prompt_does_not_wait_for_a_long_one_to_end_in_its_step() -> None:
    """Although all others would be spared a step's fixed costs, which are high here."""
    world = World(lambda n_rows, n_prefill, n_cells: medium(n_rows, n_prefill, n_cells) + 0.06)
    for id_ in range(8):
        world.ask(id_, 128, 32)
    world.step()
    world.ask(8, 16, 16)
    world.step()
    assert 8 in world.ttft_s
    assert world.steps[-1][1] < 64


def test_many_short_prompts_stretch_steps_no_more_than_the_target_allows() -> None:
    """Each alone would be worth a stretch; all the time that would be a longer ITL than the target."""
    world = World(medium)
    world.closed_loop(24, 300, iter(lambda: 60, 0), 24)
    mixed_s = [took_s for n_rows, n_prefill, took_s in world.steps[50:-50] if n_rows and n_prefill]
    assert max(mixed_s) > 1.1 * TARGET_S, "else nothing was stretched"
    assert statistics.mean(mixed_s) < 1.1 * TARGET_S
    assert len(world.ttft_s) == 300


@given(st.floats(0.01, 2), st.floats(1, 5000), st.integers(0, 200), st.integers(0, 10**5), st.integers(1, 8))
def test_a_step_always_has_room_for_a_prompt_and_never_more_than_a_batch(
    target_s: float, rate: float, n_rows: int, n_cells: int, n_sets: int
) -> None:
    pace = Pace(target_s, 512, rate)
    n = pace.n_prefill(n_rows, n_cells, n_sets=n_sets)
    assert max(KERNEL_TOKENS + 1, MIN_STEP_TOKENS - n_rows) <= n <= 512 - n_rows
    assert n <= pace.n_stretched(n_rows, n_cells, n_sets=n_sets) <= 512 - n_rows
    rows_s = pace.costs.predict_s(n_rows, 0, n_cells) if n_rows else 0.0
    limit_s = max(ALONE * target_s, rows_s + target_s)
    assert n <= MIN_STEP_TOKENS or rows_s + n / rate <= limit_s + 1 / rate


def test_it_tells_what_it_expected_and_what_came() -> None:
    pace = Pace(TARGET_S, 512, 1000)
    for _ in range(300):
        pace.observe(4, 0, 400, 0.020)
    assert (pace.itl_s, pace.measured_s) == (pytest.approx(0.020, rel=0.01), 0.020)
    assert pace.predicted_s == pytest.approx(0.020, rel=0.05)
