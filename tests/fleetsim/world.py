"""A world for the real fleet: workers that load, change, answer and go by a virtual clock."""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from beastd.errors import BeastError
from beastd.fleet.entry import Shape
from beastd.fleet.footprint import ram
from beastd.fleet.journal import Decision
from beastd.fleet.spec import Want, WorkerSpec
from fleetsim.policies import Policy
from fleetsim.shop import SimModel
from fleetsim.traces import Request, Trace

SLEEP_S = 0.05
WAKE_S = (0.1, 0.3)
"""A context is created: after sleep, for more tokens, for another variant."""
STOP_S = 0.2
LOAD_NOISE = 0.1
"""One load of a model takes so much more or less than the next."""


@dataclass(slots=True)
class Answer:
    """A request that was granted a worker."""

    request: Request
    keep_alive_s: float
    left_s: float
    since_s: float | None = None
    """When it went on; None: it waits for a sequence or for a change."""


@dataclass(slots=True)
class Worker:
    """A process."""

    shape: Shape
    target: Shape | None = None
    running: dict[int, Answer] = field(default_factory=dict)
    waiting: deque[int] = field(default_factory=deque)

    @property
    def holds_bytes(self) -> int:
        """At most, while it changes."""
        shapes = [self.shape] if self.target is None else [self.shape, self.target]
        return max(shape.expected.total_bytes for shape in shapes)


@dataclass(slots=True)
class Tally:
    """What a replay came to."""

    load_s: float = 0.0
    wake_s: float = 0.0
    switch_s: float = 0.0
    """Steps to other variants, and growing contexts."""
    n_loads: int = 0
    n_wakes: int = 0
    n_switches: int = 0
    n_refused: int = 0
    n_best: int = 0
    """Answered by the best variant the request allows."""
    waits_s: list[float] = field(default_factory=list)
    """From each request to its answer's beginning."""
    peak_bytes: int = 0

    @property
    def reload_s(self) -> float:
        """All seconds in which models were made ready."""
        return self.load_s + self.wake_s + self.switch_s

    def wait_s(self, share: float) -> float:
        """So many requests waited no longer."""
        waits = sorted(self.waits_s)
        return waits[min(len(waits) - 1, int(share * len(waits)))]


