"""Which models have workers, who waits for them and who leaves: a synchronous state machine with one writer.

Events come in through ``on_*``, effects go out through ``Effects``; time and bytes are arguments. Every request
ends in exactly one of granted, refused or cancelled:

- its model is loaded and large enough, and nobody waits for it to change: granted at once;
- its model is being loaded: it joins that load;
- otherwise it joins its model's place in the line of cold loads, or takes one at the end. The line is served
  oldest first, whenever memory, a worker or an answer comes to an end.

A worker is replaced, not changed: a request for more context than it has puts its model in the line, and from
then on the worker takes nobody new, ends its answers, stops, and starts again with the most context asked. So
context only grows, and clients that disagree about it cannot make a model reload back and forth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

from beastd.errors import BeastError
from beastd.fleet import memory, policy, refusals
from beastd.fleet.effects import Effects
from beastd.fleet.entry import Claim, Entry, State, Ticket
from beastd.fleet.policy import Verdict
from beastd.fleet.spec import WorkerSpec


class Fleet:
    """The queue, the leases, keep-alive and the memory ledger."""

    def __init__(self, effects: Effects, *, budget_bytes: int, max_queue: int) -> None:
        self._effects = effects
        self._budget_bytes = budget_bytes
        self._max_queue = max_queue
        self._live: dict[str, Entry] = {}
        self._line: dict[str, Claim] = {}
        """Insertion order is the order of service."""
        self._keys: dict[Ticket, str] = {}
        """Where each request that waits or holds a lease is to be found."""
        self._orders = itertools.count()
        self._closed: BeastError | None = None

    def entries(self) -> tuple[Entry, ...]:
        """The workers there are, to look at."""
        return tuple(self._live.values())

    def next_deadline(self) -> float | None:
        """When on_tick has something to do; None if nothing expires."""
        deadlines = (entry.expires_at for entry in self._live.values() if entry.is_idle)
        return min((at for at in deadlines if at < math.inf), default=None)

    # --- requests ---

    def on_request(self, ticket: Ticket, spec: WorkerSpec) -> None:
        """A request wants a worker for this spec."""
        entry = self._live.get(spec.key)
        if self._closed:
            self._effects.refuse(ticket, self._closed)
        elif entry is not None and self._can_serve(entry, spec):
            self._join(ticket, entry)
        else:
            self._queue(ticket, spec, entry)

    def on_cancel(self, ticket: Ticket) -> None:
        """A request that was not granted no longer waits. The last one to leave a load ends it."""
        key = self._keys.pop(ticket, None)
        if key is None:
            return  # it was refused
        claim = self._line.get(key)
        if claim is not None and ticket in claim.tickets:
            self._leave_line(ticket, claim)
        else:
            entry = self._live[key]
            del entry.waiters[ticket]
            if not entry.waiters:
                self._stop(entry)
        self._serve_line()

    def on_release(self, ticket: Ticket, keep_alive_s: float, now: float) -> None:
        """A granted request ended. After a worker's last, it stays keep_alive_s seconds (inf: for ever, 0: leaves)."""
        key = self._keys.pop(ticket, None)
        if key is None:
            return  # its worker went first
        entry = self._live[key]
        entry.leases.remove(ticket)
        if not entry.leases:
            entry.idle_since = now
            entry.expires_at = now + keep_alive_s
            if entry.state is State.READY and (entry.expires_at <= now or self._is_retiring(entry)):
                self._stop(entry)
        self._serve_line()

    # --- workers ---

    def on_ready(self, key: str, resident_bytes: int, n_ctx: int) -> None:
        """A load ended well: the worker really holds resident_bytes, and n_ctx tokens a request."""
        entry = self._live[key]
        if entry.state is State.STOPPING:
            return
        entry.state = State.READY
        entry.n_bytes = resident_bytes
        # A model may give less than was asked; asking again would not make it more.
        entry.n_ctx = max(entry.n_ctx, n_ctx)
        for ticket in entry.waiters:
            self._grant(ticket, entry)
        entry.waiters = {}
        self._evict(self._plan(0))  # it may hold more than it said
        self._serve_line()

    def on_load_failed(self, key: str, error: BeastError) -> None:
        """A load ended without a worker, and no process is left of it."""
        for ticket in self._live[key].waiters:
            self._refuse(ticket, error)
        self._forget(key)

    def on_died(self, key: str) -> None:
        """A loaded worker's process is gone. Its requests learn it from the worker; their leases are void."""
        self._forget(key)

    def on_stopped(self, key: str) -> None:
        """A worker that was told to stop is gone."""
        self._forget(key)

    def on_unload(self, key: str) -> bool:
        """Someone wants the model out: now if it is idle, else when its answers have ended. False: it has no worker."""
        entry = self._live.get(key)
        if entry is None or entry.state is State.STOPPING:
            return False
        entry.is_unloading = True
        if entry.is_idle:
            self._stop(entry)
        return True

    def on_tick(self, now: float) -> None:
        """Time has passed: idle workers whose keep-alive ran out stop."""
        for entry in self._live.values():
            if entry.is_idle and entry.expires_at <= now:
                self._stop(entry)

    def on_close(self, error: BeastError) -> None:
        """Everything ends: who waits is refused with this error, as is who comes later, and every worker stops."""
        self._closed = error
        waiting = [*self._line.values()]
        self._line.clear()
        for claim in waiting:
            self._refuse_all(claim.tickets, error)
        for entry in self._live.values():
            self._refuse_all(entry.waiters, error)
            entry.waiters = {}
            if entry.state is not State.STOPPING:
                self._stop(entry)

    # --- rules ---

    def _is_retiring(self, entry: Entry) -> bool:
        """It takes nobody new: someone unloads it, or a larger one of the same model waits in line."""
        return entry.is_unloading or entry.spec.key in self._line

    def _can_serve(self, entry: Entry, spec: WorkerSpec) -> bool:
        is_staying = entry.state is not State.STOPPING and not self._is_retiring(entry)
        return is_staying and spec.settings.n_ctx <= entry.n_ctx

    def _is_full(self) -> bool:
        """Whether as many requests wait as may: in line, for a load, or for a sequence of a loaded worker."""
        n_in_line = sum(len(claim.tickets) for claim in self._line.values())
        return n_in_line + sum(entry.n_waiting for entry in self._live.values()) >= self._max_queue

    def _plan(self, need_bytes: int, promised_bytes: int = 0) -> policy.Plan:
        tenants = [entry.tenant() for entry in self._live.values()]
        return policy.plan(need_bytes, self._budget_bytes - promised_bytes, tenants)

    # --- steps ---

    def _join(self, ticket: Ticket, entry: Entry) -> None:
        has_slot = entry.state is State.READY and len(entry.leases) < entry.spec.settings.n_parallel
        if not has_slot and self._is_full():
            self._refuse(ticket, refusals.overloaded(entry.spec, self._max_queue))
        elif entry.state is State.READY:
            self._grant(ticket, entry)
        else:
            entry.waiters[ticket] = None
            self._keys[ticket] = entry.spec.key

    def _queue(self, ticket: Ticket, spec: WorkerSpec, entry: Entry | None) -> None:
        need_bytes = memory.need_bytes(spec.shape, spec.settings)
        if need_bytes > self._budget_bytes:
            self._refuse(ticket, refusals.does_not_fit(spec, need_bytes, self._budget_bytes))
            return
        if self._is_full():
            self._refuse(ticket, refusals.overloaded(spec, self._max_queue))
            return
        claim = self._line.setdefault(spec.key, Claim(spec, next(self._orders), need_bytes, {}))
        if spec.settings.n_ctx > claim.spec.settings.n_ctx:
            claim.spec, claim.need_bytes = spec, need_bytes
        claim.tickets[ticket] = None
        self._keys[ticket] = spec.key
        if entry is not None and entry.is_idle:
            self._stop(entry)
        self._serve_line()

    def _serve_line(self) -> None:
        """Start every load in the line that may start, oldest first, and make room for those that may get it.

        Loads behind one that waits for answers to end may pass it, but only into memory that they and it can
        share, so that they never make it wait longer than the answers of today.
        """
        promised_bytes = 0  # comes free soon, and belongs to older loads
        blocked: list[Claim] = []
        for claim in list(self._line.values()):
            entry = self._live.get(claim.spec.key)
            is_in_use = entry is not None and entry.state is not State.STOPPING
            if is_in_use or (blocked and not self._may_pass(claim, blocked, promised_bytes)):
                blocked.append(claim)
                continue
            plan = self._plan(claim.need_bytes, promised_bytes)
            if plan.verdict in (Verdict.WAIT, Verdict.IMPOSSIBLE):
                blocked.append(claim)
            elif plan.verdict is Verdict.START and entry is None:
                self._start(claim)
            else:
                self._evict(plan)
                promised_bytes += claim.need_bytes

    def _may_pass(self, claim: Claim, blocked: list[Claim], promised_bytes: int) -> bool:
        """Whether this load fits beside all those that wait before it and those that have passed them already."""
        passed = (e for e in self._live.values() if e.order > blocked[0].order and e.state is not State.STOPPING)
        beside = sum(e.n_bytes for e in passed) + sum(c.need_bytes for c in blocked) + promised_bytes
        return beside + claim.need_bytes <= self._budget_bytes

    def _start(self, claim: Claim) -> None:
        key = claim.spec.key
        del self._line[key]
        self._live[key] = Entry(claim.spec, claim.order, claim.need_bytes, claim.spec.settings.n_ctx, claim.tickets)
        self._effects.start(claim.spec, claim.need_bytes)

    def _stop(self, entry: Entry) -> None:
        entry.state = State.STOPPING
        self._effects.stop(entry.spec.key)

    def _evict(self, plan: policy.Plan) -> None:
        for key in plan.victims:
            self._stop(self._live[key])

    def _forget(self, key: str) -> None:
        entry = self._live.pop(key)
        for ticket in (*entry.waiters, *entry.leases):
            self._keys.pop(ticket, None)
        self._serve_line()

    def _leave_line(self, ticket: Ticket, claim: Claim) -> None:
        del claim.tickets[ticket]
        if not claim.tickets:
            del self._line[claim.spec.key]

    def _grant(self, ticket: Ticket, entry: Entry) -> None:
        entry.leases.add(ticket)
        self._keys[ticket] = entry.spec.key
        self._effects.grant(ticket, entry.spec.key)

    def _refuse(self, ticket: Ticket, error: BeastError) -> None:
        self._keys.pop(ticket, None)
        self._effects.refuse(ticket, error)

    def _refuse_all(self, tickets: Iterable[Ticket], error: BeastError) -> None:
        for ticket in tickets:
            self._refuse(ticket, error)
