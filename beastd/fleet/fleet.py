"""Which models have workers, who waits for them and who leaves: a synchronous state machine with one writer.

Events come in through ``on_*``, effects go out through ``Effects``; time and bytes are arguments. Every request
ends in exactly one of granted, refused or cancelled:

- a worker that can answer it is there, and nobody has told it to go: granted at once;
- one is being loaded, or is becoming what the request needs: it joins;
- otherwise it joins its model's place in the line for memory, or takes one at the end. The line is served
  oldest first, whenever memory, a worker or an answer comes to an end.

A worker that has the wrong shape (too little context, asleep, a smaller variant than the request insists on) changes
in place, and its answers go on in the new one. Context only grows, so clients that disagree about it cannot make a
model change back and forth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable

from beastd.contract import Priority
from beastd.errors import BadModel, BeastError, DoesNotFit, OutOfMemory, WorkerDied
from beastd.fleet import policy, refusals
from beastd.fleet.cooling import Cooling, Failure
from beastd.fleet.effects import Effects
from beastd.fleet.entry import Claim, Entry, Shape, State, Ticket
from beastd.fleet.footprint import Footprint
from beastd.fleet.journal import Journal
from beastd.fleet.line import Line, order_of
from beastd.fleet.policy import Verdict
from beastd.fleet.roster import Roster
from beastd.fleet.spec import Want, WorkerSpec
from beastd.fleet.steward import Steward

MOST_KILLED = 2
"""How often a load is started again for the same requests after somebody has killed its process."""
HOLD_STILL_S = 60.0
"""A worker whose change has failed is not asked to change again for so long."""


class Fleet:
    """The queue, the leases, keep-alive and the memory ledger."""

    def __init__(
        self,
        effects: Effects,
        roster: Roster,
        *,
        max_queue: int,
        sleep_after_s: float = math.inf,
    ) -> None:
        """``roster``: empty, with the budget; ``sleep_after_s``: when idle workers give back what they work in."""
        self._effects = effects
        self._max_queue = max_queue
        self.roster = roster
        self.line = Line()
        self.cooling = Cooling()
        self.journal = Journal()
        self._steward = Steward(effects, self.roster, self.journal, sleep_after_s)
        self._places: dict[Ticket, Entry | Claim] = {}
        """Where each request that waits or holds a lease is to be found."""
        self._numbers = itertools.count()
        self._closed: BeastError | None = None

    # --- to look at ---

    def place(self, ticket: Ticket) -> Entry | Claim | None:
        """The worker that a request holds or has joined, or its place in line; None when it has ended."""
        return self._places.get(ticket)

    def next_deadline(self) -> float | None:
        """When on_tick has something to do; None if nothing expires."""
        deadlines = [self._steward.next_end(entry) for entry in self.roster]
        if any(self.roster.higher(entry) for entry in self.roster):
            deadlines.append(self._steward.step_up_at)
        if self.line.n_waiting:  # it may be for a worker that held still to make room
            deadlines += [entry.hold_still_until for entry in self.roster if entry.hold_still_until > self._steward.now]
        return min((at for at in deadlines if at < math.inf), default=None)

    # --- requests ---

    def on_request(self, ticket: Ticket, want: Want, now: float, priority: Priority = "normal") -> None:
        """A request wants a worker."""
        self._steward.now = now
        if self._closed:
            self._effects.refuse(ticket, self._closed)
            return
        self.roster.demand.note(want.best.key, now)
        entry = self.roster.serving(want)
        if entry is None:
            self._queue(ticket, want, priority)
        elif self._is_full() and not _has_slot(entry, want):
            self._refuse(ticket, refusals.overloaded(want.best, self._max_queue))
        else:
            self._seat(ticket, want, entry)

    def on_cancel(self, ticket: Ticket, now: float) -> None:
        """A request that was not granted no longer waits. The last one to leave a load ends it."""
        self._steward.now = now
        place = self._places.pop(ticket, None)
        if isinstance(place, Claim):
            self.line.leave(ticket, place)
        elif place is not None:
            del place.waiters[ticket]
            if place.state is State.LOADING and not place.waiters:
                self._steward.stop(place)
        self._serve_line()

    def on_release(self, ticket: Ticket, keep_alive_s: float, now: float) -> None:
        """A granted request ended. After a worker's last, it stays keep_alive_s seconds (inf: for ever, 0: leaves)."""
        self._steward.now = now
        entry = self._places.pop(ticket, None)
        if entry is None:
            return  # its worker went first
        assert isinstance(entry, Entry), "it was granted"
        del entry.leases[ticket]
        if not entry.leases:
            entry.idle_since, entry.keep_alive_s = now, keep_alive_s
            self._steward.relieve()
        self._steward.rest(entry)
        self._serve_line()

    # --- workers ---

    def on_ready(self, id_: int, holds: Footprint, load_s: float, now: float) -> None:
        """A load that took load_s seconds ended well: the worker really holds so much."""
        self._steward.now = now
        entry = self.roster[id_]
        self.roster.load_s[entry.spec.key] = load_s
        self.cooling.on_success(entry.spec.key)
        entry.idle_since = now
        self._settle(entry, holds)

    def on_reshaped(self, id_: int, holds: Footprint, now: float) -> None:
        """A worker has become what it was to become, and really holds so much."""
        self._steward.now = now
        entry = self.roster[id_]
        assert entry.target, "it was told to change"
        entry.shape, entry.target = entry.target, None
        self.cooling.on_success(_change_of(entry.spec))
        self._settle(entry, holds)

    def on_reshape_failed(self, id_: int, error: BeastError, holds: Footprint, now: float) -> None:
        """A worker could not become what it was to become, and is what it was."""
        self._steward.now = now
        entry = self.roster[id_]
        assert entry.target, "it was told to change"
        self._steward.note("change_failed", entry.spec, error.message)
        self.cooling.on_failure(_change_of(entry.target.spec), error, now)
        if isinstance(error, BadModel):
            entry.broken.add(entry.target.spec.key)
        entry.target, entry.hold_still_until = None, now + HOLD_STILL_S
        self._refuse_all(entry.waiters, error)
        entry.waiters = {}
        self._settle(entry, holds)

    def on_load_failed(self, id_: int, error: BeastError, now: float) -> None:
        """A load ended without a worker, and no process is left of it."""
        self._steward.now = now
        entry = self.roster.pop(id_)
        smaller = _smaller(entry) if isinstance(error, OutOfMemory) else None
        if entry.state is State.STOPPING:
            self._refuse_all(entry.waiters, error)
        elif isinstance(error, WorkerDied):
            self._load_killed(entry, error)
        elif smaller is not None:
            self._steward.note("retry", smaller.best, f"{entry.spec.label} ran out of memory: {error.message}")
            self._line_up_smaller(entry, smaller, error)
        else:
            failure = self.cooling.on_failure(entry.spec.key, error, now)
            self._steward.note("cool_down", entry.spec, f"for {failure.until - now:.0f} s: {error.message}")
            self._refuse_all(entry.waiters, error)
        self._serve_line()

    def _load_killed(self, entry: Entry, error: WorkerDied) -> None:
        """Somebody killed the process, which says nothing of the model: it is started again, a few times."""
        if entry.n_killed == MOST_KILLED:
            self._refuse_all(entry.waiters, error)
            return
        self._steward.note("retry", entry.spec, error.message)
        for ticket, want in entry.waiters.items():
            self._line_up(ticket, want, entry.order).n_killed = entry.n_killed + 1

    def on_died(self, id_: int, now: float) -> None:
        """A loaded worker's process is gone. Its requests learn it from the worker; their leases are void."""
        self._steward.now = now
        entry = self.roster.pop(id_)
        if entry.state is not State.STOPPING:
            self._steward.note(
                "died", entry.spec, f"its process ended by itself, with {_n_answers(len(entry.leases))} under way"
            )
        for ticket in entry.leases:
            self._places.pop(ticket, None)
        for ticket, want in entry.waiters.items():  # they hold nothing of it: a fresh worker answers them
            self._line_up(ticket, want, entry.order)
        self._serve_line()

    def on_stopped(self, id_: int, now: float) -> None:
        """A worker that was told to stop is gone."""
        self.on_died(id_, now)

    def on_measured(self, id_: int, holds: Footprint, now: float) -> None:
        """A worker really holds so much."""
        self._steward.now = now
        entry = self.roster.get(id_)
        if entry is not None and entry.state is State.READY:
            has_shrunk = not entry.holds.fits_in(holds)
            entry.holds = holds
            self._steward.relieve()
            if has_shrunk:
                self._serve_line()

    # --- people and time ---

    def on_budget(self, budget: Footprint, now: float) -> None:
        """So much may be held from now on: the configuration's, less what other programs need of it."""
        self._steward.now = now
        has_grown = not budget.fits_in(self.roster.budget)
        self.roster.budget = budget
        self._steward.relieve()
        if has_grown:
            self._serve_line()

    def on_pins(self, names: frozenset[str], now: float) -> None:
        """These models ("cub:latest") and variants ("cub:latest@q8_0") never leave from now on; others may."""
        self._steward.now = now
        self.roster.pins = frozenset(name.lower() for name in names)
        self._serve_line()

    def on_unload(self, id_: int, now: float) -> bool:
        """Someone wants the worker out: now if it is idle, else when its answers have ended. False: it is gone."""
        self._steward.now = now
        entry = self.roster.get(id_)
        if entry is None or entry.state is State.STOPPING:
            return False
        entry.is_unloading = True
        self._steward.rest(entry)
        return True

    def on_tick(self, now: float) -> None:
        """Time has passed: idle workers whose keep-alive ran out stop, others go to sleep or step up."""
        self._steward.now = now
        for entry in self.roster:
            self._steward.rest(entry)
        if self._steward.step_up_at <= now:
            self._steward.put_off_step_up()
            if not self.line.n_waiting:
                self._steward.step_up()
        self._serve_line()

    def on_close(self, error: BeastError, now: float) -> None:
        """Everything ends: who waits is refused with this error, as is who comes later, and every worker stops."""
        self._steward.now = now
        self._closed = error
        for claim in self.line.clear():
            self._refuse_all(claim.tickets, error)
        for entry in self.roster:
            self._refuse_all(entry.waiters, error)
            entry.waiters = {}
            if entry.state is not State.STOPPING:
                self._steward.stop(entry)

    # --- taking a request ---

    def _is_full(self) -> bool:
        """Whether as many requests wait as may: in line, for a load, or for a sequence of a loaded worker."""
        n_at_workers = sum(len(entry.waiters) + entry.n_queued for entry in self.roster)
        return self.line.n_waiting + n_at_workers >= self._max_queue

    def _seat(self, ticket: Ticket, want: Want, entry: Entry) -> None:
        """Give the request the worker, now or when it is what the request needs."""
        if len(want.rungs) > len(entry.ladder):
            entry.ladder = want.rungs
            self._steward.expect_step_up()
        self._places[ticket] = entry
        if entry.state is State.LOADING or not entry.answers(want):
            entry.waiters[ticket] = want
        else:
            entry.leases[ticket] = want
            self._effects.grant(ticket, entry.id)

    def _queue(self, ticket: Ticket, want: Want, priority: Priority) -> None:
        """Put the request in line, unless there is no point in it."""
        failures = {rung.key: self._resting(rung) for rung in want.rungs}
        rungs = tuple(rung for rung in want.rungs if failures[rung.key] is None)
        if not rungs:
            failure = failures[want.best.key]
            assert failure, "all of them rest"
            self._refuse(ticket, refusals.cooling_down(want.best, failure, self._steward.now))
            return
        if error := self._impossible(Want(rungs)):
            self._refuse(ticket, error)
        elif self._is_full():
            self._refuse(ticket, refusals.overloaded(want.best, self._max_queue))
        else:
            self._line_up(ticket, Want(rungs), order_of(next(self._numbers), priority))
            self._serve_line()

    def _impossible(self, want: Want) -> DoesNotFit | None:
        """Why no waiting would help; None if it would."""
        room, pinned = self.roster.room_for(want)
        smallest = self.roster.smallest(want)
        if smallest.need.fits_in(room):
            return None
        return refusals.does_not_fit(smallest, self.roster.budget, room, pinned)

    def _resting(self, spec: WorkerSpec) -> Failure | None:
        """The failure that speaks against trying this now: of a load, or of a loaded worker's change."""
        want = Want((spec,))
        entry = self.roster.convertible(want)
        if entry is None or entry.is_unloading:
            return self.cooling.resting(spec.key, self._steward.now)
        return self.cooling.resting(_change_of(self.roster.conversions(want, entry)[0]), self._steward.now)

    def _line_up(self, ticket: Ticket, want: Want, order: int) -> Claim:
        claim = self._places[ticket] = self.line.add(ticket, want, order)
        return claim

    def _line_up_smaller(self, entry: Entry, smaller: Want, error: BeastError) -> None:
        """Who waited for a worker that did not fit waits for a smaller one, where that answers them."""
        for ticket, asked in entry.waiters.items():
            rungs = tuple(rung for rung in smaller.rungs if asked.rung(rung.key))
            if rungs:
                self._line_up(ticket, Want(rungs), entry.order)
            else:
                self._refuse(ticket, error)

    # --- serving the line ---

    def _serve_line(self) -> None:
        """Start every load and change in the line that may start, and make room for those that may get it.

        Those behind one that waits for answers to end may pass it, but only into memory that they and it can
        share, so that they never make it wait longer than the answers of today.
        """
        promised = Footprint()  # comes free soon, and belongs to older ones
        blocked: list[Claim] = []
        for claim in self.line:
            if entry := self.roster.serving(claim.want):
                self.line.take(claim)
                for ticket, want in claim.tickets.items():
                    self._seat(ticket, want, entry)
                continue
            if self._impossible(claim.want) and self._refuse_impossible(claim):
                continue
            can_try = not blocked or self._may_pass(claim, blocked, promised)
            coming = self._try_advance(claim, promised) if can_try else None
            if coming is None:
                blocked.append(claim)
            else:
                promised = promised + coming

    def _refuse_impossible(self, claim: Claim) -> bool:
        """Refuse who cannot be answered since the budget shrank or another model was pinned; whether that is all."""
        for ticket, want in tuple(claim.tickets.items()):
            if error := self._impossible(want):
                self.line.leave(ticket, claim)
                self._refuse(ticket, error)
        return not claim.tickets

    def _may_pass(self, claim: Claim, blocked: list[Claim], promised: Footprint) -> bool:
        """Whether this load fits beside all those that wait before it and those that have passed them already."""
        passed = [it.holds for it in self.roster if it.order > blocked[0].order and it.state is not State.STOPPING]
        # The same worker, made better, is what one that waits for another variant of the model gets.
        waiting = [other.want.best.need for other in blocked if claim.want.rung(other.want.best.key) is None]
        beside = sum([*passed, *waiting], promised)
        return (beside + claim.want.best.need).fits_in(self.roster.budget)

    def _try_advance(self, claim: Claim, promised: Footprint) -> Footprint | None:
        """Do what can be done for the claim now; returns what it still has to get, None if it must wait."""
        entry = self.roster.convertible(claim.want)
        if entry is None:
            return self._try_load(claim, promised)
        if entry.state is not State.READY or entry.is_unloading:
            return None
        coming = self._try_convert(claim, entry, promised)
        return self._try_replace(claim, entry, promised) if coming is None and entry.is_idle else coming

    def _try_convert(self, claim: Claim, entry: Entry, promised: Footprint) -> Footprint | None:
        plan_for = self.roster.planner(self._steward.now, promised=promised, but=entry)
        for spec in self.roster.conversions(claim.want, entry):
            target = Shape(spec)
            more = entry.would_hold(target) - entry.holds
            plan = plan_for(more)
            if plan.verdict is Verdict.START:
                self.line.take(claim)
                entry.waiters = claim.tickets
                self._places.update(dict.fromkeys(claim.tickets, entry))
                self._steward.reshape(entry, target, f"{_requests(claim.tickets)} it")
                return Footprint()
            if plan.verdict is not Verdict.WAIT:
                self._steward.make_room(plan, spec)
                return more
        return None

    def _try_replace(self, claim: Claim, entry: Entry, promised: Footprint) -> Footprint | None:
        """Stop an idle worker that cannot change in place for what it holds beyond what was computed of it."""
        spec = self.roster.conversions(claim.want, entry)[-1]
        plan = self.roster.planner(self._steward.now, promised=promised, but=entry)(spec.need - entry.holds)
        if plan.verdict is Verdict.WAIT:
            return None
        self._steward.note("evict", entry.spec, f"{spec.label} needs {spec.need}, and it holds {entry.holds}")
        self._steward.stop(entry)
        return spec.need

    def _try_load(self, claim: Claim, promised: Footprint) -> Footprint | None:
        """Start a worker, in the best variant for which nobody must leave, else in the smallest."""
        rungs = claim.want.rungs
        mild = [(rung, policy.ALL_ACTS[:n]) for n in (1, 2) for rung in rungs] if len(rungs) > 1 else []
        plan_for = self.roster.planner(self._steward.now, promised=promised)
        for spec, acts in [*mild, (rungs[-1], policy.ALL_ACTS)]:
            plan = plan_for(spec.need, acts=acts)
            if plan.verdict is Verdict.START and self.roster.by_key(spec.key) is None:
                self._start(claim, spec)
                return Footprint()
            if plan.verdict is not Verdict.WAIT:
                self._steward.make_room(plan, spec)
                return spec.need
        return None

    def _start(self, claim: Claim, spec: WorkerSpec) -> None:
        self.line.take(claim)
        entry = Entry(next(self._numbers), Shape(spec), claim.order, claim.want.rungs, spec.need, claim.tickets)
        entry.n_killed = claim.n_killed
        self.roster.add(entry)
        self._places.update(dict.fromkeys(claim.tickets, entry))
        if spec.key != claim.want.best.key:
            self._steward.put_off_step_up()
        self._steward.note("load", spec, f"{_requests(claim.tickets)} it; it needs {spec.need}")
        self._effects.start(entry.id, spec)

    # --- one worker ---

    def _settle(self, entry: Entry, holds: Footprint) -> None:
        """The worker is what it was to be: who waited for that has it now."""
        if entry.state is State.STOPPING:
            return
        entry.state, entry.holds = State.READY, holds
        waiters, entry.waiters = entry.waiters, {}
        for ticket, want in waiters.items():
            if entry.answers(want):
                self._seat(ticket, want, entry)
            else:  # it joined before its neighbours chose another shape
                self._line_up(ticket, want, entry.order)
        self._steward.rest(entry)
        self._steward.relieve()  # it may hold more than it said
        self._serve_line()

    def _refuse(self, ticket: Ticket, error: BeastError) -> None:
        self._places.pop(ticket, None)
        self._effects.refuse(ticket, error)

    def _refuse_all(self, tickets: Iterable[Ticket], error: BeastError) -> None:
        for ticket in tickets:
            self._refuse(ticket, error)


