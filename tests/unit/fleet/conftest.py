"""A fleet whose world is a notebook: orders are written down, and the test plays the processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from beastd.contract import Priority
from beastd.errors import BeastError
from beastd.fleet import policy
from beastd.fleet.entry import Shape
from beastd.fleet.fleet import Fleet
from beastd.fleet.footprint import Footprint, ram
from beastd.fleet.journal import Decision
from beastd.fleet.roster import Roster
from beastd.fleet.spec import Want, WorkerSpec
from beastd.ipc import LoadSettings

GB = 10**9
KV_SHARE = 0.25
"""Of a model's bytes at 4,096 tokens of context."""


def make_spec(
    name: str = "cub",
    *,
    gb: float = 1,
    n_ctx: int = 4096,
    n_parallel: int = 4,
    variant: str = "q8_0",
    has_auto_parallel: bool = False,
) -> WorkerSpec:
    """A model that takes ``gb`` × 10⁹ bytes with 4,096 tokens of context: three quarters are weights, the rest KV."""
    working = round(gb * GB * KV_SHARE * n_ctx / 4096)
    return WorkerSpec(
        key=f"{name}@{variant}",
        name=name,
        variant=variant,
        paths=(f"/models/{name}-{variant}.gguf",),
        template=None,
        settings=LoadSettings(n_ctx=n_ctx, n_parallel=n_parallel),
        weights=ram(round(gb * GB * (1 - KV_SHARE))),
        working=ram(working),
        process=ram(0),
        is_exact=True,
        has_auto_parallel=has_auto_parallel,
    )


def make_want(name: str = "cub", *, ladder: tuple[float, ...] = (), pick: str = "", **how: Any) -> Want:
    """What a request asks for. ``ladder``: GB of its variants v0, v1 …; ``pick`` insists on one of them."""
    if not ladder:
        return Want((make_spec(name, **how),))
    working = ram(round(ladder[0] * GB * KV_SHARE * how.get("n_ctx", 4096) / 4096))
    rungs = tuple(
        replace(make_spec(name, gb=gb, variant=f"v{i}", **how), working=working) for i, gb in enumerate(ladder)
    )
    return Want(tuple(rung for rung in rungs if not pick or rung.variant == pick))


