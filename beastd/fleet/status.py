"""The fleet as people and the API see it: values taken in one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from beastd.ipc import EngineStats


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker."""

    id: int
    key: str
    name: str
    variant: str
    state: str
    """loading, ready, asleep, changing or stopping."""
    n_ctx: int
    """Tokens one request may hold."""
    n_parallel: int
    """Requests answered at once."""
    kv_type: str
    n_bytes: int
    """Memory it holds, all devices together; while it loads, what it is expected to take."""
    gpu_bytes: int
    n_leases: int
    """Requests that use it now."""
    n_waiters: int
    """Requests that wait for its load or change."""
    expires_at: datetime | None
    """When it stops if nobody comes, in UTC; None: never. While it is in use: as if all its answers ended now."""
    load_s: float
    """Seconds its load took, 0 while it loads."""
    pid: int | None
    is_pinned: bool
    best_variant: str
    """The variant it would run in, were there room."""
    becomes: str
    """What it changes to, in words; empty when it does not change."""
    rate: float
    """Requests a second to expect of it."""
    reload_s: float
    """What loading it again would take."""
    idle_s: float
    """Seconds since its last answer; 0 while it is in use."""
    leaves_after: int | None
    """How many others would have to leave before it, were there no room; None: it cannot leave now."""
    stats: EngineStats = field(default_factory=EngineStats)

    @property
    def n_waiting(self) -> int:
        """Requests that wait for its load or change, or for one of its sequences."""
        return self.n_waiters + max(0, self.n_leases - self.n_parallel)


@dataclass(frozen=True, slots=True)
class ClaimStatus:
    """A model that waits for memory."""

    name: str
    variants: tuple[str, ...]
    """Any of these will do, the first is the best."""
    n_requests: int
    need_bytes: int
    """Of the best."""
    waits_for: str


@dataclass(frozen=True, slots=True)
class RestStatus:
    """A model whose load has failed, and is not tried again yet."""

    key: str
    n_failures: int
    for_s: float
    error: str


@dataclass(frozen=True, slots=True)
class DecisionStatus:
    """Something the fleet did."""

    at: datetime
    act: str
    subject: str
    why: str


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """All of it."""

    workers: list[WorkerStatus]
    line: list[ClaimStatus]
    resting: list[RestStatus]
    decisions: list[DecisionStatus]
    """Oldest first."""
    n_decisions: dict[str, int]
    """Act → how often, since the daemon started."""
    budget_bytes: dict[str, int]
    """Device → bytes that workers may hold now."""
    used_bytes: dict[str, int]
    pins: list[str]
