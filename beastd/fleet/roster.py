"""The workers there are, what they hold, and what could be made of them: questions only, no effects."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from beastd.fleet import policy
from beastd.fleet.demand import Demand
from beastd.fleet.entry import Entry, Shape, State
from beastd.fleet.footprint import Footprint
from beastd.fleet.spec import Want, WorkerSpec

BYTES_PER_S = 1e9
"""A model that was never loaded is expected to load at this speed, after START_S."""
START_S = 0.5


class Roster:
    """Every worker, the budget they share, and how much each is wanted."""

    def __init__(self, budget: Footprint, rank: policy.Rank = policy.by_cost) -> None:
        self.budget = budget
        self.pins: frozenset[str] = frozenset()
        """Models ("cub:latest") and variants ("cub:latest@q8_0") that never leave, in lower case."""
        self.demand = Demand()
        self.load_s: dict[str, float] = {}
        """Key → seconds its last load took."""
        self._rank = rank
        self._entries: dict[int, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        """The workers of this moment, oldest first."""
        return iter(tuple(self._entries.values()))

    def __getitem__(self, id_: int) -> Entry:
        return self._entries[id_]

    def get(self, id_: int) -> Entry | None:
        """The worker of this number, if it is still there."""
        return self._entries.get(id_)

    def add(self, entry: Entry) -> None:
        """A worker is being started."""
        self._entries[entry.id] = entry

    def pop(self, id_: int) -> Entry:
        """A worker's process is gone."""
        return self._entries.pop(id_)

    # --- who could answer ---

    def by_key(self, key: str) -> Entry | None:
        """The worker that is this variant or is becoming it."""
        for entry in self._entries.values():
            if entry.spec.key == key or (entry.target and entry.target.spec.key == key):
                return entry
        return None

    def staying(self, key: str) -> Entry | None:
        """The same, if nobody has told it to go."""
        entry = self.by_key(key)
        return entry if entry and entry.state is not State.STOPPING and not entry.is_unloading else None

    def serving(self, want: Want) -> Entry | None:
        """A worker that answers the request, or will once its load or change has ended."""
        found = (self.staying(rung.key) for rung in want.rungs)
        return next((entry for entry in found if entry and (entry.answers(want) or entry.will_answer(want))), None)

    def convertible(self, want: Want) -> Entry | None:
        """A worker that could become what the request needs: too small, asleep, or stepped down from it."""
        own = (self.by_key(rung.key) for rung in want.rungs)
        stepped_down = (
            entry
            for entry in self
            if entry.state is State.READY and any(rung.key == want.best.key for rung in self._better(entry))
        )
        found = (entry for entry in (*own, *stepped_down) if entry and entry.state is not State.STOPPING)
        return next(found, None)

    def conversions(self, want: Want, entry: Entry) -> list[WorkerSpec]:
        """What the worker could become to answer the request, the best first."""
        own = want.rung(entry.spec.key)
        lower = {rung.key for rung in self.lower(entry)}
        rungs = [own or want.best, *(rung for rung in want.rungs if rung.key in lower)]
        return [_grown(entry, rung) for rung in rungs]

    # --- memory ---

    def is_pinned(self, spec: WorkerSpec) -> bool:
        """Whether it never leaves."""
        return spec.name.lower() in self.pins or self.is_variant_pinned(spec)

    def is_variant_pinned(self, spec: WorkerSpec) -> bool:
        """Whether this very variant never leaves, so that no other may stand in for it."""
        return f"{spec.name}@{spec.variant}".lower() in self.pins

    def lower(self, entry: Entry) -> list[WorkerSpec]:
        """Smaller variants that the worker may step down to, the best first."""
        if self.is_variant_pinned(entry.spec):
            return []
        return [rung for rung in entry.lower_rungs() if self.by_key(rung.key) is None]

    def higher(self, entry: Entry) -> list[WorkerSpec]:
        """Better variants that it may step up to, the best first."""
        return [rung for rung in self._better(entry) if self.by_key(rung.key) is None]

    def _better(self, entry: Entry) -> list[WorkerSpec]:
        """Better variants that its users and its pin allow."""
        return [] if self.is_variant_pinned(entry.spec) else entry.higher_rungs()

    def tenant(self, entry: Entry, now: float) -> policy.Tenant:
        """The worker as the policy sees it."""
        can_change = entry.state is State.READY and not entry.is_unloading and entry.hold_still_until <= now
        can_sleep = can_change and entry.is_idle and not entry.is_asleep
        lower = [Shape(rung, entry.is_asleep) for rung in self.lower(entry)] if can_change else []
        return policy.Tenant(
            id=entry.id,
            holds=entry.holds,
            freeing=entry.freeing,
            can_leave=entry.is_idle and not self.is_pinned(entry.spec),
            asleep=entry.would_hold(Shape(entry.spec, is_asleep=True)) if can_sleep else None,
            lower=tuple(map(entry.would_hold, lower)),
            rate=self.demand.rate(entry.ladder[0].key, now),
            reload_s=self.reload_s(entry.spec),
            idle_since=entry.idle_since,
            keep_alive_s=entry.keep_alive_s,
            name=entry.spec.label,
        )

    def after(self, move: policy.Move) -> Shape | None:
        """What the move makes of its worker; None: it leaves."""
        entry = self[move.id]
        if move.act is policy.Act.EVICT:
            return None
        if move.act is policy.Act.SLEEP:
            return Shape(entry.spec, is_asleep=True)
        return Shape(self.lower(entry)[move.rung], entry.is_asleep)

    def reload_s(self, spec: WorkerSpec) -> float:
        """Seconds a load of this takes: as last time, or guessed by its size."""
        return self.load_s.get(spec.key, START_S + spec.weights.total_bytes / BYTES_PER_S)

    def planner(
        self, now: float, *, promised: Footprint = policy.NOTHING, but: Entry | None = None
    ) -> Callable[..., policy.Plan]:
        """``policy.plan`` as things are, beside what is promised to others, and with no move of the worker ``but``."""
        tenants = [policy.Tenant(entry.id, entry.holds) if entry is but else self.tenant(entry, now) for entry in self]
        return functools.partial(policy.plan, budget=self.budget - promised, tenants=tenants, rank=self._rank)

    def leaving(self, now: float) -> list[int]:
        """The workers that could leave now, in the order in which they would have to."""
        tenants = [self.tenant(entry, now) for entry in self]
        return [it.id for it in sorted(tenants, key=self._rank) if it.can_leave]  # type: ignore[arg-type]

    def smallest(self, want: Want) -> WorkerSpec:
        """What the request could be answered by at the least: no other stands in for a variant that is pinned."""
        pinned = (rung for rung in want.rungs if self.is_variant_pinned(rung) and self.by_key(rung.key))
        return next(pinned, want.rungs[-1])

    def room_for(self, want: Want) -> tuple[Footprint, list[str]]:
        """What could ever be had for the request, and the pinned models that hold the rest."""
        pinned = [entry for entry in self if self.is_pinned(entry.spec) and not want.rung(entry.spec.key)]
        room = self.budget
        for entry in pinned:
            room = room - entry.would_hold(Shape(entry.spec, is_asleep=True)).or_less(entry.holds)
        return room, [entry.spec.label for entry in pinned]


def _grown(entry: Entry, wanted: WorkerSpec) -> WorkerSpec:
    """The wanted variant, with no less context than the worker has, and a sequence for each answer under way."""
    now = entry.spec.settings
    if wanted.settings.n_ctx <= now.n_ctx:
        return wanted.shaped_as(entry.spec)
    n_busy = min(len(entry.leases), now.n_parallel)
    return wanted.with_parallel(n_busy) if n_busy > wanted.settings.n_parallel else wanted
