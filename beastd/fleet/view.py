"""What the fleet looks like at a moment: to a request that waits, and to people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from beastd.contract import RAM, Loading, Waiting
from beastd.fleet.entry import Claim, Entry, State, Ticket
from beastd.fleet.fleet import Fleet
from beastd.fleet.footprint import Footprint
from beastd.fleet.lease import Lease, News
from beastd.fleet.status import ClaimStatus, DecisionStatus, FleetStatus, RestStatus, WorkerStatus

if TYPE_CHECKING:
    from beastd.fleet.pool import Life

_FOR_EVER_S = 100 * 365 * 86400.0
"""A worker that stays longer than this is said to stay for ever; dates end somewhere."""
_BECOMES = {"sleep": "asleep", "wake": "awake", "grow": "a larger context"}


class View:
    """Reads the fleet and its workers; changes nothing."""

    def __init__(
        self,
        fleet: Fleet,
        lives: Mapping[int, Life],
        leases: Mapping[Ticket, Lease],
        clock: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._lives = lives
        self._leases = leases
        self._clock = clock

    def look(self, lease: Lease) -> News | None:
        """What a request that waits is waiting for."""
        place = self._fleet.place(lease.ticket)
        if isinstance(place, Claim):
            return Waiting(self._fleet.line.position(lease.ticket, place), self._waits_for(place))
        if place is None:
            return None
        if place.state is State.LOADING:
            return Loading(self._lives[place.id].worker.fraction)
        return Waiting(list(place.waiters).index(lease.ticket) + 1, f"{place.spec.label} to become {_becomes(place)}")

    def status(self) -> FleetStatus:
        """All of it."""
        fleet, now = self._fleet, self._clock()
        leaving = fleet.roster.leaving(now)
        used = sum((entry.holds for entry in fleet.roster), Footprint())
        return FleetStatus(
            workers=[self._worker(entry, leaving) for entry in fleet.roster],
            line=[self._claim(claim) for claim in fleet.line],
            resting=[
                RestStatus(key, failure.n, failure.until - now, failure.error.message)
                for key, failure in fleet.cooling.all_resting(now).items()
            ],
            decisions=[DecisionStatus(self._wall(it.at), it.act, it.subject, it.why) for it in fleet.journal.decisions],
            n_decisions=dict(fleet.journal.n_by_act),
            budget_bytes=dict(fleet.roster.budget),
            used_bytes=dict(used),
            pins=sorted(fleet.roster.pins),
        )

    def _worker(self, entry: Entry, leaving: list[int]) -> WorkerStatus:
        life, roster, now = self._lives[entry.id], self._fleet.roster, self._clock()
        spec, tenant = entry.spec, roster.tenant(entry, now)
        return WorkerStatus(
            id=entry.id,
            key=spec.key,
            name=spec.name,
            variant=spec.variant,
            state="asleep" if entry.is_asleep and entry.state is State.READY else entry.state.value,
            n_ctx=spec.settings.n_ctx,
            n_parallel=spec.settings.n_at_once,
            kv_type=spec.settings.kv_type,
            n_bytes=entry.holds.total_bytes,
            gpu_bytes=entry.holds.total_bytes - entry.holds.get(RAM, 0),
            n_leases=len(entry.leases),
            n_waiters=len(entry.waiters),
            expires_at=None if roster.is_pinned(spec) else self._ends_at(entry),
            load_s=life.load_s,
            pid=life.worker.pid,
            is_pinned=roster.is_pinned(spec),
            best_variant=entry.ladder[0].variant,
            becomes=_becomes(entry),
            rate=tenant.rate,
            reload_s=tenant.reload_s,
            idle_s=max(0.0, now - entry.idle_since) if entry.is_idle else 0.0,
            leaves_after=leaving.index(entry.id) if entry.id in leaving else None,
            stats=life.worker.stats,
        )

    def _ends_at(self, entry: Entry) -> datetime | None:
        """When it would stop if nobody came any more; None: never."""
        now = self._clock()
        if entry.is_idle:
            stays_s = entry.expires_at - now
        else:
            held = (self._leases[ticket] for ticket in (*entry.waiters, *entry.leases) if ticket in self._leases)
            stays_s = max((lease.keep_alive_s for lease in held), default=0.0)
        return None if stays_s > _FOR_EVER_S else self._wall(now + max(0.0, stays_s))

    def _claim(self, claim: Claim) -> ClaimStatus:
        return ClaimStatus(
            name=claim.want.best.name,
            variants=tuple(rung.variant for rung in claim.want.rungs),
            n_requests=len(claim.tickets),
            need_bytes=claim.want.best.need.total_bytes,
            waits_for=self._waits_for(claim),
        )

    def _waits_for(self, claim: Claim) -> str:
        """What has to happen before the claim can be served."""
        roster = self._fleet.roster
        entry = roster.convertible(claim.want)
        if entry is not None and entry.is_unloading:
            return f"{entry.spec.label} to be unloaded"
        if entry is not None and entry.state is State.CHANGING:
            return f"{entry.spec.label} to become {_becomes(entry)}"
        free = sum((other.holds for other in roster), Footprint())
        free = roster.budget - free
        going = [it.spec.label for it in roster if it.state is State.STOPPING or it.state is State.CHANGING]
        busy = [it.spec.label for it in roster if not it.is_idle and it.spec.label not in going]
        held_by = f"what {', '.join(going)} gives back" if going else f"the answers of {', '.join(busy)} to end"
        need = claim.want.best.need
        if not going and not busy:
            return f"memory: {claim.want.best.label} needs {need}, {free.or_more({RAM: 0})} is free"
        return f"{held_by}: {claim.want.best.label} needs {need}, {free.or_more({RAM: 0})} is free"

    def _wall(self, at: float) -> datetime:
        """A moment of the pool's clock, in UTC."""
        return datetime.now(UTC) + timedelta(seconds=at - self._clock())


def _becomes(entry: Entry) -> str:
    if entry.target is None:
        return ""
    act = entry.shape.way_to(entry.target)
    return _BECOMES.get(act, entry.target.spec.variant)
