"""The fleet's orders made real: processes started, changed and stopped, their fates reported back, one timer."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beastd import ipc
from beastd.contract import RAM, Priority
from beastd.errors import BeastError, Conflict, LoadFailed, ShuttingDown, from_code
from beastd.fleet import memory
from beastd.fleet.entry import Shape, State, Ticket
from beastd.fleet.fleet import Fleet
from beastd.fleet.footprint import Footprint, ram
from beastd.fleet.journal import Decision
from beastd.fleet.lease import Door, Lease
from beastd.fleet.pins import Pins
from beastd.fleet.process import log_path
from beastd.fleet.roster import Roster
from beastd.fleet.spec import Want, WorkerSpec
from beastd.fleet.status import FleetStatus
from beastd.fleet.view import View
from beastd.fleet.worker import Limits, Worker

ROOM_SHARE = 0.95
"""Of what the system could give: the last bytes of a machine are not to be had without pain."""
LOOK_EVERY_S = 2.0
"""How often what workers really hold, and what other programs left of the memory, is looked at."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says of the fleet."""

    budget: Callable[[], Footprint]
    """What all workers may hold, on the devices known by now."""
    max_queue: int
    limits: Limits
    sleep_after_s: float
    pins: frozenset[str] = frozenset()
    """Names of models that never leave."""
    tiers: ipc.KvTiers | None = None
    """Where KV goes that leaves a worker's cache."""


@dataclass(slots=True)
class Life:
    """A worker, the tasks that follow it, and once it is loaded what it said and took."""

    worker: Worker
    task: asyncio.Task[None]
    load_s: float = 0.0
    changes: set[asyncio.Task[None]] = field(default_factory=set)


