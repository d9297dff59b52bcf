"""How memory can be had for a model: a pure decision over bytes, which neither acts nor logs.

Room is made in three ways, each only as far as the ones before it do not suffice: idle models go to sleep (they give
back KV cache and compute buffers, and wake in a moment), models that may step down to a smaller variant of their own,
and idle models leave. Within each way the cheapest goes first: what its absence costs in expected seconds of
reloading, for each byte it gives back. A busy, loading or pinned model never leaves.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from beastd.fleet.footprint import Footprint

NOTHING = Footprint()


@dataclass(frozen=True, slots=True)
class Tenant:
    """A worker, as the policy sees it."""

    id: int
    holds: Footprint
    freeing: Footprint = NOTHING
    """What comes free by itself: it is stopping, falling asleep or stepping down."""
    can_leave: bool = False
    """Loaded, idle and not pinned."""
    asleep: Footprint | None = None
    """What it would hold asleep; None: it cannot sleep now, or does already."""
    lower: tuple[Footprint, ...] = ()
    """What it would hold in each smaller variant that it may step down to, the best first."""
    rate: float = 0.0
    """Requests a second that it may expect."""
    reload_s: float = 1.0
    """What a reload would take."""
    idle_since: float = 0.0
    """When its last answer ended, in seconds of any clock; only the order counts."""
    keep_alive_s: float = 0.0
    """How long it was to stay after its last answer."""
    name: str = ""


class Act(enum.Enum):
    """What makes room."""

    SLEEP = "sleep"
    STEP_DOWN = "step_down"
    EVICT = "evict"


ALL_ACTS = (Act.SLEEP, Act.STEP_DOWN, Act.EVICT)


@dataclass(frozen=True, slots=True)
class Move:
    """One act on one worker."""

    id: int
    act: Act
    rung: int = 0
    """For STEP_DOWN: which of the tenant's lower variants, 0 the next one."""


class Verdict(enum.Enum):
    """What the memory allows."""

    START = enum.auto()
    """There is room now."""
    SOON = enum.auto()
    """There will be, once what is already being given back is free."""
    MAKE_ROOM = enum.auto()
    """There will be, once the plan's moves are made too."""
    WAIT = enum.auto()
    """Only workers in use could make room."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The verdict, and for MAKE_ROOM what to do, at most one move for each worker."""

    verdict: Verdict
    moves: tuple[Move, ...] = ()


Rank = Callable[[Tenant], object]
"""Orders tenants: the smallest is the first to make room. Values compare with each other."""


def by_cost(tenant: Tenant) -> float:
    """Seconds of reloading to expect of its absence, for each second and byte."""
    return tenant.rate * tenant.reload_s / max(1, tenant.holds.total_bytes)


def by_recency(tenant: Tenant) -> float:
    """Plain LRU."""
    return tenant.idle_since


def by_keep_alive(tenant: Tenant) -> tuple[float, str]:
    """Ollama's rule: the shortest keep_alive, then the name (``sched.go: findRunnerToUnload``)."""
    return tenant.keep_alive_s, tenant.name


def plan(
    need: Footprint,
    budget: Footprint,
    tenants: Iterable[Tenant],
    *,
    acts: Collection[Act] = ALL_ACTS,
    rank: Rank = by_cost,
    is_relief: bool = False,
) -> Plan:
    """How ``need`` can be had within ``budget``, with no move that could be left out; none is made in vain.

    ``is_relief``: workers hold more than there is, so even a part of what is short is worth its moves; then WAIT has
    moves as well.
    """
    tenants = list(tenants)
    short = need - budget
    for tenant in tenants:
        short = short + tenant.holds
    if short.is_covered:
        return Plan(Verdict.START)
    for tenant in tenants:
        short = short - tenant.freeing
    if short.is_covered:
        return Plan(Verdict.SOON)
    gains = _Gains(short)
    for act in acts:
        for tenant in sorted(tenants, key=rank):  # type: ignore[arg-type]  # a Rank's values compare
            for move, gain in _moves(tenant, act):
                gains.take(move, gain)
                if gains.are_enough:
                    return Plan(Verdict.MAKE_ROOM, gains.needed())
    return Plan(Verdict.WAIT, gains.made if is_relief else ())


def _moves(tenant: Tenant, act: Act) -> Iterator[tuple[Move, Footprint]]:
    """What the tenant can do in this way, the mildest first, and what each gives back in all."""
    if act is Act.SLEEP and tenant.asleep is not None:
        yield Move(tenant.id, act), tenant.holds - tenant.asleep
    elif act is Act.STEP_DOWN:
        yield from ((Move(tenant.id, act, rung), tenant.holds - held) for rung, held in enumerate(tenant.lower))
    elif act is Act.EVICT and tenant.can_leave:
        yield Move(tenant.id, act), tenant.holds


@dataclass(slots=True)
class _Gains:
    """Moves collected until what is short is there; the last move of a worker stands for all of it."""

    short: Footprint
    moves: dict[int, tuple[Move, Footprint]] = field(default_factory=dict)

    @property
    def _left(self) -> Footprint:
        left = self.short
        for _, gain in self.moves.values():
            left = left - gain
        return left

    @property
    def are_enough(self) -> bool:
        return self._left.is_covered

    def take(self, move: Move, gain: Footprint) -> None:
        """Make this move, in place of an earlier one of the same worker; not if it does not help."""
        _, before = self.moves.get(move.id, (None, NOTHING))
        if (gain - before).helps(self._left):
            self.moves.pop(move.id, None)
            self.moves[move.id] = (move, gain)

    @property
    def made(self) -> tuple[Move, ...]:
        """All of them."""
        return tuple(move for move, _ in self.moves.values())

    def needed(self) -> tuple[Move, ...]:
        """The moves without those that turned out not to be needed, the costliest kind dropped first."""
        latest_first = list(reversed(self.moves))
        for id_ in sorted(latest_first, key=lambda id_: -ALL_ACTS.index(self.moves[id_][0].act)):
            kept = self.moves.pop(id_)
            if not self.are_enough:
                self.moves[id_] = kept
        return self.made