class Notebook:
    """The fleet's effects, written down; ``processes`` are what a pool would have running."""

    def __init__(
        self,
        *,
        budget_gb: float = 10,
        max_queue: int = 100,
        sleep_after_s: float = 1e9,
        rank: policy.Rank = policy.by_cost,
    ) -> None:
        self.fleet = Fleet(
            self, Roster(ram(round(budget_gb * GB)), rank), max_queue=max_queue, sleep_after_s=sleep_after_s
        )
        self.now = 0.0
        self.orders: list[tuple[str, str]] = []
        self.processes: dict[int, str] = {}
        self.shapes: dict[int, Shape] = {}
        self.targets: dict[int, Shape] = {}
        self.outcomes: dict[int, int | str | BeastError] = {}
        self.held: dict[int, int] = {}
        self.waiting: dict[int, str] = {}
        self.wants: dict[int, Want] = {}
        self.decisions: list[Decision] = []
        self.is_closing = False
        self.surplus: dict[int, Footprint] = {}
        """What a process holds beyond what was computed, or less than nothing."""
        self._tickets = itertools.count()

    # --- what the fleet orders ---

    def start(self, id: int, spec: WorkerSpec) -> None:  # noqa: A002
        assert spec.key not in {shape.spec.key for shape in self.shapes.values()}, "one worker per key"
        self.orders.append(("start", spec.key))
        self.processes[id] = "loading"
        self.shapes[id] = Shape(spec)
        self.check_budget()

    def reshape(self, id: int, shape: Shape) -> None:  # noqa: A002
        assert self.processes[id] == "ready", "one change at a time, of a loaded worker"
        assert not shape.is_asleep or id not in self.held.values(), "a busy worker does not sleep"
        assert all(self.wants[t].rung(shape.spec.key) for t, i in self.held.items() if i == id), "nobody is stepped on"
        self.orders.append((self.shapes[id].way_to(shape), shape.spec.key))
        self.processes[id] = "changing"
        self.targets[id] = shape
        if not shape.expected.fits_in(self.shapes[id].expected):
            self.check_budget()

    def stop(self, id: int) -> None:  # noqa: A002
        assert self.processes[id] in ("loading", "ready", *["changing"] * self.is_closing), "stopped once"
        assert self.is_closing or id not in self.held.values(), "a busy worker is not stopped"
        self.orders.append(("stop", self.shapes[id].spec.key))
        self.processes[id] = "stopping"

    def grant(self, ticket: int, id: int) -> None:  # noqa: A002
        assert self.processes[id] in ("ready", "changing")
        for shape in (self.shapes[id], *([self.targets[id]] if id in self.targets else [])):
            assert not shape.is_asleep
            assert self.wants[ticket].rung(shape.spec.key), "it gets what it asked for"
            assert self.wants[ticket].n_ctx <= shape.spec.settings.n_ctx
        self._end(ticket, self.shapes[id].spec.key)
        self.held[ticket] = id

    def refuse(self, ticket: int, error: BeastError) -> None:
        self._end(ticket, error)

    def note(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def _end(self, ticket: int, outcome: int | str | BeastError) -> None:
        assert ticket not in self.outcomes, "one ending"
        self.waiting.pop(ticket, None)
        self.outcomes[ticket] = outcome

    # --- what the world knows ---

    @property
    def n_bytes(self) -> int:
        """What all processes hold at most, now and while they change."""
        held = [shape.expected for id_, shape in self.shapes.items() if id_ not in self.targets]
        held += [self.shapes[id_].expected.or_more(self.targets[id_].expected) for id_ in self.targets]
        return sum([*held, *self.surplus.values()], Footprint()).total_bytes

    def check_budget(self) -> None:
        assert self.n_bytes <= self.fleet.roster.budget.total_bytes, "the budget holds"

    def id_of(self, key: str) -> int:
        """The number of a worker, by its variant's key or its model's name."""
        return next(id_ for id_, shape in self.shapes.items() if key in (shape.spec.key, shape.spec.name))

    # --- what the world does ---

    def request(self, want: Want, priority: Priority = "normal") -> int:
        ticket = next(self._tickets)
        self.waiting[ticket] = want.best.key
        self.wants[ticket] = want
        self.fleet.on_request(ticket, want, self.now, priority)
        return ticket

    def cancel(self, ticket: int) -> None:
        del self.waiting[ticket]
        self.outcomes[ticket] = "cancelled"
        self.fleet.on_cancel(ticket, self.now)

    def release(self, ticket: int, keep_alive_s: float = 300.0) -> None:
        self.held.pop(ticket, None)
        self.fleet.on_release(ticket, keep_alive_s, self.now)

    def ready(self, key: str | int, *, holds_gb: float | None = None, load_s: float = 1.0) -> None:
        """A load ended well."""
        id_ = key if isinstance(key, int) else self.id_of(key)
        self.processes[id_] = "ready"
        holds = self.shapes[id_].expected if holds_gb is None else ram(round(holds_gb * GB))
        self.surplus[id_] = holds - self.shapes[id_].expected
        self.fleet.on_ready(id_, holds, load_s, self.now)

    def changed(self, key: str | int, error: BeastError | None = None) -> None:
        """A change ended, well or not."""
        id_ = key if isinstance(key, int) else self.id_of(key)
        self.processes[id_] = "ready"
        target = self.targets.pop(id_)
        if error:
            self.fleet.on_reshape_failed(id_, error, self.shapes[id_].expected + self.surplus[id_], self.now)
        else:
            self.shapes[id_] = target
            self.fleet.on_reshaped(id_, target.expected + self.surplus[id_], self.now)

    def gone(self, key: str | int, event: str = "on_stopped", *args: Any) -> None:
        """A process is no more."""
        id_ = key if isinstance(key, int) else self.id_of(key)
        del self.processes[id_], self.shapes[id_]
        self.targets.pop(id_, None)
        self.surplus.pop(id_, None)
        if event == "on_died":
            self.held = {ticket: held for ticket, held in self.held.items() if held != id_}
        getattr(self.fleet, event)(id_, *args, self.now)

    def close(self, error: BeastError) -> None:
        """The daemon ends: it does not wait for answers or changes."""
        self.is_closing = True
        self.fleet.on_close(error, self.now)

    def tick(self, now: float) -> None:
        self.now = now
        self.fleet.on_tick(now)

    def why(self, act: str) -> str:
        """What was written down about the last act of this kind."""
        return next(it.why for it in reversed(self.decisions) if it.act == act)

    def request_and_settle(self, want: Want) -> int:
        """A request, and everything that follows from it."""
        ticket = self.request(want)
        self.settle()
        return ticket

    def loaded(self, *wants: Want, keep_alive_s: float = 1e6) -> None:
        """Load these models and leave them idle, a second apart."""
        for want in wants:
            ticket = self.request(want)
            self.ready(self.id_of(want.best.key))
            self.now += 1.0
            self.release(ticket, keep_alive_s)
        self.orders.clear()

    def settle(self, *, but: str = "") -> None:
        """Loads and changes succeed and stopping processes go, until nothing moves by itself, but for one model."""
        steps = {"loading": self.ready, "changing": self.changed, "stopping": self.gone}
        while moving := [
            (id_, state)
            for id_, state in self.processes.items()
            if state in steps and self.shapes[id_].spec.name != but
        ]:
            id_, state = moving[0]
            steps[state](id_)


@pytest.fixture(scope="session")
def want() -> Callable[..., Want]:
    """Makes what requests ask for, of a known size."""
    return make_want


@pytest.fixture(scope="session")
def spec() -> Callable[..., WorkerSpec]:
    """Makes specs of a known size."""
    return make_spec


@pytest.fixture(scope="session")
def notebook() -> Callable[..., Notebook]:
    """Makes fleets of a known budget and queue."""
    return Notebook


@pytest.fixture
def book() -> Notebook:
    """A fleet with 10 GB and room for 100 waiting requests, whose workers never sleep by time alone."""
    return Notebook()
