"""What the fleet keeps about each worker and about each load that waits."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from beastd.fleet.policy import Tenant, Use
from beastd.fleet.spec import WorkerSpec

Ticket = int
"""A request's number, chosen by the caller, unique for ever."""


class State(enum.Enum):
    """Where a worker is in its life."""

    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(slots=True)
class Entry:
    """A worker and who holds it. Only the fleet writes here."""

    spec: WorkerSpec
    order: int
    """When its load was first asked for, among all loads."""
    n_bytes: int
    """Estimated while it loads, then what it really holds."""
    n_ctx: int
    waiters: dict[Ticket, None]
    """Joined to its load, in order of arrival."""
    state: State = State.LOADING
    leases: set[Ticket] = field(default_factory=set)
    is_unloading: bool = False
    """To stop when its answers have ended."""
    idle_since: float = 0.0
    expires_at: float = math.inf
    """When it stops if nobody comes, in the clock of ``now``; only meaningful while it is idle."""

    @property
    def is_idle(self) -> bool:
        """Loaded, and nobody uses it."""
        return self.state is State.READY and not self.leases

    @property
    def n_waiting(self) -> int:
        """Requests that wait for the load, or for a sequence: more hold a lease than it runs at once."""
        return len(self.waiters) + max(0, len(self.leases) - self.spec.settings.n_parallel)

    def tenant(self) -> Tenant:
        """The worker as the policy sees it."""
        use = Use.LEAVING if self.state is State.STOPPING else Use.IDLE if self.is_idle else Use.HELD
        return Tenant(self.spec.key, self.n_bytes, use, self.idle_since)


@dataclass(slots=True)
class Claim:
    """A place in the line: a model to load as soon as there is room, and who waits for it."""

    spec: WorkerSpec
    order: int
    need_bytes: int
    tickets: dict[Ticket, None]