class Pool:
    """All workers of the daemon, and the door to them: ``lease``."""

    def __init__(
        self,
        settings: Settings,
        *,
        logs_dir: Path,
        pins_file: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._logs_dir = logs_dir
        self._clock = clock
        self._fleet = Fleet(
            self, Roster(settings.budget()), max_queue=settings.max_queue, sleep_after_s=settings.sleep_after_s
        )
        self._pins = Pins(pins_file)
        self._described: frozenset[str] = frozenset()
        """Models whose description pins them."""
        self._fleet.on_pins(settings.pins | self._pins.names, clock())
        self._tickets = itertools.count()
        self._leases: dict[Ticket, Lease] = {}
        self._lives: dict[int, Life] = {}
        self._view = View(self._fleet, self._lives, self._leases, clock)
        self._timer: asyncio.TimerHandle | None = None

    # --- for the service ---

    def lease(self, want: Want, keep_alive_s: float, priority: Priority = "normal") -> Lease:
        """A hold on a worker for this, which stays keep_alive_s seconds after it (inf: for ever, 0: not)."""
        door = Door(self._enter, self._leave, self._view.look)
        return Lease(next(self._tickets), want, keep_alive_s, door, priority)

    def loaded(self, keys: Sequence[str], n_ctx: int) -> Want | None:
        """What asks for a worker that is there, or loads, and answers with any of these variants and so much context.

        None when there is none: then it has to be found out what a load would take.
        """
        entry = next((entry for key in keys if (entry := self._fleet.roster.staying(key))), None)
        if entry is None or n_ctx > entry.shapes[-1].spec.settings.n_ctx:
            return None
        rungs = {rung.key: rung.with_context(n_ctx) for rung in entry.ladder}
        return Want(tuple(rungs[key] for key in keys)) if rungs.keys() >= set(keys) else None

    async def unload(self, id_: int, *, even_pinned: bool = False) -> bool:
        """Stop this worker: now if it is idle (it is gone on return), else as soon as its answers end.

        False: there is no such worker. Raises Conflict for one that is pinned.
        """
        entry = self._fleet.roster.get(id_)
        if entry is not None and not even_pinned and self._fleet.roster.is_pinned(entry.spec):
            pins = self._fleet.roster.pins
            own = f"{entry.spec.name}@{entry.spec.variant}"
            pin = own if own.lower() in pins else entry.spec.name
            raise Conflict(f"{entry.spec.label} is pinned and stays loaded; `beast unpin {pin}` first")
        is_known = self._fleet.on_unload(id_, self._clock())
        if is_known and self._lives[id_].worker.is_stopping:
            await asyncio.wait([self._lives[id_].task])
        return is_known

    def pin(self, name: str, *, is_pinned: bool) -> None:
        """From now on this model, or variant of it, never leaves; or it may again. Remembered for later daemons.

        Raises Conflict for a model that the configuration pins, when it is to be let go.
        """
        if not is_pinned and name.lower() in {pin.lower() for pin in self._settings.pins}:
            raise Conflict(f"{name} is pinned by the configuration: take it out of `pin` there")
        self._pins.change(name, is_pinned=is_pinned)
        self._tell_pins()

    def on_described(self, name: str, *, is_pinned: bool) -> None:
        """Whether a model's description pins it, as it is now: it may have been edited while the model is loaded."""
        if (name in self._described) is not is_pinned:
            self._described = self._described | {name} if is_pinned else self._described - {name}
            self._tell_pins()

    def _tell_pins(self) -> None:
        self._fleet.on_pins(self._settings.pins | self._pins.names | self._described, self._clock())
        self._arm()

    def detach(self, path: str) -> None:
        """Have every worker free this LoRA adapter's file: it has changed, or is gone."""
        for life in self._lives.values():
            life.worker.detach(path)

    def clear_cache(self, ids: Iterable[int]) -> None:
        """Have these workers forget the KV they keep for later prompts."""
        for id_ in ids:
            if life := self._lives.get(id_):
                life.worker.clear_cache()

    def snapshot(self) -> FleetStatus:
        """The fleet at this moment."""
        return self._view.status()

    async def close(self) -> None:
        """Refuse who waits and who comes, stop every worker, and return when all their processes are gone."""
        self._fleet.on_close(ShuttingDown("Beast is shutting down. Try again when it is back."), self._clock())
        self._arm()
        await asyncio.gather(*[life.task for life in self._lives.values()])

    # --- Effects, for the fleet ---

    def start(self, id: int, spec: WorkerSpec) -> None:  # noqa: A002 - as the protocol has it
        """Start a worker and follow its life."""
        log = log_path(self._logs_dir, spec.label, spec.key)
        worker = Worker(spec, log, self._settings.limits, self._settings.tiers)
        self._lives[id] = Life(worker, _task(self._live(id, worker), f"worker of {spec.label}"))

    def reshape(self, id: int, shape: Shape) -> None:  # noqa: A002
        """Have a worker change in place."""
        life = self._lives[id]
        task = _task(self._change(id, life.worker, shape), f"change of {shape.spec.label}")
        life.changes.add(task)
        task.add_done_callback(life.changes.discard)

    def stop(self, id: int) -> None:  # noqa: A002
        """Tell a worker to end."""
        self._lives[id].worker.stop()

    def grant(self, ticket: Ticket, id: int) -> None:  # noqa: A002
        """Give a request its worker."""
        self._leases[ticket].on_grant(self._lives[id].worker, self._clock())

    def refuse(self, ticket: Ticket, error: BeastError) -> None:
        """Tell a request that it gets none."""
        self._leases[ticket].on_refuse(error)

    def note(self, decision: Decision) -> None:
        """Write a decision to the log."""
        _log.info("fleet: %s %s: %s", decision.act, decision.subject, decision.why)

    # --- a request's way ---

    def _enter(self, lease: Lease) -> None:
        if self._fleet.roster.serving(lease.want) is None:  # it is to have memory; a hot one need not wait for a look
            self._look()
        self._leases[lease.ticket] = lease
        lease.asked_at = self._clock()
        self._fleet.on_request(lease.ticket, lease.want, lease.asked_at, lease.priority)
        self._arm()

    def _leave(self, lease: Lease) -> None:
        del self._leases[lease.ticket]
        if lease.is_granted:
            self._fleet.on_release(lease.ticket, lease.keep_alive_s, self._clock())
        else:
            self._fleet.on_cancel(lease.ticket, self._clock())
        self._arm()

    # --- a worker's life ---

    async def _live(self, id_: int, worker: Worker) -> None:
        """From start to end, reporting both, whatever happens."""
        started_at = self._clock()
        try:
            ready = await worker.load()
        except Exception as error:
            del self._lives[id_]
            self._fleet.on_load_failed(id_, _load_error(worker.spec, error), self._clock())
        else:
            load_s = self._lives[id_].load_s = self._clock() - started_at
            self._fleet.on_ready(
                id_, self._holds(Shape(worker.spec), ready, ready.resident_bytes), load_s, self._clock()
            )
            self._arm()
            await self._serve(id_, worker)
        finally:
            self._arm()

    async def _serve(self, id_: int, worker: Worker) -> None:
        try:
            await worker.serve()
        except Exception:
            _log.exception("unexpected error while %s answered", worker.spec.label)
        finally:
            life = self._lives.pop(id_)
            for task in life.changes:
                task.cancel()
            (self._fleet.on_stopped if worker.is_stopping else self._fleet.on_died)(id_, self._clock())

    async def _change(self, id_: int, worker: Worker, shape: Shape) -> None:
        try:
            reshaped = await worker.reshape(shape.spec, is_asleep=shape.is_asleep)
        except BeastError:
            return  # the process has ended, which _serve reports
        except Exception:
            _log.exception("unexpected error while %s changed; it is stopped", shape.spec.label)
            worker.stop()
            return
        if reshaped.failure is None:
            _log.info("%s changed in %.2f s", shape.spec.label, reshaped.stall_s)
            holds = self._holds(shape, reshaped.ready, reshaped.ready.resident_bytes)
            self._fleet.on_reshaped(id_, holds, self._clock())
        else:
            holds = self._holds(self._fleet.roster[id_].shape, reshaped.ready, reshaped.ready.resident_bytes)
            error = from_code(reshaped.failure.code, reshaped.failure.message)
            self._fleet.on_reshape_failed(id_, error, holds, self._clock())
        self._arm()

    # --- time and memory ---

    def _arm(self) -> None:
        """Set the one timer to the fleet's next deadline; after every event, since each may have moved it."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        deadline = self._fleet.next_deadline()
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - self._clock()), self._tick)

    def _tick(self) -> None:
        self._fleet.on_tick(self._clock())
        self._arm()

    async def watch(self) -> None:
        """Look at the memory for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                if self._lives:
                    self._look()
                    self._arm()
            except Exception:
                _log.exception("unexpected error while looking at the memory")

    def _look(self) -> None:
        """Tell the fleet what there is: the configuration's budget, less what other programs took of it."""
        ours = sum(memory.anon_bytes(life.worker.pid) for life in self._lives.values() if life.worker.pid)
        room_bytes = int((memory.available_ram_bytes() + ours) * ROOM_SHARE)
        budget = self._settings.budget()
        self._fleet.on_budget(Footprint({**budget, RAM: min(budget[RAM], room_bytes)}), self._clock())
        for id_, life in tuple(self._lives.items()):
            entry = self._fleet.roster.get(id_)
            if entry and entry.state is State.READY and life.worker.stats.resident_bytes:
                stats = life.worker.stats
                holds = self._holds(entry.shape, life.worker.ready, stats.resident_bytes, stats.tier_memory_bytes)
                self._fleet.on_measured(id_, holds, self._clock())

    def _holds(self, shape: Shape, ready: ipc.Ready, resident_bytes: int, tier_bytes: int = 0) -> Footprint:
        """What a worker of this shape really holds, or will, where it has not touched yet all that it has got.

        KV in its memory tier (``tier_bytes``) was not computed before: it comes and goes.
        A GPU that no simulation has told of has no budget, so what is on it is nobody's concern.
        """
        known = {device: n for device, n in ready.gpu_bytes.items() if device in self._fleet.roster.budget}
        measured = Footprint({RAM: resident_bytes, **known})
        return measured.or_more(shape.expected + ram(tier_bytes)) if shape.spec.is_exact else measured


def _load_error(spec: WorkerSpec, error: Exception) -> BeastError:
    if isinstance(error, BeastError):
        return error
    _log.error("unexpected error while loading %s", spec.label, exc_info=error)
    return LoadFailed(f"{spec.label} failed to load: Beast has a bug, and the error is in the daemon's log")


def _task(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    return asyncio.create_task(work, name=name)
