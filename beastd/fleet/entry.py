"""What the fleet keeps about each worker and about each model that waits for memory."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from beastd.fleet.footprint import Footprint
from beastd.fleet.spec import Want, WorkerSpec

Ticket = int
"""A request's number, chosen by the caller, unique for ever."""


class State(enum.Enum):
    """Where a worker is in its life."""

    LOADING = "loading"
    READY = "ready"
    CHANGING = "changing"
    """It takes another shape in place; its answers go on when it has it."""
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a worker is, or is to become."""

    spec: WorkerSpec
    is_asleep: bool = False

    @property
    def expected(self) -> Footprint:
        """What it takes by what was computed of it."""
        return self.spec.weights + self.spec.process if self.is_asleep else self.spec.need

    def way_to(self, other: Shape) -> str:
        """What a change to the other shape is called."""
        if self.is_asleep != other.is_asleep:
            return "sleep" if other.is_asleep else "wake"
        if self.spec.key == other.spec.key:
            return "grow"
        return "step_down" if other.spec.weights.total_bytes < self.spec.weights.total_bytes else "step_up"


@dataclass(slots=True, eq=False)
class Entry:
    """A worker and who holds it. Only the fleet writes here."""

    id: int
    shape: Shape
    order: int
    """When its load was first asked for, among all loads."""
    ladder: tuple[WorkerSpec, ...]
    """The variants it may run in, the best first; itself alone where the quality is fixed."""
    holds: Footprint
    """Computed while it loads or changes, the larger of both shapes then; else what it really holds."""
    waiters: dict[Ticket, Want]
    """Joined to its load or change, in order of arrival."""
    leases: dict[Ticket, Want] = field(default_factory=dict)
    """In order of their grant."""
    state: State = State.LOADING
    target: Shape | None = None
    """What it becomes, while it changes."""
    n_killed: int = 0
    """Workers that were killed before it while they loaded for the same requests."""
    broken: set[str] = field(default_factory=set)
    """Keys of variants whose file cannot be used: it is not told to become one again."""
    is_unloading: bool = False
    """To stop when its answers have ended."""
    idle_since: float = 0.0
    keep_alive_s: float = 0.0
    """Of the last answer; only meaningful while it is idle."""
    hold_still_until: float = -math.inf
    """A change has failed: no other is tried before."""

    @property
    def spec(self) -> WorkerSpec:
        """What it is loaded with."""
        return self.shape.spec

    @property
    def is_asleep(self) -> bool:
        """It has its weights, and no KV cache."""
        return self.shape.is_asleep

    @property
    def is_idle(self) -> bool:
        """Loaded, and nobody uses it or waits for it."""
        return self.state is State.READY and not self.leases and not self.waiters

    @property
    def expires_at(self) -> float:
        """When it stops if nobody comes; only meaningful while it is idle."""
        return self.idle_since + self.keep_alive_s

    @property
    def n_queued(self) -> int:
        """Requests that hold a lease and wait for a sequence: more do than it runs at once."""
        return max(0, len(self.leases) - self.spec.settings.n_at_once)

    @property
    def freeing(self) -> Footprint:
        """What comes free by itself: it is stopping, or becoming smaller."""
        if self.state is State.STOPPING:
            return self.holds
        return Footprint() if self.target is None else self.holds - self.would_hold(self.target).or_less(self.holds)

    def would_hold(self, shape: Shape) -> Footprint:
        """What it would hold in another shape, by what it holds now and what was computed of both."""
        return (self.holds + shape.expected - self.shape.expected).or_more({})

    def can_step_up(self, now: float) -> bool:
        """Whether it may be asked to become a better variant."""
        return self.state is State.READY and not self.is_asleep and self.hold_still_until <= now

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What it is, and what it becomes."""
        return (self.shape,) if self.target is None else (self.shape, self.target)

    def answers(self, want: Want) -> bool:
        """Whether the request can be answered by what it is, and what it becomes."""
        return all(
            not shape.is_asleep and want.rung(shape.spec.key) is not None and want.n_ctx <= shape.spec.settings.n_ctx
            for shape in self.shapes
        )

    def will_answer(self, want: Want) -> bool:
        """Whether the request can be answered once it has become what it becomes."""
        last = self.shapes[-1]
        return not last.is_asleep and want.rung(last.spec.key) is not None and want.n_ctx <= last.spec.settings.n_ctx

    def lower_rungs(self) -> list[WorkerSpec]:
        """Smaller variants it could step down to without leaving anybody who uses it, the best first."""
        size = self.spec.weights.total_bytes
        return self._for_all_users([rung for rung in self.ladder if rung.weights.total_bytes < size])

    def higher_rungs(self) -> list[WorkerSpec]:
        """Better variants it could step up to, the best first."""
        size = self.spec.weights.total_bytes
        return self._for_all_users([rung for rung in self.ladder if rung.weights.total_bytes > size])

    def _for_all_users(self, rungs: list[WorkerSpec]) -> list[WorkerSpec]:
        """Those of the variants that everybody who uses it takes, in its own shape."""
        rungs = [rung for rung in rungs if rung.key not in self.broken]
        users = (*self.leases.values(), *self.waiters.values()) if rungs else ()
        return [rung.shaped_as(self.spec) for rung in rungs if all(want.rung(rung.key) for want in users)]


@dataclass(slots=True, eq=False)
class Claim:
    """A place in the line: a model that needs memory, and who waits for it."""

    want: Want
    order: int
    tickets: dict[Ticket, Want]
    n_killed: int = 0
    """Workers that were killed while they loaded for it."""