def _has_slot(entry: Entry, want: Want) -> bool:
    """Whether the request need not wait."""
    is_there = entry.state in (State.READY, State.CHANGING) and entry.answers(want)
    return is_there and len(entry.leases) < entry.spec.settings.n_at_once


def _change_of(spec: WorkerSpec) -> str:
    """What a failed change is remembered by."""
    return f"{spec.key} with {spec.settings.n_ctx} tokens"


def _smaller(entry: Entry) -> Want | None:
    """What may be tried after a load ran out of memory: fewer sequences at once, then a smaller variant."""
    spec = entry.spec
    smaller = (rung for rung in entry.ladder if rung.weights.total_bytes < spec.weights.total_bytes)
    # The ladder may be of a request that needs less context than others.
    lower = tuple(it if it.settings.n_ctx >= spec.settings.n_ctx else it.shaped_as(spec) for it in smaller)
    if spec.has_auto_parallel and spec.settings.n_parallel > 1:
        return Want((spec.with_parallel(spec.settings.n_parallel // 2), *lower))
    return Want(lower) if lower else None


def _requests(tickets: Collection[Ticket]) -> str:
    return "one request wants" if len(tickets) == 1 else f"{len(tickets)} requests want"


def _n_answers(n: int) -> str:
    return "one answer" if n == 1 else f"{n or 'no'} answers"
