"""Who must leave so that a model can be loaded: a pure decision over bytes, which neither acts nor logs."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Use(enum.Enum):
    """What a worker's memory is doing."""

    IDLE = enum.auto()
    """Loaded, nobody uses it: may be evicted."""
    HELD = enum.auto()
    """Loading, or answering: never evicted."""
    LEAVING = enum.auto()
    """Stopping: its memory comes free by itself."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A worker, as the policy sees it."""

    key: str
    n_bytes: int
    use: Use
    idle_since: float = 0.0
    """When its last answer ended, in seconds of any clock; only the order counts."""


class Verdict(enum.Enum):
    """What the memory allows."""

    START = enum.auto()
    """There is room now."""
    EVICT = enum.auto()
    """There will be, once the plan's victims are gone too."""
    SOON = enum.auto()
    """There will be, once the workers already stopping are gone."""
    WAIT = enum.auto()
    """Only workers in use could make room."""
    IMPOSSIBLE = enum.auto()
    """It is larger than the whole budget."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The verdict, and for EVICT the keys of the idle workers to stop, least recently used first."""

    verdict: Verdict
    victims: tuple[str, ...] = ()


def plan(need_bytes: int, budget_bytes: int, tenants: Iterable[Tenant]) -> Plan:
    """How need_bytes can be had within budget_bytes, evicting as few of the least recently used as suffice."""
    if need_bytes > budget_bytes:
        return Plan(Verdict.IMPOSSIBLE)
    tenants = list(tenants)
    free = budget_bytes - sum(tenant.n_bytes for tenant in tenants)
    if need_bytes <= free:
        return Plan(Verdict.START)
    free += sum(tenant.n_bytes for tenant in tenants if tenant.use is Use.LEAVING)
    if need_bytes <= free:
        return Plan(Verdict.SOON)
    victims = []
    for tenant in sorted((t for t in tenants if t.use is Use.IDLE), key=lambda t: t.idle_since):
        victims.append(tenant.key)
        free += tenant.n_bytes
        if need_bytes <= free:
            return Plan(Verdict.EVICT, tuple(victims))
    return Plan(Verdict.WAIT)
