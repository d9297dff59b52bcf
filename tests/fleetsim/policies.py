"""The policies to compare: all of them are the real fleet, with another rank or with less that it may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from beastd.fleet import policy
from beastd.fleet.effects import Effects
from beastd.fleet.entry import Claim, Entry, State
from beastd.fleet.fleet import Fleet
from beastd.fleet.footprint import Footprint
from beastd.fleet.policy import Act
from beastd.fleet.roster import Roster

MAX_QUEUE = 512
SLEEP_AFTER_S = 120.0


class _EvictsOnly(Roster):
    """Makes room by unloading alone."""

    def planner(
        self, now: float, *, promised: Footprint = policy.NOTHING, but: Entry | None = None
    ) -> Callable[..., policy.Plan]:
        plan_for = super().planner(now, promised=promised, but=but)
        return lambda need, **_: plan_for(need, acts=(Act.EVICT,))


class PlainLru(Fleet):
    """What was used least lately goes; nothing sleeps."""

    rank: policy.Rank = staticmethod(policy.by_recency)

    def __init__(self, effects: Effects, *, budget: Footprint, max_queue: int) -> None:
        super().__init__(effects, _EvictsOnly(budget, self.rank), max_queue=max_queue)


class Ollama(PlainLru):
    """The shortest keep_alive goes, then the first name; one load at a time, and nobody passes who waits for memory."""

    rank = staticmethod(policy.by_keep_alive)

    def _may_pass(self, claim: Claim, blocked: list[Claim], promised: Footprint) -> bool:
        return False

    def _try_load(self, claim: Claim, promised: Footprint) -> Footprint | None:
        is_loading = any(entry.state is State.LOADING for entry in self.roster)
        return None if is_loading else super()._try_load(claim, promised)


def _ours(effects: Effects, budget: Footprint) -> Fleet:
    return Fleet(effects, Roster(budget), max_queue=MAX_QUEUE, sleep_after_s=SLEEP_AFTER_S)


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to decide what leaves."""

    name: str
    make: Callable[[Effects, Footprint], Fleet]
    is_adaptive: bool = False
    """Requests take smaller variants as well."""

    def fleet(self, effects: Effects, budget: Footprint) -> Fleet:
        """A fleet that decides so."""
        return self.make(effects, budget)


LRU = Policy("plain LRU", lambda effects, budget: PlainLru(effects, budget=budget, max_queue=MAX_QUEUE))
OLLAMA = Policy("Ollama's", lambda effects, budget: Ollama(effects, budget=budget, max_queue=MAX_QUEUE))
FIXED = Policy("ours, fixed quality", _ours)
ADAPTIVE = Policy("ours, adaptive quality", _ours, is_adaptive=True)
POLICIES = (LRU, OLLAMA, FIXED, ADAPTIVE)