class World:
    """Replays a trace; the fleet's effects become events."""

    def __init__(self, trace: Trace, policy: Policy, seed: int = 0) -> None:
        self.now = 0.0
        self.tally = Tally()
        self.workers: dict[int, Worker] = {}
        self.fleet = policy.fleet(self, ram(trace.budget_bytes))
        self._policy = policy
        self._trace = trace
        self._draw = random.Random(seed)
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._requests: dict[int, Request] = {}
        """Granted or not, of those that have not ended."""
        self._models: dict[str, SimModel] = {it.model.name: it.model for it in trace.requests}

    def replay(self) -> Tally:
        """All requests to their end."""
        for ticket, request in enumerate(self._trace.requests):
            self._requests[ticket] = request
            self._at(request.at_s, functools.partial(self._arrive, ticket))
        n_left = len(self._requests)
        while self._events and n_left:
            deadline = self.fleet.next_deadline()
            if deadline is not None and deadline < self._events[0][0]:
                self.now = max(self.now, deadline)
                self.fleet.on_tick(self.now)
                continue
            self.now, _, event = heapq.heappop(self._events)
            event()
            n_left = len(self._requests)
        return self.tally

    @property
    def n_unfinished(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    # --- what the fleet orders ---

    def start(self, id: int, spec: WorkerSpec) -> None:  # noqa: A002
        """A load begins."""
        self.workers[id] = Worker(Shape(spec))
        self._look_at_memory()
        load_s = self._load_s(spec)
        self.tally.load_s += load_s
        self.tally.n_loads += 1
        self._in(load_s, lambda: self.fleet.on_ready(id, spec.need, load_s, self.now))

    def reshape(self, id: int, shape: Shape) -> None:  # noqa: A002
        """Answers stand still until the worker has its new shape."""
        worker = self.workers[id]
        worker.target = shape
        for answer in worker.running.values():
            self._pause(answer)
        self._look_at_memory()
        self._in(self._reshape_s(worker.shape, shape), lambda: self._changed(id))

    def stop(self, id: int) -> None:  # noqa: A002
        """It goes, once its load or change lets it."""
        self._in(STOP_S, lambda: self._gone(id))

    def grant(self, ticket: int, id: int) -> None:  # noqa: A002
        """It answers when a sequence is free."""
        worker, request = self.workers[id], self._requests[ticket]
        want = self._want(request)
        self.tally.n_best += worker.shape.spec.key == want.best.key
        worker.waiting.append(ticket)
        self._answer(id)

    def refuse(self, ticket: int, error: BeastError) -> None:
        """It ends."""
        del self._requests[ticket]
        self.tally.n_refused += 1

    def note(self, decision: Decision) -> None:
        """Nobody reads it."""

    # --- what happens ---

    def _arrive(self, ticket: int) -> None:
        self.fleet.on_request(ticket, self._want(self._requests[ticket]), self.now)

    def _changed(self, id_: int) -> None:
        worker = self.workers[id_]
        assert worker.target
        worker.shape, worker.target = worker.target, None
        for ticket, answer in worker.running.items():
            self._go_on(id_, ticket, answer)
        self.fleet.on_reshaped(id_, worker.shape.expected, self.now)
        self._answer(id_)

    def _gone(self, id_: int) -> None:
        del self.workers[id_]
        self.fleet.on_stopped(id_, self.now)

    def _answer(self, id_: int) -> None:
        """Give free sequences to those that wait for one."""
        worker = self.workers[id_]
        while worker.target is None and worker.waiting and len(worker.running) < worker.shape.spec.settings.n_parallel:
            ticket = worker.waiting.popleft()
            request = self._requests[ticket]
            self.tally.waits_s.append(self.now - request.at_s)
            worker.running[ticket] = Answer(request, request.model.keep_alive_s, request.service_s)
            self._go_on(id_, ticket, worker.running[ticket])

    def _go_on(self, id_: int, ticket: int, answer: Answer) -> None:
        answer.since_s = since_s = self.now
        self._in(answer.left_s, lambda: self._ended(id_, ticket, since_s))

    def _pause(self, answer: Answer) -> None:
        assert answer.since_s is not None
        answer.left_s = max(0.0, answer.left_s - (self.now - answer.since_s))
        answer.since_s = None

    def _ended(self, id_: int, ticket: int, since_s: float) -> None:
        answer = self.workers[id_].running.get(ticket) if id_ in self.workers else None
        if answer is None or answer.since_s != since_s:
            return  # it was paused meanwhile
        del self.workers[id_].running[ticket], self._requests[ticket]
        self._answer(id_)
        self.fleet.on_release(ticket, answer.keep_alive_s, self.now)

    # --- how long it takes ---

    def _load_s(self, spec: WorkerSpec) -> float:
        noise = self._draw.uniform(1 - LOAD_NOISE, 1 + LOAD_NOISE)
        return self._models[spec.name].load_s(spec) * noise

    def _reshape_s(self, shape: Shape, target: Shape) -> float:
        """Another variant's weights are loaded; a context is created, unless it falls asleep."""
        way = shape.way_to(target)
        if way == "sleep":
            return SLEEP_S
        seconds = self._draw.uniform(*WAKE_S)
        if shape.spec.key != target.spec.key:
            seconds += self._load_s(target.spec)
        if way == "wake" and shape.spec.key == target.spec.key:
            self.tally.wake_s += seconds
            self.tally.n_wakes += 1
        else:
            self.tally.switch_s += seconds
            self.tally.n_switches += 1
        return seconds

    def _want(self, request: Request) -> Want:
        return request.model.want(request.n_ctx, request.variant, is_adaptive=self._policy.is_adaptive)

    def _look_at_memory(self) -> None:
        held = sum(worker.holds_bytes for worker in self.workers.values())
        self.tally.peak_bytes = max(self.tally.peak_bytes, held)

    def _in(self, seconds: float, event: Callable[[], None]) -> None:
        self._at(self.now + seconds, event)

    def _at(self, at_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._numbers), event))
