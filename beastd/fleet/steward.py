"""Gives workers their orders: room is made, quality comes back, idle ones sleep and leave; and the journal says why."""

from __future__ import annotations

import math

from beastd.fleet import policy
from beastd.fleet.effects import Effects
from beastd.fleet.entry import Entry, Shape, State
from beastd.fleet.footprint import Footprint
from beastd.fleet.journal import Journal
from beastd.fleet.policy import Verdict
from beastd.fleet.roster import Roster
from beastd.fleet.spec import WorkerSpec

STEP_UP_AFTER_S = 120.0
"""Without any pressure for so long, a model that was stepped down may step up again."""
STEP_UP_MARGIN = 0.05
"""A part of the budget that must stay free then, so that the next small need does not step it down again."""


class Steward:
    """The fleet's hand on its workers."""

    def __init__(self, effects: Effects, roster: Roster, journal: Journal, sleep_after_s: float) -> None:
        self._effects = effects
        self._roster = roster
        self._journal = journal
        self._sleep_after_s = sleep_after_s
        self.now = -math.inf
        """Of the event that is being handled."""
        self.step_up_at = math.inf
        """When a model may step up, if all stays quiet."""

    def put_off_step_up(self) -> None:
        """Memory is short, or a model has just changed its variant: quality waits for a quiet time."""
        self.step_up_at = self.now + STEP_UP_AFTER_S

    def relieve(self) -> None:
        """Workers may hold more than there is: bring them back within it, as far as can be had now."""
        self.make_room(self._roster.planner(self.now)(Footprint(), is_relief=True), None)

    def expect_step_up(self) -> None:
        """A worker may be below its best, though nothing was short."""
        self.step_up_at = min(self.step_up_at, self.now + STEP_UP_AFTER_S)

    def make_room(self, plan: policy.Plan, wanted: WorkerSpec | None) -> None:
        """Make the plan's moves, for the wanted model, or because workers hold too much."""
        if plan.moves:
            self.put_off_step_up()
        for entry, target in [(self._roster[move.id], self._roster.after(move)) for move in plan.moves]:
            tenant = self._roster.tenant(entry, self.now)
            why = f"{wanted.label} needs {wanted.need}" if wanted else "the workers hold more than the budget"
            why += f"; {_worth(tenant, self.now)}"
            if target is None:
                self.note("evict", entry.spec, f"{why}; frees {entry.holds}")
                self.stop(entry)
            elif self._roster.by_key(target.spec.key) in (None, entry):  # else an earlier move took this variant
                self.reshape(entry, target, why)

    def step_up(self) -> None:
        """Let the most wanted of the models that were stepped down have a better variant; for when nobody waits."""
        margin = self._roster.budget.times(STEP_UP_MARGIN)
        entries = [entry for entry in self._roster if entry.can_step_up(self.now)]
        for entry in sorted(entries, key=lambda it: -self._roster.demand.rate(it.ladder[0].key, self.now)):
            plan_for = self._roster.planner(self.now, but=entry)
            for rung in self._roster.higher(entry):
                more = entry.would_hold(Shape(rung)) - entry.holds
                if plan_for(more + margin).verdict is Verdict.START:
                    self.reshape(entry, Shape(rung), "there is room for it again")
                    return

    def rest(self, entry: Entry) -> None:
        """Let an idle worker go, or sleep, when its time has come."""
        if not entry.is_idle:
            return
        idle_s = self.now - entry.idle_since
        if entry.is_unloading:
            self.note("unload", entry.spec, "as it was told to")
            self.stop(entry)
        elif self._roster.is_pinned(entry.spec):
            return
        elif entry.expires_at <= self.now:
            self.note("expire", entry.spec, f"nobody came for {idle_s:.0f} s")
            self.stop(entry)
        elif self._sleeps_at(entry) <= self.now:
            self.reshape(entry, Shape(entry.spec, is_asleep=True), f"nobody came for {idle_s:.0f} s")

    def next_end(self, entry: Entry) -> float:
        """When an idle worker's time comes."""
        if not entry.is_idle or self._roster.is_pinned(entry.spec):
            return math.inf
        return min(entry.expires_at, self._sleeps_at(entry))

    def _sleeps_at(self, entry: Entry) -> float:
        return math.inf if entry.is_asleep else max(entry.idle_since + self._sleep_after_s, entry.hold_still_until)

    def reshape(self, entry: Entry, target: Shape, why: str) -> None:
        """Have a loaded worker become this; until then it counts as the larger of both."""
        self.note(entry.shape.way_to(target), target.spec, why)
        if target.spec.key != entry.spec.key:
            self.put_off_step_up()
        entry.holds = entry.holds.or_more(entry.would_hold(target))
        entry.state, entry.target = State.CHANGING, target
        self._effects.reshape(entry.id, target)

    def stop(self, entry: Entry) -> None:
        """Have a worker end."""
        entry.state = State.STOPPING
        self._effects.stop(entry.id)

    def note(self, act: str, spec: WorkerSpec, why: str) -> None:
        """Write down what was done to whom, and why."""
        self._effects.note(self._journal.note(self.now, act, spec.label, why))


def _worth(tenant: policy.Tenant, now: float) -> str:
    """Why this worker and no other, in numbers."""
    return (
        f"idle for {now - tenant.idle_since:.0f} s, {tenant.rate * 3600:.1f} requests an hour expected, "
        f"a reload takes {tenant.reload_s:.1f} s"
    )
