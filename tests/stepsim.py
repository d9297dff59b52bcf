"""An engine without arithmetic: steps of decode rows and prompt tokens, as long as a model of the machine says.

The order of sequences is the real one. A paused sequence keeps its KV elsewhere, and loses no time by that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from beastd.contract import Priority
from beastd.engine.detokenizer import Detokenizer
from beastd.engine.policies import ORDERS
from beastd.engine.prefixes import Slot
from beastd.engine.sampler import Sampler
from beastd.engine.sequence import Sequence

N_CTX = 4096
LEAST_PROMPT = 17
"""Prompt tokens of a step that streams cannot take."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a step takes. The defaults are a 0.6B model on 2 cores."""

    rate: float = 210.0
    """Prompt tokens a second."""
    base_s: float = 0.026
    row_s: float = 0.014
    """For each answer's token, beside the step's base."""
    n_slots: int = 8
    budget: int = 63
    """Tokens of a step."""

    def work_s(self, n_prompt: int, n_answer: int) -> float:
        """As ``policies.Costs``: the base is shared by the rows of a full step."""
        return n_prompt / self.rate + n_answer * (self.row_s + self.base_s / self.n_slots)

    def step_s(self, n_prompt: int, n_rows: int) -> float:
        """Seconds of a step."""
        return self.base_s + n_prompt / self.rate + n_rows * self.row_s


@dataclass(slots=True, eq=False)
class Job:
    """A request, and when it got what. Times in seconds."""

    client: str
    arrives_s: float
    n_prompt: int
    n_answer: int
    priority: Priority = "normal"
    weight: float = 1.0
    kind: str = ""
    first_s: float = math.inf
    end_s: float = math.inf
    steps_to_first: int = 0
    """Steps begun since it came, until its first token."""
    n_pauses: int = 0


class World:
    """Runs jobs by one policy."""

    def __init__(self, jobs: Iterable[Job], policy: str, machine: Machine | None = None) -> None:
        self.machine = machine or Machine()
        self.order = ORDERS[policy](self.machine)
        self.now_s = 0.0
        self.service_s: Counter[str] = Counter()
        self.begun: list[Job] = []
        """In the order of their first slots."""
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.jobs: dict[int, Job] = {}
        self._pending = sorted(jobs, key=lambda job: job.arrives_s)[::-1]

    @property
    def is_over(self) -> bool:
        """No job is left."""
        return not (self._pending or self.waiting or self.running)

    def run(self, until_s: float = math.inf) -> World:
        """Step until then, or until all is done."""
        while not self.is_over and self.now_s < until_s:
            self.step()
        return self

    def backlogged(self) -> set[str]:
        """Clients with sequences that wait for a slot."""
        return {one.client for one in self.waiting}

    def step(self) -> None:
        """One step, or nothing till the next arrival."""
        if not (self.waiting or self.running):
            self.now_s = max(self.now_s, self._pending[-1].arrives_s)
        while self._pending and self._pending[-1].arrives_s <= self.now_s:
            self._arrive(self._pending.pop())
        self._admit()
        self._compute(self._batch())

    @property
    def _now_ns(self) -> int:
        return int(self.now_s * 1e9)

    def _arrive(self, job: Job) -> None:
        id_ = len(self.jobs)
        self.jobs[id_] = job
        sequence = Sequence(
            id=id_,
            prompt=[0] * job.n_prompt,
            sampler=cast(Sampler, None),
            detokenizer=Detokenizer([]),
            n_ctx=N_CTX,
            n_predict=N_CTX,
            priority=job.priority,
            client=job.client,
            weight=job.weight,
            arrived_ns=int(job.arrives_s * 1e9),
        )
        self.waiting.append(sequence)
        self.order.on_wait(sequence)

    def _admit(self) -> None:
        while self.waiting:
            best = min(self.waiting, key=lambda one: self.order.rank(one, self._now_ns))
            if len(self.running) == self.machine.n_slots and not self._has_paused_for(best):
                return
            self.waiting.remove(best)
            best.slot = Slot(0, best.prompt[: best.n_cached])
            self.running.append(best)
            self.order.on_admit(best)
            if self.jobs[best.id] not in self.begun[-1:] and not best.n_cached:
                self.begun.append(self.jobs[best.id])

    def _has_paused_for(self, best: Sequence) -> bool:
        victim = self.order.victim(self.running)
        if not self.order.outranks(best, victim):
            return False
        assert victim.slot is not None
        self.running.remove(victim)
        n_computed = len(victim.slot.tokens)
        victim.begin_again()
        victim.slot, victim.n_cached = None, n_computed
        self.jobs[victim.id].n_pauses += 1
        self.waiting.append(victim)
        self.order.on_wait(victim)
        return True

    def _batch(self) -> list[tuple[Sequence, int]]:
        """Sequences with their number of tokens."""
        batch = [(one, 1) for one in self.running if one.answer]
        n_left = max(LEAST_PROMPT, self.machine.budget - len(batch))
        prompts = [one for one in self.running if not one.answer]
        for one in sorted(prompts, key=lambda one: self.order.rank(one, self._now_ns)):
            n = min(n_left, one.n_prefill_left)
            n_left -= n
            batch += [(one, n)] if n else []
        return batch

    def _compute(self, batch: list[tuple[Sequence, int]]) -> None:
        for one in self.waiting + self.running:
            self.jobs[one.id].steps_to_first += not one.n_said
        n_rows = sum(bool(one.answer) for one, _ in batch)
        self.now_s += self.machine.step_s(sum(n for _, n in batch) - n_rows, n_rows)
        for one, n in batch:
            self._advance(one, n)

    def _advance(self, one: Sequence, n: int) -> None:
        assert one.slot is not None
        counts = (0, n) if one.answer else (n, 0)
        self.order.on_computed(one, *counts)
        self.service_s[one.client] += self.machine.work_s(*counts)
        one.slot.tokens += [0] * n
        if one.answer or not one.n_prefill_left:
            self._say(one, self.jobs[one.id])

    def _say(self, one: Sequence, job: Job) -> None:
        one.answer.append(0)
        job.first_s = min(job.first_s, self.now_s)
        if one.n_said >= job.n_answer:
            job.end_s = self.now_s
            self.running.remove(one)
            self.order.on_end(one)
