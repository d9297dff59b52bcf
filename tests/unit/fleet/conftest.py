"""A fleet whose world is a notebook: orders are written down, and the test plays the processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from beastd.contract import ModelShape
from beastd.errors import BeastError
from beastd.fleet import memory
from beastd.fleet.fleet import Fleet
from beastd.fleet.spec import WorkerSpec
from beastd.ipc import LoadSettings

GB = 10**9


def make_spec(name: str = "cub", *, gb: int = 1, n_ctx: int = 4096, n_parallel: int = 4) -> WorkerSpec:
    """A model whose worker is expected to take exactly ``gb`` × 10⁹ bytes, whatever its context."""
    settings = LoadSettings(n_ctx=n_ctx, n_parallel=n_parallel, n_ubatch=0)
    empty = ModelShape(
        architecture="llama",
        weights_bytes=0,
        n_params=1,
        n_layers=1,
        n_embd=0,
        n_vocab=0,
        n_ctx_train=1 << 20,
        kv_elements_per_token=0,
    )
    fields = {field: getattr(empty, field) for field in empty.__struct_fields__}
    shape = ModelShape(**(fields | {"weights_bytes": gb * GB - memory.need_bytes(empty, settings)}))
    return WorkerSpec(name, name, "q8_0", (f"/models/{name}.gguf",), None, shape, settings)


class Notebook:
    """The fleet's effects, written down; ``processes`` are what a pool would have running."""

    def __init__(self, *, budget_gb: int = 10, max_queue: int = 100) -> None:
        self.fleet = Fleet(self, budget_bytes=budget_gb * GB, max_queue=max_queue)
        self.budget_bytes = budget_gb * GB
        self.now = 0.0
        self.orders: list[tuple[str, str]] = []
        self.processes: dict[str, str] = {}
        self.n_bytes: dict[str, int] = {}
        self.n_ctx: dict[str, int] = {}
        self.outcomes: dict[int, str | BeastError] = {}
        self.held: dict[int, str] = {}
        self.waiting: dict[int, str] = {}
        self._tickets = itertools.count()

    # --- what the fleet orders ---

    def start(self, spec: WorkerSpec, need_bytes: int) -> None:
        assert spec.key not in self.processes, "one worker per key"
        self.orders.append(("start", spec.key))
        self.processes[spec.key] = "loading"
        self.n_bytes[spec.key] = need_bytes
        self.n_ctx[spec.key] = spec.settings.n_ctx
        assert sum(self.n_bytes.values()) <= self.budget_bytes, "the budget holds"

    def stop(self, key: str) -> None:
        assert self.processes[key] in ("loading", "ready"), "stopped once"
        assert key not in self.held.values(), "a busy worker is not stopped"
        self.orders.append(("stop", key))
        self.processes[key] = "stopping"

    def grant(self, ticket: int, key: str) -> None:
        assert self.processes[key] == "ready"
        self._end(ticket, key)
        self.held[ticket] = key

    def refuse(self, ticket: int, error: BeastError) -> None:
        self._end(ticket, error)

    def _end(self, ticket: int, outcome: str | BeastError) -> None:
        assert ticket not in self.outcomes, "one ending"
        self.waiting.pop(ticket, None)
        self.outcomes[ticket] = outcome

    # --- what the world does ---

    def request(self, spec: WorkerSpec) -> int:
        ticket = next(self._tickets)
        self.waiting[ticket] = spec.key
        self.fleet.on_request(ticket, spec)
        return ticket

    def cancel(self, ticket: int) -> None:
        del self.waiting[ticket]
        self.outcomes[ticket] = "cancelled"
        self.fleet.on_cancel(ticket)

    def release(self, ticket: int, keep_alive_s: float = 300.0) -> None:
        self.held.pop(ticket, None)
        self.fleet.on_release(ticket, keep_alive_s, self.now)

    def ready(self, key: str, *, resident_gb: int | None = None, n_ctx: int | None = None) -> None:
        self.processes[key] = "ready"
        if resident_gb is not None:
            self.n_bytes[key] = resident_gb * GB
        self.fleet.on_ready(key, self.n_bytes[key], n_ctx or self.n_ctx[key])

    def gone(self, key: str, event: str = "on_stopped", *args: Any) -> None:
        del self.processes[key], self.n_bytes[key], self.n_ctx[key]
        if event == "on_died":
            self.held = {ticket: k for ticket, k in self.held.items() if k != key}
        getattr(self.fleet, event)(key, *args)

    def tick(self, now: float) -> None:
        self.now = now
        self.fleet.on_tick(now)

    def loaded(self, *specs: WorkerSpec, keep_alive_s: float = 300.0) -> None:
        """Load these models and leave them idle, a second apart."""
        for spec in specs:
            ticket = self.request(spec)
            self.ready(spec.key)
            self.now += 1.0
            self.release(ticket, keep_alive_s)
        self.orders.clear()


@pytest.fixture(scope="session")
def spec() -> Callable[..., WorkerSpec]:
    """Makes specs of a known size."""
    return make_spec


@pytest.fixture(scope="session")
def notebook() -> Callable[..., Notebook]:
    """Makes fleets of a known budget and queue."""
    return Notebook
